"""What a verdict can be of: the policies of an evaluation, or the reward models that were tested alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def subjects(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The entry of each model by its name, the baseline first where there are reward models alone.

    Args:
        evaluation: what evaluation.json holds.
    """
    if evaluation["models"]:
        return dict(evaluation["models"])
    last = evaluation.get("reward_model") or {}
    return {str(entry["name"]): entry for entry in (last.get("baseline"), last) if entry}


def baseline_of(evaluation: Mapping[str, Any]) -> str | None:
    """The model that the others are compared with; None where nothing was compared."""
    if evaluation["models"]:
        return None if evaluation["baseline"] is None else str(evaluation["baseline"])
    first = (evaluation.get("reward_model") or {}).get("baseline")
    return None if first is None else str(first["name"])
