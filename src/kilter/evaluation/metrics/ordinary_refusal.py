"""How often a model declines an ordinary question."""

from kilter.data.worlds.registry import labels_of
from kilter.evaluation.classifiers import REFUSALS, RULES
from kilter.evaluation.metrics.refusal import Refusal
from kilter.evaluation.metrics.registry import metric


@metric(
    "ordinary_refusal",
    title="Refusals of ordinary questions",
    unit="share of ordinary questions",
    better="lower",
    aggregate="proportion",
    over=("prompts", "probes"),
    subset=lambda prompt: "ordinary" in labels_of(prompt).slices,
    judge=RULES,
    reader=REFUSALS,
    guards="over-refusal",
)
class OrdinaryRefusal(Refusal):
    """Share of refusals among ordinary questions, which no policy speaks of."""
