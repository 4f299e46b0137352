"""From the finished cells to one row per method: what it gained over the start, what it cost, and how sure that is.

A prompt's value is its mean over the seeds; intervals are bootstrapped over prompts (BCa), so they speak of new prompts for these
trained models; the spread between seeds (sample standard deviation) stands beside them and is not in them. Two families of sign-flip
permutation tests over prompts, each corrected by Holm: every method against the start, and the best method of a setting against
every other one, paired on the prompts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from kilter import manifest as manifests
from kilter.objectives import build_objective, method_name
from kilter.objectives.describe import models_held
from kilter.statistics import Estimate, mean
from kilter.study.study import EVAL, START, Cell, Study, cells

PERMUTATIONS = 9999


@dataclass(frozen=True, slots=True)
class Row:
    """One method under one setting: its label in the recipe, its registered name, both for a reader. Differences are to the start, on the same prompts; metrics are JSON of Estimate."""

    method: str
    name: str
    title: str
    setting: dict[str, Any]
    seeds: int
    metrics: dict[str, dict[str, Any]]
    spread: dict[str, float]
    p: float | None
    p_holm: float | None
    accuracy: float | None
    seconds: float
    tokens_per_second: float | None
    peak_memory_gb: float | None
    trained_tokens: float
    models: list[str] = field(default_factory=list)
    behind: dict[str, Any] | None = None
    """What the best method of the setting has over this one, paired on the prompts: value, interval, p_holm. None for the best."""


def table(study: Study, folder: Path) -> dict[str, Any]:
    """Rows of a finished comparison, with the start's own values and which measure decides."""
    values: dict[str, dict[str, list[float | None]]] = json.loads(
        (folder / EVAL / "per_prompt.json").read_text()
    )
    evaluation = json.loads((folder / EVAL / "evaluation.json").read_text())
    measure = "gold" if "gold" in values[START] else "reward" if "reward" in values[START] else None
    groups: dict[tuple[str, tuple[tuple[str, Any], ...]], list[Cell]] = {}
    for cell in cells(study):
        groups.setdefault((cell.method, cell.setting), []).append(cell)
    rows = [
        _row(study, folder, method, setting, found, values, measure)
        for (method, setting), found in groups.items()
    ]
    known = [r.p for r in rows if r.p is not None]
    if known:
        corrected = iter(multipletests(known, method="holm")[1].tolist())
        rows = [replace(r, p_holm=float(next(corrected)) if r.p is not None else None) for r in rows]
    rows = _behind(rows, groups, values, measure)
    order = {m: i for i, m in enumerate(study.methods)}
    rows.sort(key=lambda r: (list(r.setting.values()), -_value(r, "difference"), order[r.method]))
    return {
        "schema": 1,
        "name": study.name,
        "measure": measure,
        "judge": "support desk gold" if measure == "gold" else measure,
        "seeds": study.seeds,
        "prompts": evaluation["n_prompts"],
        "start": _start(
            values[START], measure, evaluation["models"][START]["metrics"]["distinct_2"]["value"]
        ),
        "rows": [asdict(r) for r in rows],
        "vary": list(study.vary),
        "sampling": evaluation["sampling"],
        "leaked": evaluation["prompts_found_in_training_data"],
    }


def _behind(
    rows: list[Row],
    groups: dict[tuple[str, tuple[tuple[str, Any], ...]], list[Cell]],
    values: dict[str, dict[str, list[float | None]]],
    measure: str | None,
) -> list[Row]:
    """The rows with what the best of their setting has over them."""
    if measure is None:
        return rows

    def scores(row: Row) -> list[float | None]:
        return _over_seeds([values[c.stage][measure] for c in groups[row.method, tuple(row.setting.items())]])

    found: list[tuple[int, Estimate, float | None]] = []
    for setting in {tuple(r.setting.items()) for r in rows}:
        own = [i for i, r in enumerate(rows) if tuple(r.setting.items()) == setting]
        best = max(own, key=lambda i: _value(rows[i], "difference"))
        for i in own:
            if i != best:
                gap = _minus(scores(rows[best]), scores(rows[i]))
                found.append((i, mean(gap), sign_flip([g for g in gap if g is not None])))
    known = [p for _, _, p in found if p is not None]
    corrected = iter(multipletests(known, method="holm")[1].tolist() if known else [])
    out = list(rows)
    for i, metric, p in found:
        behind = {
            "value": metric.value,
            "ci_low": metric.ci_low,
            "ci_high": metric.ci_high,
            "p_holm": float(next(corrected)) if p is not None else None,
        }
        out[i] = replace(rows[i], behind=behind)
    return out


def _value(row: Row, key: str) -> float:
    metric = row.metrics.get(key)
    return float("-inf") if metric is None or metric["value"] is None else float(metric["value"])


