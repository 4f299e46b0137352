"""Whether a reward model means its margins: how often it is right where it says so with some probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered

if TYPE_CHECKING:  # a command that measures nothing must not wait for scipy
    from kilter.statistics import Estimate


def _stated(item: Answered) -> tuple[float | None, bool]:
    """P(first answer is the better one) = sigmoid(margin), and whether it is; drawn which answer is first.

    If the chosen answer always stood first, a model that always says "first" would be calibrated. The draw
    rests on the texts alone, so that the order of pairs does not matter.
    """
    chosen, rejected = (f.score for f in item.feedback["reward"])
    texts = "\0".join(a.text for a in item.answers)
    first = sha256(f"{item.prompt.text}{item.prompt.messages}\0{texts}".encode()).digest()[0] % 2 == 0
    if chosen is None or rejected is None:
        return None, first
    margin = max(-700.0, min(700.0, chosen - rejected))
    return 1 / (1 + math.exp(-margin if first else margin)), first


def _all(items: Sequence[Answered]) -> tuple[list[float], list[bool]]:
    both = [_stated(item) for item in items]
    return [math.nan if p is None else p for p, _ in both], [first for _, first in both]


@metric(
    "reward_model.ece",
    title="Reward-model calibration error",
    unit="probability",
    better="lower",
    aggregate="corpus",
    needs={"reward"},
    over=("pairs",),
)
class CalibrationError:
    """Expected calibration error of sigmoid(margin) over 15 bins, the sides of each pair drawn at random."""

    def over_corpus(self, items: Sequence[Answered]) -> Estimate:
        """The plain value; its method says what chance would give a calibrated model."""
        from kilter.statistics import expected_calibration_error

        return expected_calibration_error(*_all(items))


@metric(
    "reward_model.brier",
    title="Reward-model Brier score",
    unit="squared probability",
    better="lower",
    aggregate="rate",
    needs={"reward"},
    over=("pairs",),
    paired=False,
)
class Brier:
    """Mean squared error of sigmoid(margin) as the probability of the better answer; a coin has 0.25."""

    def per_prompt(self, item: Answered) -> float | None:
        """0 sure and right, 1 sure and wrong; unscored where either answer is."""
        stated, better = _stated(item)
        return None if stated is None else (stated - better) ** 2
