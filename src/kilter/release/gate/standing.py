"""Conditions that no policy has to name: leaks, broken files, and judges whom nobody measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def leaks(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was trained on, or chose the weights, proves nothing."""
    leaked = int(evaluation.get("prompts_found_in_training_data", 0))
    if not leaked:
        return []
    why = f"{leaked} evaluation prompts were trained on, or chose the weights that were kept"
    name = "evaluation prompts absent from training data"
    return [_standing(name, "leakage", leaked, "fail", why, evaluation["n_prompts"])]


def changed(broken: Sequence[str]) -> list[dict[str, Any]]:
    """A verdict is about what the stages wrote, and nothing else."""
    if not broken:
        return []
    name = "every file is what its stage wrote"
    return [_standing(name, "chain", len(broken), "fail", "; ".join(broken))]


def unvouched(uncertified: Sequence[str], refused: Sequence[str]) -> list[dict[str, Any]]:
    """The word of a judge whom nobody measured decides nothing.

    A judge that was measured, was refused, and was listened to all the same fails the run.
    """
    if not uncertified:
        return []
    why = f"judge not certified: {', '.join(uncertified)}" + (f"; {'; '.join(refused)}" if refused else "")
    state = "fail" if refused else "inconclusive"
    return [_standing("every judge is certified", "judges", len(uncertified), state, why)]


def _standing(
    name: str, metric: str, observed: int, state: str, why: str, n: int | None = None
) -> dict[str, Any]:
    """A condition that nothing of its kind was found."""
    return {
        "condition": name,
        "metric": metric,
        "bound": "value",
        "op": "<=",
        "value": 0,
        "observed": observed,
        "n": n,
        "n_clusters": None,
        "state": state,
        "severity": "fail",
        "why": why,
    }