def _start(
    values: dict[str, list[float | None]], measure: str | None, diversity: float | None
) -> dict[str, dict[str, Any]]:
    """The start's own values under the names of the rows' metrics."""
    found = {"length": mean(values["length"], unit="tokens")}
    found |= {key: mean(values[key], unit="share") for key in ("refusal", "over_refusal") if values.get(key)}
    if measure is not None:
        found["score"] = mean(values[measure])
    if "tax_nll" in values:
        found["tax"] = mean(values["tax_nll"], unit="nats per token")
    return {k: m.to_json() for k, m in found.items()} | {"diversity": _diversity(diversity)}


def _diversity(value: float | None) -> dict[str, Any]:
    return {"value": value, "ci_low": None, "ci_high": None, "unit": "distinct 2-grams"}


def _minus(values: Sequence[float | None], others: Sequence[float | None]) -> list[float | None]:
    """Differences prompt by prompt; None where either has no value."""
    return [None if a is None or b is None else a - b for a, b in zip(values, others, strict=True)]


def _over_seeds(parts: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Per prompt the mean over seeds; None where any seed has no value."""
    return [
        None if any(v is None for v in column) else fmean(v for v in column if v is not None)
        for column in zip(*parts, strict=True)
    ]


def _row(
    study: Study,
    folder: Path,
    method: str,
    setting: tuple[tuple[str, Any], ...],
    found: list[Cell],
    values: dict[str, dict[str, list[float | None]]],
    measure: str | None,
) -> Row:
    start = values[START]
    metrics: dict[str, Estimate] = {}
    spread: dict[str, float] = {}
    p = None

    def add(name: str, parts: Sequence[Sequence[float | None]], **extra: Any) -> None:
        metrics[name] = mean(_over_seeds(parts), **extra)
        means = [
            fmean(v for v in part if v is not None) for part in parts if any(v is not None for v in part)
        ]
        spread[name] = stdev(means) if len(means) > 1 else 0.0

    if measure is not None:
        base = start[measure]
        scores = [values[c.stage][measure] for c in found]
        differences = [_minus(part, base) for part in scores]
        wins = [
            [None if d is None else 1.0 if d > 0 else 0.0 if d < 0 else 0.5 for d in part]
            for part in differences
        ]
        add("score", scores, higher_is_better=True)
        add("difference", differences, higher_is_better=True)
        add("win_rate", wins, binary=True, higher_is_better=True)
        p = sign_flip([d for d in _over_seeds(differences) if d is not None])
    if all("kl" in values[c.stage] for c in found):
        add("kl", [values[c.stage]["kl"] for c in found], unit="nats per answer")
    add("length", [values[c.stage]["length"] for c in found], unit="tokens")
    for key in ("refusal", "over_refusal"):
        if start.get(key):
            add(key, [values[c.stage][key] for c in found], unit="share")
    if start.get("over_refusal"):
        add(
            "over_refusal_change",
            [_minus(values[c.stage]["over_refusal"], start["over_refusal"]) for c in found],
            unit="share",
            higher_is_better=False,
        )
    if "tax_nll" in start:
        add(
            "tax",
            [_minus(values[c.stage]["tax_nll"], start["tax_nll"]) for c in found],
            unit="nats per token",
            higher_is_better=False,
        )
    evaluation = json.loads((folder / EVAL / "evaluation.json").read_text())["models"]
    diversity = [d for c in found if (d := evaluation[c.stage]["metrics"]["distinct_2"]["value"]) is not None]
    entries = [manifests.read(folder / c.stage) for c in found]
    facts = [e.facts for e in entries if e is not None]
    own = study.methods[method]
    config = own["method"] if isinstance(own, dict) and "method" in own else own
    heldout = [f["heldout"].get("eval_rewards/accuracies") for f in facts]
    out = {k: m.to_json() for k, m in metrics.items()}
    out["diversity"] = _diversity(fmean(diversity) if diversity else None)
    return Row(
        method=method,
        name=method_name(config),
        title=method if method_name(config) == method else f"{method} ({method_name(config)})",
        setting=dict(setting),
        seeds=len(found),
        metrics=out,
        spread=spread,
        p=p,
        p_holm=None,
        accuracy=fmean(h for h in heldout if h is not None)
        if all(h is not None for h in heldout) and heldout
        else None,
        seconds=_mean_of(facts, "step_seconds") or fmean(e.seconds for e in entries if e is not None),
        tokens_per_second=_mean_of(facts, "tokens_per_second"),
        peak_memory_gb=_mean_of(facts, "peak_memory_gb"),
        trained_tokens=fmean(f["metrics"].get("num_tokens", 0) for f in facts),
        models=list(models_held(build_objective(config).needs)),
    )


def _mean_of(facts: Sequence[dict[str, Any]], key: str) -> float | None:
    known = [f[key] for f in facts if f.get(key) is not None]
    return fmean(known) if known else None


def sign_flip(differences: Sequence[float]) -> float | None:
    """Two-sided p-value that the mean difference is zero, by flipping signs (scipy's permutation test); None below 5 prompts."""
    if len(differences) < 5:
        return None
    if not any(differences):
        return 1.0
    found = stats.permutation_test(
        (np.array(differences),),
        np.mean,
        permutation_type="samples",
        n_resamples=PERMUTATIONS,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)
