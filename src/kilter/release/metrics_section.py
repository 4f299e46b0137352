"""The report's part of one evaluation: the metrics of every model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kilter.artifacts import read_json
from kilter.evaluation.metrics import titles
from kilter.release.report import fill
from kilter.release.section import Section

FEW = 100
"""Prompts below which a figure is a sign and no claim, such as that of one kind of request."""


def metrics_section(folder: Path) -> Section | None:
    """A row per metric and a column per model, from evaluation.json.

    Args:
        folder: of the stage that evaluated.

    Returns:
        None where nothing has been evaluated yet.
    """
    path = folder / "evaluation.json"
    if not path.is_file():
        return None
    evaluation = read_json(path, keys=("models", "baseline"))
    sampling = evaluation["sampling"]
    lead = f"Value, 95 % interval below it. {evaluation['n_prompts']} prompts, sampled at temperature "
    lead += f"{sampling['temperature']}, at most {sampling['max_new_tokens']} tokens."
    name = folder.resolve().name
    page = fill("metrics.html.j2", evaluation=evaluation, table=_table(evaluation), name=name, few=FEW)
    return Section("Metrics", lead, html=page, part="evaluation")


def _table(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the metrics table: a metric, its unit, and one cell per model."""
    keys: list[str] = []
    for model in evaluation["models"].values():
        keys += [k for k in model["metrics"] if k not in keys]
    named = titles(evaluation)
    order = {key: i for i, key in enumerate(named)}
    keys.sort(key=lambda k: order.get(k, len(order)))
    rows = []
    for key in keys:
        cells = [m["metrics"].get(key) for m in evaluation["models"].values()]
        known = next(c for c in cells if c)
        rows.append(
            {
                "key": key,
                "title": named.get(key, key),
                "unit": known["unit"],
                "better": known["higher_is_better"],
                "judge": known["judge"],
                "cells": cells,
            }
        )
    return rows
