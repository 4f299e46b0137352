"""What a metric that was asked for by its name does not have: the setting that would bring it.

The standard set takes what there is. A name of its own is a wish, and is refused if nothing can fulfil it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kilter.data.worlds.registry import world_of
from kilter.evaluation import metrics
from kilter.evaluation.config import EvaluateSpec
from kilter.evaluation.references import references
from kilter.types import Group, Prompt

Lack = tuple[str, str]
"""(setting, what it should bring)."""

SETTINGS: dict[str, tuple[str, str, Callable[[EvaluateSpec], bool]]] = {
    "reward": ("reward_model", "a reward model", lambda s: s.reward_model is not None),
    "judge": ("judge", "a judge", lambda s: s.judge is not None),
    "preferred": ("preferred", "what people preferred", lambda s: bool(s.preferred)),
    "baseline": ("models", "a second model to compare with", lambda s: len(s.models) > 1),
    "reference_logps": ("models", "a second model to compare with", lambda s: len(s.models) > 1),
    "logps": ("sampler", "weights that are here", lambda s: not s.asks_endpoint),
    "entropy": ("sampler", "weights that are here", lambda s: not s.asks_endpoint),
    "pair_logps": ("sampler", "weights that are here", lambda s: not s.asks_endpoint),
}
"""What a metric may need -> the setting, what it should bring, and whether it does."""


def named(spec: EvaluateSpec) -> list[metrics.Measure]:
    """The metrics that were asked for by their own names."""
    return [metrics.resolve([entry])[0] for entry in spec.metrics if entry != "standard"]


def in_settings(spec: EvaluateSpec) -> Iterator[tuple[str, Lack]]:
    """(metric, lack) of what the settings alone do not bring."""
    for measure in named(spec):
        for need in sorted(measure.facts.needs & SETTINGS.keys()):
            field, what, given = SETTINGS[need]
            if not given(spec):
                yield measure.facts.name, (field, what)
        if measure.facts.over == ("demonstrations",):
            if spec.tax is None:
                yield measure.facts.name, ("tax", "demonstrations of other skills")
            elif spec.asks_endpoint:
                yield measure.facts.name, ("sampler", "weights that are here")


def in_data(
    spec: EvaluateSpec,
    prompts: Sequence[Prompt],
    probes: Sequence[Prompt],
    tasks: Sequence[Prompt],
    pairs: Sequence[Group],
) -> Iterator[tuple[str, Lack]]:
    """(metric, lack) of what no row brings.

    Args:
        prompts: those that are asked.
        probes: of the probe sets.
        tasks: of the task suites; none: the prompts are the tasks.
        pairs: held-out pairs.
    """
    asked = {"prompts": prompts, "probes": probes, "tasks": tasks or prompts}
    for measure in named(spec):
        facts = measure.facts
        for need, (field, what, given) in DATA.items():
            if need in facts.needs and not given(spec, prompts):
                yield facts.name, (field, what)
        if facts.over == ("pairs",) and not pairs:
            yield facts.name, ("data", "held-out pairs")
        counted = [p for part in facts.over for p in asked.get(part, ())]
        if "tasks" in facts.over and not any(references(p, _key(measure)) for p in counted):
            yield facts.name, ("tasks", f"a right answer in the column {_key(measure)}")
        if facts.subset is not None and counted and not any(map(facts.subset, counted)):
            field = "probes" if "probes" in facts.over else "data"
            labelled = field == "data" or any("safety" in p.metadata for p in counted)
            what = "of the kind that it counts" if labelled else "that data.safety calls safe or unsafe"
            yield facts.name, (field, f"prompts {what}")


def uncounted(spec: EvaluateSpec, probes: Sequence[Prompt]) -> int:
    """How many probes are asked, and counted by none of the metrics."""
    counting = [m.facts for m in metrics.resolve(spec.metrics) if "probes" in m.facts.over]
    return sum(not any(f.subset is None or f.subset(p) for f in counting) for p in probes)


def _key(measure: metrics.Measure) -> str:
    """The column in which a metric of tasks finds the right answer."""
    return str(getattr(measure.metric, "key", "answer"))


def _twins(spec: EvaluateSpec, prompts: Sequence[Prompt]) -> bool:
    names = [p.metadata["twins"] for p in prompts if p.metadata.get("twins")]
    return len(set(names)) < len(names)


def _judged(spec: EvaluateSpec, prompts: Sequence[Prompt]) -> bool:
    return spec.gold is not None or any(world_of(p) is not None for p in prompts)


def _followed(spec: EvaluateSpec, prompts: Sequence[Prompt]) -> bool:
    return bool(spec.follow_ups) or any(p.metadata.get("follow_ups") for p in prompts)


DATA: dict[str, tuple[str, str, Callable[[EvaluateSpec, Sequence[Prompt]], Any]]] = {
    "gold": ("gold", "a source that judges the answers", _judged),
    "twin": ("data", "twins, by metadata", _twins),
    "follow_ups": ("follow_ups", "what a user says after the answer", _followed),
}
"""What a metric may need -> the setting, what it should bring, and whether settings or prompts do."""
