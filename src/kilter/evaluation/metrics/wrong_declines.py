"""How often a model declines a claim that its rules grant."""

from kilter.data.worlds.registry import labels_of
from kilter.evaluation.classifiers import REFUSALS, RULES
from kilter.evaluation.metrics.refusal import Refusal
from kilter.evaluation.metrics.registry import metric


@metric(
    "wrong_declines",
    title="Wrong declines",
    unit="share of claims to grant",
    better="lower",
    aggregate="proportion",
    subset=lambda prompt: labels_of(prompt).grant is True and not labels_of(prompt).safety,
    judge=RULES,
    reader=REFUSALS,
    guards="over-refusal",
)
class WrongDeclines(Refusal):
    """Share of declined answers among the claims to grant. Twins of unsafe requests count as over-refusal."""
