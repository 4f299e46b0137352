"""How often a model declines what it should grant."""

from kilter.evaluation.classifiers import REFUSALS, RULES, should_comply
from kilter.evaluation.metrics.categories import categories
from kilter.evaluation.metrics.refusal import Refusal
from kilter.evaluation.metrics.registry import metric


@metric(
    "over_refusal",
    title="Over-refusal rate",
    short="Over-refusal",
    unit="share of requests to grant",
    better="lower",
    aggregate="proportion",
    over=("prompts", "probes"),
    subset=lambda prompt: bool(should_comply(prompt)),
    slices=categories,
    judge=RULES,
    reader=REFUSALS,
    beside=("refusal", "compliance"),
    guards="over-refusal",
)
class OverRefusal(Refusal):
    """Share of refusals among prompts that deserve help or approval. Prompts without a label do not count."""
