"""Win rates as they would be if both answers were equally long, or looked alike.

Each win rate has two of these. They have no value where one side nearly always has more of a feature: the
method then says `not_identified`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kilter.evaluation.metrics.judge_win_rate import JudgeWinRate
from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.metrics.win_rate import WinRateGold, WinRateReward
from kilter.evaluation.style import MARKS, length, normalised
from kilter.types import Answered

if TYPE_CHECKING:  # a command that measures nothing must not wait for scipy
    from kilter.statistics import Estimate

Rates = Sequence[float | None]


def _at_equal_length(items: Sequence[Answered], wins: Rates, clusters: Sequence[Any]) -> Estimate:
    """By a logistic regression on the difference of lengths (Dubois et al. 2024)."""
    from kilter.statistics import length_controlled_win_rate

    longer = [
        None
        if item.baseline is None or not item.baseline.answers
        else float(length(item.answers[0]) - length(item.baseline.answers[0]))
        for item in items
    ]
    return length_controlled_win_rate(wins, longer, clusters)


def _at_equal_style(items: Sequence[Answered], wins: Rates, clusters: Sequence[Any]) -> Estimate:
    """By a logistic regression on normalised differences, as LMArena has them."""
    from kilter.statistics import style_controlled_win_rate

    looks: list[Mapping[str, float] | None] = [
        None
        if item.baseline is None or not item.baseline.answers
        else normalised(item.answers[0], item.baseline.answers[0])
        for item in items
    ]
    ratios = {name: [None if look is None else look[name] for look in looks] for name in ("length", *MARKS)}
    return style_controlled_win_rate(wins, {}, clusters, ratios)


@dataclass(frozen=True, slots=True)
class Control:
    """What is held equal. suffix: of the metric's name. what, words: of its title and its sentence."""

    suffix: str
    what: str
    words: str
    estimate: Callable[[Sequence[Answered], Rates, Sequence[Any]], Estimate]


CONTROLS = (
    Control("lc", "length", "if both answers were equally long", _at_equal_length),
    Control("sc", "style", "if both answers had the same length and markdown", _at_equal_style),
)


def controlled(plain: type[Any], control: Control) -> type[Any]:
    """Registers a win rate as it would be at equality.

    Args:
        plain: the class of the win rate.
        control: what is held equal.
    """
    facts = plain.facts

    class Controlled:
        def over_corpus(self, items: Sequence[Answered]) -> Estimate:
            wins = [plain().per_prompt(item) for item in items]
            clusters = [item.cluster or f"alone {i}" for i, item in enumerate(items)]
            return control.estimate(items, wins, clusters)

    Controlled.__name__ = Controlled.__qualname__ = f"{plain.__name__}{control.suffix.upper()}"
    Controlled.__doc__ = f"{(plain.__doc__ or '').strip().rstrip('.')}, {control.words}."
    declare = metric(
        f"{facts.name}_{control.suffix}",
        title=f"{facts.title} at equal {control.what}",
        unit=facts.unit,
        better=facts.better,
        aggregate="corpus",
        needs=set(facts.needs),
        judge=facts.judge,
    )
    return declare(Controlled)


for _plain in (WinRateGold, WinRateReward, JudgeWinRate):
    for _control in CONTROLS:
        controlled(_plain, _control)
