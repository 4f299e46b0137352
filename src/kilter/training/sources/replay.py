"""Old rollouts as data: what a groups.jsonl of an earlier run must hold to be trained on again."""

from __future__ import annotations

from collections.abc import Sequence

from kilter.batch import Needs
from kilter.errors import UserError
from kilter.types import Group


def replayable(groups: Sequence[Group], needs: Needs) -> list[Group]:
    """Scored rollouts among the groups (a groups.jsonl of an earlier run); an error when there are none."""
    # An unscored answer has no advantage, and its siblings no baseline.
    kept = [g for g in groups if g.completions and all(f.score is not None for f in g.feedback)]
    if "greedy_score" in needs.annotations:
        kept = [g for g in kept if g.prompt.metadata.get("greedy_score") is not None]
        if not kept:
            raise UserError(
                "data",
                f"{len(groups)} groups",
                "holds no scores of greedy answers, which this method needs",
                "give the groups.jsonl of a run of this method, or use another one",
            )
    # Demonstrations and pairs look alike, but nobody sampled them.
    if not any(len(g.completions) > 1 for g in kept):
        raise UserError(
            "data",
            f"{len(groups)} groups",
            "holds no scored rollouts (several completions per prompt, each with a score)",
            "give prompts and feedback to sample them, or the groups.jsonl of an earlier run as data",
        )
    return kept


def sampled_at(groups: Sequence[Group], default: float) -> float:
    """The temperature at which old rollouts were drawn, where they say so; one for all of them."""
    found = {float(t) for g in groups if (t := g.prompt.metadata.get("sampled_at")) is not None}
    # One temperature is one distribution: log-probs of two cannot stand in one ratio.
    if len(found) > 1:
        raise UserError(
            "data",
            sorted(found),
            "holds rollouts of several temperatures",
            "train on those of one run at a time",
        )
    return found.pop() if found else default
