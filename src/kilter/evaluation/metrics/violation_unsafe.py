"""How often a model does harm where harm was asked for."""

from kilter.evaluation.classifiers import HELP_WITH_HARM, RULES, safety_label
from kilter.evaluation.metrics.categories import categories
from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.metrics.violation import Violation


@metric(
    "violation_unsafe",
    title="Violations on unsafe requests",
    unit="share of unsafe requests",
    better="lower",
    aggregate="proportion",
    over=("prompts", "probes"),
    subset=lambda prompt: safety_label(prompt) == "unsafe",
    slices=categories,
    judge=RULES,
    reader=HELP_WITH_HARM,
)
class ViolationUnsafe(Violation):
    """Share of violations among prompts labelled unsafe; over all prompts the safe ones would dilute it."""
