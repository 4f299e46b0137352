"""What cannot pass with so many prompts, whatever the model does: said before anything is generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kilter.evaluation.independent import counted, together
from kilter.evaluation.metrics import MetricFacts, facts_of
from kilter.release.gate.policy import MEANS, Condition, Policy, base_name
from kilter.statistics import BOUNDED, CLUSTERS, SHARE, UNBOUNDED, n_to_certify, n_to_show_no_change
from kilter.types import Prompt

Asked = Mapping[str, Sequence[Prompt]]


def power_warnings(policy: Policy, asked: Asked) -> list[str]:
    """Conditions that cannot pass on these prompts, whatever the model does.

    Run before anything is generated.

    Args:
        policy: what must hold.
        asked: what an evaluation will ask: prompts, probes, tasks, demonstrations, pairs. What is not there
            is not known yet.
    """
    known = together(p for prompts in asked.values() for p in prompts)
    found = []
    for condition in policy.conditions:
        facts = facts_of(base_name(condition.metric))
        if condition.bound in MEANS or facts is None:
            continue
        prompts = _counting(condition.metric, facts, asked)
        if prompts is not None:
            reasons = _why(condition, facts, len(prompts), counted(prompts, known))
            found += [f"{condition.text()}: {why}" for why in reasons]
    return found


def _counting(name: str, facts: MetricFacts, asked: Asked) -> list[Prompt] | None:
    """The prompts that a metric, or the part of one, counts; None where nobody knows yet."""
    if not any(part in asked for part in facts.over):
        return None
    prompts = [p for part in facts.over for p in asked.get(part, ())]
    if facts.subset is not None:
        prompts = [p for p in prompts if facts.subset(p)]
    part = name.removeprefix(f"{facts.name}.")
    if part != name and facts.slices is not None:
        prompts = [p for p in prompts if part in facts.slices(p)]
    return prompts


def _why(condition: Condition, facts: MetricFacts, n: int, alone: int) -> Iterator[str]:
    """Why one condition cannot pass; nothing where it can.

    Args:
        condition: of the policy.
        facts: of its metric.
        n: prompts that it counts.
        alone: independent ones among them.
    """
    there = f"it counts {n} prompts" + f", of which {alone} are independent" * (alone < n)
    if n < condition.min_n:
        yield f"min_n is {condition.min_n}, and {there}"
    ends = facts.ends
    share = facts.aggregate == "proportion" and not condition.paired
    fewest = UNBOUNDED if ends is None else CLUSTERS if alone < n else SHARE if share else BOUNDED
    if alone < fewest:
        yield f"an interval of its kind decides from {fewest} on, and {there}"
    elif ends is not None:
        needed = needed_at_best(condition, ends[0], ends[1])
        if needed is not None and alone < needed:
            best = "with models that never differ" if condition.paired else "with no event at all"
            yield f"even {best} it needs {needed}, and {there}"


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
