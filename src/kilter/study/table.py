"""From finished cells to one row per method: what it gained over the start, what it cost, how sure that is.

A prompt's value is its mean over the seeds. Intervals are over prompts, so they speak of new prompts for
these trained models. Beside them stand the mean of each seed and an interval that takes the seeds as draws
(Student's t), which speaks of new seeds on these prompts. Two families of sign-flip permutation tests over
prompts are each corrected by Holm: every method against the start, and the best method of a setting against
every other one, paired on the prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from kilter import manifest as manifests
from kilter.artifacts import read_json
from kilter.evaluation.metrics import SOURCES, STANDARD, facts_of, titles
from kilter.evaluation.metrics.win_rate import win
from kilter.objectives import build_objective, method_name
from kilter.objectives.describe import models_held
from kilter.release.forest import short_unit
from kilter.statistics import LEVEL, Estimate, mean
from kilter.study.study import EVAL, IMPLICIT, START, Cell, Study, cells

PERMUTATIONS = 9999


@dataclass(frozen=True, slots=True)
class Row:
    """One method under one setting. Differences are to the start, on the same prompts.

    method: its label in the recipe. name: its registered name. title: both, for a reader. metrics: estimates.
    over_seeds: of a metric its mean for each seed, and the interval that takes seeds as draws.
    behind: what the best method of the setting has over this one, paired on the prompts; None for the best.
    """

    method: str
    name: str
    title: str
    setting: dict[str, Any]
    seeds: int
    metrics: dict[str, dict[str, Any]]
    over_seeds: dict[str, dict[str, Any]]
    p: float | None
    p_holm: float | None
    accuracy: float | None
    seconds: float
    tokens_per_second: float | None
    peak_memory_gb: float | None
    trained_tokens: float
    models: list[str] = field(default_factory=list)
    behind: dict[str, Any] | None = None


Values = Mapping[str, Mapping[str, list[float | None]]]
"""per_prompt.json: stage -> metric -> one value per prompt"""


@dataclass(frozen=True, slots=True)
class Column:
    """A metric of the evaluation as a comparison has it.

    change: its difference to the start, on the same prompts. shown: it stands in the table for people too.
    """

    key: str
    metric: str
    change: bool = False
    shown: bool = True


HARMS = ("wrong_declines", "wrong_approvals", "violation_unsafe", "over_refusal")
"""What a gain may have been bought with; each is warned of where it rose."""

COLUMNS = (
    Column("twin_accuracy", "twin_accuracy"),
    Column("decision", "decision"),
    Column("kl", "kl"),
    Column("length", "length"),
    Column("diversity", "distinct_2"),
    Column("refusal", "refusal", shown=False),
    Column("wrong_declines", "wrong_declines"),
    Column("wrong_approvals", "wrong_approvals"),
    Column("violation_unsafe", "violation_unsafe"),
    Column("over_refusal", "over_refusal"),
    *(Column(f"{m}_change", m, change=True, shown=False) for m in HARMS),
    Column("tax", "tax_nll", change=True),
)
"""What is compared beside the score. Metrics beyond the standard set have columns after these."""

SCORED = (
    {"key": "score", "title": "Score", "unit": "mean"},
    {"key": "difference", "title": "Gain", "unit": "over the start"},
    {"key": "win_rate", "title": "Win rate", "unit": "against the start"},
)
"""What follows from the measure that decides, gold or the judge's reward."""


@dataclass(frozen=True)
class Evidence:
    """The finished evaluation of all cells."""

    evaluation: Mapping[str, Any]
    values: Values
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Evidence:
        """Reads the evaluation in the folder of a comparison."""
        evaluation = read_json(folder / EVAL / "evaluation.json")
        return cls(evaluation, read_json(folder / EVAL / "per_prompt.json"), folder)

    @property
    def measure(self) -> str | None:
        """gold where it scored the start's answers, else the reward, else held-out pairs, else none."""
        return next((source for source in (*SOURCES, IMPLICIT) if source in self.values[START]), None)

    @property
    def compared_on(self) -> str:
        """What the score is of, such as "60 prompts"."""
        if self.measure == IMPLICIT:
            return f"{len(self.values[START][IMPLICIT])} held-out pairs"
        return f"{self.evaluation['n_prompts']} prompts"

    @property
    def columns(self) -> list[Column]:
        """Those of every comparison, and one for each metric beyond the standard set that is not a part."""
        names = self.evaluation["models"][START]["metrics"]
        parts = {name for name in names if name.rpartition(".")[0] in names}
        others = [name for name in names if name not in {*STANDARD, *parts, self.measure}]
        return [*COLUMNS, *(Column(name, name) for name in others)]

    def unit(self, metric: str) -> tuple[str, bool | None]:
        """Unit and direction, from any model that was measured."""
        for model in self.evaluation["models"].values():
            if metric in model["metrics"]:
                return model["metrics"][metric]["unit"], model["metrics"][metric]["higher_is_better"]
        return "", None

    def bare(self, stages: Sequence[str], metric: str) -> dict[str, Any] | None:
        """Mean over stages of a metric without values per prompt; None where it was not measured."""
        found = [self.evaluation["models"][s]["metrics"].get(metric) for s in stages]
        if not all(found):
            return None
        known = [f["value"] for f in found if f["value"] is not None]
        unit = self.unit(metric)[0]
        return {"value": fmean(known) if known else None, "ci_low": None, "ci_high": None, "unit": unit}


