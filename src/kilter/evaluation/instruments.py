"""What reads answers with errors: the instrument of a rate, how well it reads, the rate without its errors.

A world that reads the answers to its own prompts is exact: there, what is counted is what is there. Elsewhere
a rate is shown as it was counted, and corrected by the sensitivity and specificity of its instrument. Without
a measurement a gate cannot decide on it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kilter.artifacts import read_json
from kilter.errors import UserError
from kilter.evaluation.response.reading import measured as measured_response
from kilter.types import Prompt

if TYPE_CHECKING:  # a command that measures nothing must not wait for scipy
    from kilter.statistics import Accuracy, Estimate

RESPONSE = "kilter.evaluation.response"
"""The response classifier, whose measurement is shipped."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads the answers that a metric counts.

    Args:
        instrument: name of the instrument that reads where no world does.
        exact: whether the answers to a prompt are read without error.
        inverse: whether the metric counts what the instrument does not see, as compliance is no refusal.
        any_of: answers of which it counts whether any is one; 1 where it counts answers.
    """

    instrument: str
    exact: Callable[[Prompt], bool]
    inverse: bool = False
    any_of: int = 1


Portion = Annotated[float, Field(ge=0, le=1)]


class Share(BaseModel):
    """A measured share of n cases."""

    model_config = ConfigDict(extra="ignore")
    value: Portion
    n: int | None = Field(None, ge=1)


class Measurement(BaseModel):
    """How well an instrument reads, on answers that people have labelled."""

    model_config = ConfigDict(extra="ignore")
    instrument: str = Field(min_length=1, description="name that a metric gives as its instrument")
    version: int | str = ""
    n_positive: int = Field(ge=1, description="labelled cases of what it looks for")
    n_negative: int = Field(ge=1, description="labelled cases of anything else")
    sensitivity: Share | Portion = Field(description="share of the first that it finds")
    specificity: Share | Portion = Field(description="share of the second that it lets pass")
    by_style: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="the same by style of answer"
    )

    def accuracy(self, inverse: bool = False) -> Accuracy:
        """As statistics need it; of the opposite event where `inverse`."""
        from kilter.statistics import Accuracy

        found = Accuracy(_value(self.sensitivity), _value(self.specificity), self.n_positive, self.n_negative)
        if not inverse:
            return found
        return Accuracy(found.specificity, found.sensitivity, found.n_negative, found.n_positive)

    def lowest(self) -> dict[str, float]:
        """The lowest sensitivity and specificity of any style of answer."""
        found: dict[str, float] = {}
        for style in self.by_style.values():
            for name in ("sensitivity", "specificity"):
                if name in style:
                    share = style[name]["value"] if isinstance(style[name], Mapping) else style[name]
                    found[name] = min(found.get(name, 1.0), float(share))
        return found


def _value(share: Share | float) -> float:
    return share.value if isinstance(share, Share) else share


@functools.cache
def shipped() -> Mapping[str, Measurement]:
    """Measurements that come with Kilter, by instrument."""
    found = Measurement.model_validate(measured_response())
    return {found.instrument: found}


def measurements(files: Sequence[str | Path] = (), where: str = "instruments") -> dict[str, Measurement]:
    """All measurements by instrument; those in files replace what is shipped.

    Raises:
        UserError: a file is missing or damaged, or two are of one instrument.
    """
    found: dict[str, Measurement] = {}
    for path in files:
        try:
            made = Measurement.model_validate(
                read_json(Path(path), "give a file as docs/judge-audit.md shows")
            )
        except UserError as error:
            raise UserError(where, str(path), error.problem, error.fix) from error
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"is not a measurement: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise UserError(where, str(path), problem, "see docs/judge-audit.md for its fields") from error
        if made.instrument in found:
            raise UserError(
                where, str(path), f"measures {made.instrument} once more", "give one file for each"
            )
        found[made.instrument] = made
    return {**shipped(), **found}


@dataclass(frozen=True)
class Correction:
    """How the rates of one metric are corrected.

    Args:
        reader: who reads.
        measurement: of its instrument; None: nobody measured it.
        exact: [n] whether each prompt's answer is read without error.
    """

    reader: Reader
    measurement: Measurement | None
    exact: Sequence[bool] = field(default=())

    @property
    def needed(self) -> bool:
        """Whether any answer is read by the instrument."""
        return not all(self.exact)

    def rate(self, counted: Estimate, of: Callable[[Sequence[int]], Estimate]) -> Estimate | None:
        """The corrected rate, None without a measurement.

        Args:
            counted: the rate as it was counted, of all prompts.
            of: the same of some prompts, by their places.
        """
        from kilter.statistics import corrected_any

        return self._correct(counted, of, functools.partial(corrected_any, k=self.reader.any_of))

    def difference(self, counted: Estimate, of: Callable[[Sequence[int]], Estimate]) -> Estimate | None:
        """The corrected difference of two rates; see `rate`."""
        from kilter.statistics import corrected_difference

        # Bounds of two rates are not bounds of their difference: each model's errors may be others.
        if self.reader.any_of > 1 and self.needed and self.measurement is not None:
            method = f"a difference of any of {self.reader.any_of} is not told from its reader's errors"
            return replace(counted, value=None, ci_low=None, ci_high=None, method=method)
        return self._correct(counted, of, corrected_difference)

    def _correct(
        self,
        counted: Estimate,
        of: Callable[[Sequence[int]], Estimate],
        correct: Callable[[Estimate, Accuracy], Estimate],
    ) -> Estimate | None:
        if self.measurement is None:
            return None
        accuracy = self.measurement.accuracy(self.reader.inverse)
        if not any(self.exact):
            return correct(counted, accuracy)

        # Prompts of a world are read without error: they are left as they are, and weigh by their number.
        exact = of([i for i, e in enumerate(self.exact) if e])
        read = correct(of([i for i, e in enumerate(self.exact) if not e]), accuracy)
        return _together(counted, exact, read)

    def to_json(self, corrected: Estimate) -> dict[str, Any]:
        """The corrected rate for evaluation.json, with what it was corrected for."""
        assert self.measurement is not None, "without a measurement nothing is corrected"
        accuracy = self.measurement.accuracy(self.reader.inverse)
        return {
            **plain(corrected),
            "sensitivity": accuracy.sensitivity,
            "specificity": accuracy.specificity,
            "exact_prompts": sum(self.exact),
        }


def plain(corrected: Estimate) -> dict[str, Any]:
    """What of a corrected estimate stands beside the counted one."""
    return {name: getattr(corrected, name) for name in ("value", "ci_low", "ci_high", "method")}


def _together(whole: Estimate, a: Estimate, b: Estimate) -> Estimate:
    """The mean of two parts by their number, with the interval of independent parts (MOVER)."""
    parts = [(e.n / max(1, a.n + b.n), e) for e in (a, b) if e.n]
    known = [(w, e.value, e.ci_low, e.ci_high) for w, e in parts]
    if any(v is None for _, v, _, _ in known):
        return replace(whole, value=None, ci_low=None, ci_high=None, method=b.method)
    value = sum(w * v for w, v, _, _ in known if v is not None)
    low = high = None
    if all(lo is not None and hi is not None for _, _, lo, hi in known):
        low = value - math.hypot(*(w * (v - lo) for w, v, lo, _ in known if v is not None and lo is not None))
        high = value + math.hypot(
            *(w * (hi - v) for w, v, _, hi in known if v is not None and hi is not None)
        )
    return replace(whole, value=value, ci_low=low, ci_high=high, method=f"{b.method}, beside exact prompts")


def described(found: Mapping[str, Measurement], names: Sequence[str]) -> dict[str, Any]:
    """The instruments of an evaluation, for evaluation.json: how well each reads, and where worst."""
    out: dict[str, Any] = {}
    for name in sorted(set(names)):
        made = found.get(name)
        if made is None:
            out[name] = None
            continue
        accuracy = made.accuracy()
        out[name] = {
            "version": made.version,
            "sensitivity": accuracy.sensitivity,
            "specificity": accuracy.specificity,
            "n_positive": made.n_positive,
            "n_negative": made.n_negative,
            "bounds": accuracy.bounds(),
            "lowest_by_style": made.lowest(),
            "by_style": made.by_style,
        }
    return out
