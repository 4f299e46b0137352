"""What must hold for a release: conditions, waivers, and the policies that come with Kilter."""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kilter.errors import UserError, nearest
from kilter.evaluation.metrics import facts_of
from kilter.refs import POLICIES, looks_like_stage
from kilter.validation import as_user_error, load_yaml, with_fix

SHIPPED = Path(__file__).parent / "policies"
Bound = Literal["ci_low", "ci_high", "value", "diff_ci_low", "diff_ci_high", "diff_value"]
Op = Literal[">", ">=", "<", "<="]
OPS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
PAIRED = "diff_"
MEANS = ("value", "diff_value")
CAUTIOUS: dict[str, tuple[str, str]] = {">": ("ci_low", "ci_high"), "<": ("ci_high", "ci_low")}
"""First sign of an operator -> the bound that it is safe with, and the one that flatters."""


class Waiver(BaseModel):
    """Who lets a failing condition pass, why, and until when."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    owner: str = Field(min_length=1, description="person who answers for it")
    reason: str = Field(min_length=1, description="why it may pass")
    expires: dt.date = Field(description="last day on which it holds, YYYY-MM-DD")


class Condition(BaseModel):
    """`bound` of `metric` `op` `value`, or no worse than the baseline by more than `margin`.

    diff_* bounds are those of the paired difference to the baseline.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    metric: str = Field(description="a metric of evaluation.json, or reward_model.accuracy")
    bound: Bound = Field("value", description="which number is compared")
    op: Op = Field(">=", description="comparison")
    value: float = Field(0.0, description="what it is compared with, in the metric's unit")
    margin: float | None = Field(
        None,
        ge=0,
        description="how much worse than the baseline it may be, in place of bound, op and value",
    )
    min_n: int = Field(1, ge=1, description="with fewer scored prompts the condition is inconclusive")
    max_unscored: float = Field(
        0.02, ge=0, le=1, description="with a larger unscored share the condition is inconclusive"
    )
    severity: Literal["fail", "warn"] = Field(
        "fail", description="warn: a failure is reported, and does not fail the gate"
    )
    requires: list[str] = Field(
        default_factory=list, description="metrics that must be present for this one to count"
    )
    family: str | None = Field(
        None, description="claims of one family are corrected together by Holm; default: it stands alone"
    )
    waiver: Waiver | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """A margin stands for bound, op and value; else all three are there, and the bound is safe."""
        given = self.model_fields_set
        if self.margin is not None:
            self._from_margin(given)
            return self
        missing = [name for name in ("bound", "op", "value") if name not in given]
        if missing:
            problem = f"lacks {', '.join(missing)}"
            raise with_fix(UserError("", self.metric, problem, "write bound, op and value, or a margin"))
        safe, flatters = CAUTIOUS[self.op[0]]
        if self.bound.removeprefix(PAIRED) == flatters:
            problem = "reads the bound that flatters: it holds where the truth may not"
            right = self.bound.replace(flatters, safe)
            raise with_fix(UserError("", self.text(), problem, f"write bound: {right}"))
        return self

    def _from_margin(self, given: set[str]) -> None:
        """Fills bound, op and value in, as the metric's direction says."""
        facts = facts_of(self.metric.partition(".")[0]) or facts_of(self.metric)
        if given & {"bound", "op", "value"}:
            problem = "has a margin and a bound, op or value"
            raise with_fix(UserError("", self.metric, problem, "keep one of the two"))
        # Two reward models are compared on the pairs that both read.
        alone = self.metric.startswith("reward_model.") and facts is not None and facts.aggregate != "corpus"
        if facts is None or facts.better is None or not (facts.paired or alone):
            problem = "has no direction, or no difference to a baseline, for a margin"
            fix = "write bound, op and value, such as diff_ci_high <= 20"
            raise with_fix(UserError("", self.metric, problem, fix))
        assert self.margin is not None
        higher = facts.better == "higher"
        self.bound = "diff_ci_low" if higher else "diff_ci_high"
        self.op = ">=" if higher else "<="
        self.value = -self.margin if higher else self.margin

    @property
    def paired(self) -> bool:
        """Whether it is about the difference to the baseline."""
        return self.bound.startswith(PAIRED)

    @property
    def field(self) -> str:
        """Which number of an estimate it reads."""
        return self.bound.removeprefix(PAIRED)

    def text(self) -> str:
        """'gold diff_ci_low > 0'."""
        plain = f"{self.metric} {self.bound} {self.op} {self.value:g}"
        return plain if self.margin is None else f"{plain} (no worse by {self.margin:g})"


class Policy(BaseModel):
    """What must hold for a release."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    conditions: list[Condition] = Field(min_length=1, description="all of them must pass")
    name: str = Field("release", description="shown in the report")
    why: str = Field("", description="what the policy is for, in a sentence")
    certificate: str | None = Field(
        None, description="judge.json of `kilter audit-judge`, for metrics that rest on that judge"
    )

    unmeasured_leakage: Waiver | None = Field(
        None,
        description="lets an evaluation pass of which nobody knows whether it was trained on: an imported "
        "one, or that of a model from the Hub; prompts that were found in training data fail all the same",
    )

    def means(self) -> list[str]:
        """Conditions that read a mean, which says nothing of how sure it is."""
        return [c.text() for c in self.conditions if c.bound in MEANS]

    def not_asked(self) -> list[str]:
        """What nobody would ship without having looked: which of it no condition is about."""
        asked = {facts.guards for c in self.conditions if (facts := facts_of(base_name(c.metric)))}
        return [guard for guard in GUARDS if guard not in asked]


GUARDS = {
    "over-refusal": "over_refusal",
    "length": "length",
    "tax": "tax_nll",
}
"""What a gain is often bought with, and a metric that would show it."""


def base_name(metric: str) -> str:
    """The metric of which this is a part, such as over_refusal of over_refusal.violence."""
    return metric if facts_of(metric) is not None else metric.partition(".")[0]


def shipped() -> list[str]:
    """Names of the policies that come with Kilter."""
    return list(POLICIES)


def load_policy(source: str | Path | Mapping[str, Any], field: str = "gate.policy") -> Policy:
    """A shipped policy by its name, one from a YAML file, or one from plain data."""
    if isinstance(source, str | Path):
        source = _read(str(source), field)
    try:
        return Policy.model_validate(source)
    except ValidationError as error:
        raise as_user_error(error, field, Policy) from error


def _read(source: str, field: str) -> Any:
    """What stands in a file. Raises UserError where there is none, or it is not YAML."""
    path = SHIPPED / f"{source}.yaml" if source in POLICIES else Path(source)
    if not path.is_file():
        bare = looks_like_stage(source)
        fix = nearest(source, POLICIES) if bare else "give a YAML file with conditions: [...]"
        raise UserError(field, source, "names no policy file", fix)
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = f"is not YAML ({str(error).splitlines()[0]})"
        raise UserError(field, str(path), problem, "check indentation and colons") from error


def refuse_means(policy: Policy, field: str, allowed: bool) -> None:
    """Raises UserError for a condition on a mean that nobody has allowed."""
    if policy.means() and not allowed:
        raise UserError(
            field,
            policy.means()[0],
            "compares a mean, which says nothing of how sure it is",
            "write bound: ci_low or ci_high, or allow it: --allow-means, in a recipe allow_means: true",
        )