def table(study: Study, folder: Path) -> dict[str, Any]:
    """Rows of a finished comparison, with the start's own values and which measure decides."""
    evidence = Evidence.read(folder)
    measure = evidence.measure

    # A row is a method under one setting; its cells are the seeds.
    groups: dict[tuple[str, tuple[tuple[str, Any], ...]], list[Cell]] = {}
    for cell in cells(study):
        groups.setdefault((cell.method, cell.setting), []).append(cell)
    rows = [_row(study, evidence, *key, found) for key, found in groups.items()]

    # Each family of tests is corrected as a whole: all methods against the start.
    known = [r.p for r in rows if r.p is not None]
    if known:
        corrected = iter(multipletests(known, method="holm")[1].tolist())
        rows = [replace(r, p_holm=float(next(corrected)) if r.p is not None else None) for r in rows]
    rows = _behind(rows, groups, evidence.values, measure)
    order = {m: i for i, m in enumerate(study.methods)}
    rows.sort(key=lambda r: (list(r.setting.values()), -_value(r, "difference"), order[r.method]))
    named = titles(evidence.evaluation)
    return {
        "schema": 1,
        "name": study.name,
        "measure": measure,
        "judge": f"the {named[measure][:1].lower()}{named[measure][1:]}" if measure else "the score",
        "seeds": study.seeds,
        "prompts": evidence.evaluation["n_prompts"],
        "compared_on": evidence.compared_on,
        "columns": [*SCORED, *(_heading(c, evidence, named) for c in evidence.columns if c.shown)],
        "start": _start(evidence),
        "rows": [asdict(r) for r in rows],
        "vary": list(study.vary),
        "sampling": evidence.evaluation["sampling"],
        "leaked": evidence.evaluation.get("prompts_found_in_training_data"),
    }


def _heading(column: Column, evidence: Evidence, named: Mapping[str, str]) -> dict[str, str]:
    """A column's heading: the title and unit that the metric declares."""
    facts, unit = facts_of(column.metric), short_unit(evidence.unit(column.metric)[0])
    title = facts.short if facts is not None and facts.short else named.get(column.metric, column.metric)
    return {"key": column.key, "title": title, "unit": f"{unit} more" if column.change else unit}


def _behind(
    rows: list[Row],
    groups: dict[tuple[str, tuple[tuple[str, Any], ...]], list[Cell]],
    values: Values,
    measure: str | None,
) -> list[Row]:
    """The rows with what the best of their setting has over them."""
    if measure is None:
        return rows

    def scores(row: Row) -> list[float | None]:
        return _over_seeds([values[c.stage][measure] for c in groups[row.method, tuple(row.setting.items())]])

    # The best of a setting against every other one is the second family of tests.
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


