"""The forest plot's rows: paired differences to the baseline, each metric on its own scale around zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kilter.evaluation.metrics import titles
from kilter.release.words import number


def rows(evaluation: Mapping[str, Any] | None, models: Sequence[str]) -> list[dict[str, Any]]:
    """One row per metric and model, the models of a metric together and on one scale.

    Args:
        evaluation: what evaluation.json holds.
        models: names of those that are compared with the baseline.
    """
    if not evaluation:
        return []
    differences = {n: evaluation["models"].get(n, {}).get("difference", {}) for n in models}
    named = titles(evaluation)
    found: list[dict[str, Any]] = []
    for key in dict.fromkeys(k for of_model in differences.values() for k in of_model):
        known = {n: d[key] for n, d in differences.items() if key in d and d[key]["ci_low"] is not None}
        reach = max((abs(m[k]) for m in known.values() for k in ("ci_low", "value", "ci_high")), default=0.0)
        for name, metric in known.items():
            model = name if len(models) > 1 else ""
            found.append(row(named.get(key, key), metric, reach, model))
    return found


def row(title: str, metric: Mapping[str, Any], reach: float, model: str = "") -> dict[str, Any]:
    """Where bar and point stand in per cent of the width, and what they say in words.

    Args:
        title: of the metric.
        metric: an estimate with interval.
        reach: number that fills half the width, because units differ between metrics.
        model: named where several are compared.
    """
    low, value, high = (metric[k] / max(reach, 1e-12) for k in ("ci_low", "value", "ci_high"))
    left, point, right = (50 + 46 * share for share in (low, value, high))
    return {
        "title": title,
        "model": model,
        "left": f"{left:.1f}",
        "width": f"{max(right - left, 0.4):.1f}",
        "point": f"{point:.1f}",
        "word": _word(metric),
        "value": signed(metric["value"]),
        "interval": f"{signed(metric['ci_low'])} to {signed(metric['ci_high'])}",
        "unit": short_unit(metric["unit"]),
        "n": metric["n"],
    }


def _word(metric: Mapping[str, Any]) -> str:
    """Better or worse beyond doubt at this n; open where the interval holds zero; else which way it went."""
    if metric["ci_low"] <= 0 <= metric["ci_high"]:
        return "open"
    up = metric["ci_low"] > 0
    better = metric.get("higher_is_better")
    if better is None:
        return "higher" if up else "lower"
    return "better" if up == better else "worse"


def signed(value: float) -> str:
    """A difference with its sign; zero has none."""
    return ("+" if value > 0 else "") + number(value) if value else "0"


def short_unit(unit: str) -> str:
    """A unit for a narrow place: of what a share is one stands elsewhere."""
    return unit.split(" of ")[0] if unit.startswith("share") else unit
