"""Which completions of a scored group train. Unscored ones never do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from kilter.batch import Needs
from kilter.types import Group

Order = Sequence[int]
Scores = Mapping[int, float]


def _all(order: Order, scores: Scores) -> Order:
    return order


def _best(order: Order, scores: Scores) -> Order:
    return [max(order, key=scores.__getitem__)] if order else []


def _best_and_worst(order: Order, scores: Scores) -> Order:
    """A tie is no pair."""
    if not order:
        return []
    best, worst = max(order, key=scores.__getitem__), min(order, key=scores.__getitem__)
    return [best, worst] if scores[best] > scores[worst] else []


def _unless_constant(order: Order, scores: Scores) -> Order:
    return order if len(set(scores.values())) > 1 else []


RULES: dict[str, Callable[[Order, Scores], Order]] = {
    "all": _all,
    "best_of": _best,
    "best_worst": _best_and_worst,
    "drop_constant": _unless_constant,
}
"""Values of `select` but for auto: scored rows and their scores to the rows that train, in the order of the
group.
"""


def choose_select(select: str, needs: Needs) -> str:
    """What "auto" means: the rule that gives the method its shape.

    Policy gradients, rankings and distillation take all rollouts, imitation the best one, pairs best against
    worst.
    """
    # What a user asks for stands, and checks.py refuses what cannot work.
    if select != "auto":
        return select
    if needs.shape == "rollouts":
        return "best_worst" if needs.unit == "group" and needs.opponent is None else "all"
    if needs.teacher:
        return "all"
    return {"demonstrations": "best_of", "pairs": "best_worst"}.get(needs.shape, "all")


def selected(group: Group, rule: str, ranked: bool) -> Group | None:
    """The group with the completions that train, None where none does. `ranked`: best first, and no ties."""
    # Missing is not zero: an unscored answer is neither best nor worst.
    order: Order = [i for i, f in enumerate(group.feedback) if f.score is not None]
    scores = {i: group.feedback[i].score or 0.0 for i in order}
    if ranked:
        order = _ranking(order, scores)
    order = RULES[rule](order, scores)
    if not order:
        return None
    return replace(
        group,
        completions=tuple(group.completions[i] for i in order),
        feedback=tuple(group.feedback[i] for i in order),
    )


def _ranking(order: Order, scores: Scores) -> Order:
    """Best first, one row per score; a single row ranks nothing."""
    # Equal scores rank nothing: the first of them stands for all.
    best_first = sorted(order, key=lambda i: -scores[i])
    kept = [i for n, i in enumerate(best_first) if n == 0 or scores[i] < scores[best_first[n - 1]]]
    return kept if len(kept) > 1 else []