def _start(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """The start's own values, by the rows' metrics. Where a row has a change, this is what changed."""
    start = evidence.values[START]
    found: dict[str, dict[str, Any]] = {}
    if evidence.measure is not None:
        found["score"] = mean(start[evidence.measure]).to_json()
    for column in evidence.columns:
        if column.change and not column.shown:
            continue
        unit, higher = evidence.unit(column.metric)
        if start.get(column.metric):
            estimate = mean(start[column.metric], unit=unit, higher_is_better=higher)
            found[column.key] = estimate.to_json()
        elif (bare := evidence.bare([START], column.metric)) is not None:
            found[column.key] = bare
    return found


def _minus(values: Sequence[float | None], others: Sequence[float | None]) -> list[float | None]:
    """Differences prompt by prompt; None where either has no value."""
    return [None if a is None or b is None else a - b for a, b in zip(values, others, strict=True)]


def _over_seeds(parts: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Per prompt the mean over seeds; None where any seed has no value."""
    return [
        None if any(v is None for v in column) else fmean(v for v in column if v is not None)
        for column in zip(*parts, strict=True)
    ]


@dataclass
class _Means:
    """Metrics of one row: per prompt the mean over seeds, estimated over prompts; and over seeds."""

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    over_seeds: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, parts: Sequence[Sequence[float | None]], **extra: Any) -> None:
        """parts: the values per prompt of each seed."""
        self.metrics[name] = mean(_over_seeds(parts), **extra).to_json()
        means = [
            fmean(v for v in part if v is not None) for part in parts if any(v is not None for v in part)
        ]
        self.over_seeds[name] = between(means)


def between(means: Sequence[float]) -> dict[str, Any]:
    """One mean per seed, and where those of other seeds have their mean: Student's t, from two seeds on."""
    low = high = None
    if len(means) > 1:
        middle, error = fmean(means), stdev(means) / len(means) ** 0.5
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(means) - 1)) * error
        low, high = middle - half, middle + half
    return {"means": list(means), "ci_low": low, "ci_high": high}


def _scored(means: _Means, evidence: Evidence, found: Sequence[Cell]) -> float | None:
    """Adds score, difference and win rate by the measure that decides. Returns the difference's p-value."""
    if evidence.measure is None:
        return None
    base = evidence.values[START][evidence.measure]
    scores = [evidence.values[c.stage][evidence.measure] for c in found]
    differences = [_minus(part, base) for part in scores]
    wins = [[win(a, b) for a, b in zip(part, base, strict=True)] for part in scores]
    means.add("score", scores, higher_is_better=True)
    means.add("difference", differences, higher_is_better=True)
    means.add("win_rate", wins, binary=True, higher_is_better=True)
    return sign_flip([d for d in _over_seeds(differences) if d is not None])


def _compared(means: _Means, column: Column, evidence: Evidence, found: Sequence[Cell]) -> None:
    """Adds one metric of the evaluation, where all cells have it."""
    unit, higher = evidence.unit(column.metric)
    parts = [evidence.values[c.stage].get(column.metric) or [] for c in found]
    if all(parts) and column.change:
        parts = [_minus(part, evidence.values[START][column.metric]) for part in parts]
    if all(parts):
        means.add(column.key, parts, unit=unit, higher_is_better=higher)
        return
    bare = evidence.bare([c.stage for c in found], column.metric)
    if bare is not None:
        means.metrics[column.key] = bare


def _row(
    study: Study, evidence: Evidence, method: str, setting: tuple[tuple[str, Any], ...], found: list[Cell]
) -> Row:
    """One method under one setting: what it gained, and what the training cost."""
    means = _Means()
    p = _scored(means, evidence, found)
    for column in evidence.columns:
        _compared(means, column, evidence, found)

    # What training cost stands in the manifests of the cells, which ran in processes of their own.
    entries = [e for c in found if (e := manifests.read(evidence.folder / c.stage)) is not None]
    facts = [e.facts for e in entries]
    heldout = [f["heldout"].get("eval_rewards/accuracies") for f in facts]
    own = study.methods[method]
    config = own["method"] if isinstance(own, dict) and "method" in own else own
    return Row(
        method=method,
        name=method_name(config),
        title=method if method_name(config) == method else f"{method} ({method_name(config)})",
        setting=dict(setting),
        seeds=len(found),
        metrics=means.metrics,
        over_seeds=means.over_seeds,
        p=p,
        p_holm=None,
        accuracy=fmean(heldout) if heldout and all(h is not None for h in heldout) else None,
        seconds=_mean_of(facts, "step_seconds") or fmean(e.seconds for e in entries),
        tokens_per_second=_mean_of(facts, "tokens_per_second"),
        peak_memory_gb=_mean_of(facts, "peak_memory_gb"),
        trained_tokens=fmean(f["metrics"].get("num_tokens", 0) for f in facts),
        models=list(models_held(build_objective(config).needs)),
    )


def _mean_of(facts: Sequence[dict[str, Any]], key: str) -> float | None:
    known = [f[key] for f in facts if f.get(key) is not None]
    return fmean(known) if known else None


def sign_flip(differences: Sequence[float]) -> float | None:
    """Two-sided p-value that the mean difference is zero, by flipping signs; None below 5 prompts.

    It is scipy's permutation test.
    """
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
