"""What cannot pass with so many prompts, whatever the model does: said before anything is generated."""

from __future__ import annotations

from collections.abc import Iterator

from kilter.evaluation.metrics import facts_of
from kilter.release.gate.policy import MEANS, Condition, Policy, base_name
from kilter.statistics import BOUNDED, SHARE, UNBOUNDED, n_to_certify, n_to_show_no_change


def power_warnings(policy: Policy, n_prompts: int) -> list[str]:
    """Conditions that cannot pass with this many prompts, whatever the model does.

    Run before anything is generated.
    """
    return [
        f"{c.text()}: {why}" for c in policy.conditions if c.bound not in MEANS for why in _why(c, n_prompts)
    ]


def _why(condition: Condition, n: int) -> Iterator[str]:
    """Why one condition cannot pass; nothing where it can."""
    if n < condition.min_n:
        yield f"min_n is {condition.min_n}, there are {n} prompts"
    facts = facts_of(base_name(condition.metric))
    if facts is None:
        return
    ends = facts.ends
    alone = facts.aggregate == "proportion" and not condition.paired
    fewest = UNBOUNDED if ends is None else SHARE if alone else BOUNDED
    if n < fewest:
        yield f"an interval of its kind decides from {fewest} prompts on (there are {n})"
    elif ends is not None:
        needed = needed_at_best(condition, ends[0], ends[1])
        if needed is not None and n < needed:
            best = "with models that never differ" if condition.paired else "with no event at all"
            yield f"even {best} it needs {needed} prompts (there are {n})"


def needed_at_best(condition: Condition, lowest: float, highest: float) -> int | None:
    """Prompts that the best possible outcome needs; None where the condition asks for a difference.

    Args:
        condition: of a metric with ends.
        lowest: that the metric can be.
        highest: the same.
    """
    span, below = highest - lowest, condition.op.startswith("<")
    if condition.paired:
        margin = condition.value if below else -condition.value
        return n_to_show_no_change(margin, span) if 0 < margin < span else None
    limit = condition.value - lowest if below else highest - condition.value
    return n_to_certify(limit / span) if 0 < limit < span else None
