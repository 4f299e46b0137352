"""Metric names and thresholds of a policy, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from kilter.errors import UserError, nearest
from kilter.evaluation.metrics import MetricFacts
from kilter.release.gate.policy import Condition, Policy


def check_known(policy: Policy, reported: Mapping[str, MetricFacts], field: str) -> None:
    """Raises UserError for a condition that the evaluation can never meet.

    Args:
        policy: what must hold.
        reported: the metrics that the evaluation will report, with what is declared of each.
        field: of the policy, for messages.
    """
    for condition in policy.conditions:
        facts = _facts(condition, reported, field)
        for name in condition.requires:
            _known(name, reported, f"{field}.requires")
        if condition.paired and not facts.paired:
            problem = "has no difference to the baseline: it is one, or is of a whole corpus"
            fix = f"write bound: {condition.field}"
            raise UserError(field, condition.text(), problem, fix)
        _check_value(condition, facts, field)


def _facts(condition: Condition, reported: Mapping[str, MetricFacts], field: str) -> MetricFacts:
    name = condition.metric
    facts = _known(name, reported, field)
    if condition.paired and name.startswith("reward_model.") and not facts.paired:
        problem = "is about the reward model itself, which has no baseline"
        fix = f"write bound: {condition.field}, or name two reward models without models"
        raise UserError(field, condition.text(), problem, fix)
    return facts


def _known(name: str, reported: Mapping[str, MetricFacts], field: str) -> MetricFacts:
    """The metric of this name, or of which it is a part."""
    whole = reported.get(name)
    if whole is None:
        whole = reported.get(name.partition(".")[0])
        whole = whole if whole is not None and whole.slices is not None else None
    if whole is None:
        problem = "is not a metric that the evaluation will report"
        hint = nearest(name, reported, none="As it stands it reports nothing")
        fix = f"add what it needs to the evaluate stage (docs/gate.md). {hint[:1].upper()}{hint[1:]}"
        raise UserError(field, name, problem, fix)
    return whole


def _check_value(condition: Condition, facts: MetricFacts, field: str) -> None:
    """A threshold beyond the ends of the scale decides nothing: it always holds, or never does."""
    ends = facts.ends
    if ends is None:
        return
    span = ends[1] - ends[0]
    low, high = (-span, span) if condition.paired else ends
    if not low <= condition.value <= high:
        problem = f"lies outside {low:g} to {high:g}, where {facts.unit} can be"
        hint = "; a share of 2 % is 0.02" if condition.value > 1 else ""
        raise UserError(field, condition.text(), problem, f"give a value within them{hint}")
    strict = (condition.op == ">" and condition.value == high) or (
        condition.op == "<" and condition.value == low
    )
    if strict:
        raise UserError(
            field, condition.text(), "can never hold", f"give a value between {low:g} and {high:g}"
        )
