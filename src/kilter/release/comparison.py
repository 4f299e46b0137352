"""Two runs on one page: verdicts, candidates on the same prompts, curves, and what was set otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kilter.artifacts import read_lines
from kilter.evaluation.metrics import facts_of, titles
from kilter.release import answers, forest, words
from kilter.release.answers import Shelf
from kilter.release.evidence import Evidence, gather
from kilter.release.report import fill, interval, page
from kilter.release.section import Section
from kilter.release.training_section import CURVES
from kilter.release.words import number
from kilter.statistics import paired_difference

ABSENT = "(absent)"


def render(first: Path, second: Path) -> str:
    """The page as text: the second run set against the first.

    Args:
        first: a run's folder, the yardstick.
        second: another one.
    """
    runs = (gather(first), gather(second))
    names = names_of(*runs)
    title = f"{names[1]} against {names[0]}"
    return page(f"{title} · Kilter comparison", title, "two runs side by side", [body(runs, names)])


def body(runs: tuple[Evidence, Evidence], names: tuple[str, str]) -> str:
    """The comparison's part of a page.

    Args:
        runs: the yardstick and the other one.
        names: what they are called on the page.
    """
    shelves = [_shelf(run) for run in runs]
    both = _together(shelves, runs, names)
    rows = [] if both is None else _forest(both, runs)
    return fill(
        "runs.html.j2",
        runs=runs,
        names=names,
        verdicts=[_verdict(run) for run in runs],
        summary=_summary(rows, both, names),
        forest=rows,
        shelf=None if both is None else answers.fitted(both),
        metrics=_metrics(runs),
        curves=_curves(runs, names),
        settings=_differences(*(run.settings for run in runs)),
        hashes=_hashes(runs),
    )


def names_of(first: Evidence, second: Evidence) -> tuple[str, str]:
    """Names of two runs; runs of one name are told apart by the folders they lie in."""
    if first.name != second.name:
        return first.name, second.name
    folders = [run.run.resolve().parent.name for run in (first, second)]
    if folders[0] == folders[1]:
        return f"{first.name} (first)", f"{second.name} (second)"
    return f"{folders[0]}/{first.name}", f"{folders[1]}/{second.name}"


def _shelf(run: Evidence) -> Shelf | None:
    if run.evaluated is None or run.evaluation is None:
        return None
    return answers.shelf(run.evaluated, run.evaluation, run.candidate, sys.maxsize)


def _together(
    shelves: Sequence[Shelf | None], runs: Sequence[Evidence], names: tuple[str, str]
) -> Shelf | None:
    """Both candidates on the prompts that both runs asked; None where there is no such prompt."""
    first, second = shelves
    if first is None or second is None:
        return None
    asked = {_asked(row): row for row in first.rows}
    measures = {m: t for m, t in second.measures.items() if m in first.measures} or {answers.SCORE: "Score"}
    found: list[dict[str, Any]] = []
    for row in second.rows:
        before = asked.get(_asked(row))
        if before is None:
            continue
        sides = ((before, first.candidate), (row, second.candidate))
        values = {m: [r["values"].get(m, [None] * (at + 1))[at] for r, at in sides] for m in measures}
        said = [r["answers"][at] for r, at in sides]
        found.append(dict(row) | {"i": len(found), "answers": said, "values": values})
    if not found:
        return None
    models = [
        f"{name}: {shelf.models[shelf.candidate]}" for name, shelf in zip(names, (first, second), strict=True)
    ]
    return Shelf(models, 0, 1, measures, answers.compared(found, 1, 0))


def _asked(row: Mapping[str, Any]) -> str:
    """Identity of a prompt: what was said, never its name."""
    return json.dumps([row["system"], row["turns"]])


def _forest(both: Shelf, runs: Sequence[Evidence]) -> list[dict[str, Any]]:
    """Paired differences on the shared prompts."""
    found = []
    for name, title in both.measures.items():
        before, after = ([row["values"][name][at] for row in both.rows] for at in (0, 1))
        about = facts_of(name)
        known: dict[str, Any] = (
            {"unit": about.unit, "higher_is_better": about.higher_is_better} if about else {}
        )
        metric = paired_difference(after, before, **known).to_json()
        if metric["ci_low"] is not None:
            reach = max(abs(metric[k]) for k in ("ci_low", "value", "ci_high"))
            found.append(forest.row(title, metric, reach))
    return found


def _summary(rows: Sequence[Mapping[str, Any]], both: Shelf | None, names: Sequence[str]) -> str:
    if both is None:
        return "The runs asked no prompt in common, so that no paired difference can be had."
    better = [r["title"] for r in rows if r["word"] == "better"]
    worse = [r["title"] for r in rows if r["word"] == "worse"]
    parts = [f"better in {', '.join(better)}"] if better else []
    parts += [f"worse in {', '.join(worse)}"] if worse else []
    said = " and ".join(parts) or "neither better nor worse beyond doubt"
    return f"On {len(both.rows)} shared prompts {names[1]} is {said}."


def _verdict(run: Evidence) -> dict[str, str]:
    if run.gate is None:
        return {"state": "", "word": "No verdict", "text": "No gate has run."}
    text = words.summary(run.gate, titles(run.evaluation))
    return {"state": str(run.gate["verdict"]), "word": words.headline(run.gate), "text": text}


def _metrics(runs: Sequence[Evidence]) -> list[list[str]]:
    """Every metric of both candidates, each from its own prompts."""
    known = [_of_candidate(run) for run in runs]
    named = titles(runs[0].evaluation) | titles(runs[1].evaluation)
    keys = list(dict.fromkeys(k for metrics in known for k in metrics))
    return [[named.get(k, k), *(_cell(metrics.get(k)) for metrics in known)] for k in keys]


def _of_candidate(run: Evidence) -> Mapping[str, Any]:
    models = (run.evaluation or {}).get("models", {})
    found: Mapping[str, Any] = models[run.candidate]["metrics"] if run.candidate in models else {}
    return found


def _cell(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return "–"
    bounds = interval(metric)
    return f"{number(metric['value'])}{f' ({bounds})' if bounds else ''}, n = {metric['n']}"


def _curves(runs: Sequence[Evidence], names: Sequence[str]) -> list[Section]:
    """Both runs' curves on one another, for every stage that both have trained."""
    from kilter.release import figures

    logs = [{s.name: list(read_lines(s.folder / "metrics.jsonl")) for s in run.stages} for run in runs]
    shared = [name for name, rows in logs[0].items() if rows and logs[1].get(name)]
    drawn = {
        n: figures.curves(dict(zip(names, (logs[0][n], logs[1][n]), strict=True)), CURVES) for n in shared
    }
    return [Section(name, html="".join(f"<div>{curve}</div>" for curve in of)) for name, of in drawn.items()]


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[list[str]]:
    """Settings of the recipes that are not the same; the name of a run is not one."""
    left, right = dict(_flat(first)), dict(_flat(second))
    keys = [k for k in dict.fromkeys([*left, *right]) if k != "name"]
    return [
        [k, left.get(k, ABSENT), right.get(k, ABSENT)]
        for k in keys
        if left.get(k, ABSENT) != right.get(k, ABSENT)
    ]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, value if isinstance(value, str) else json.dumps(value, default=str)


def _hashes(runs: Sequence[Evidence]) -> list[list[str]]:
    """What each stage made, by the hashes on record."""
    made = [{s.name: s.entry for s in run.stages} for run in runs]
    rows = []
    for name in dict.fromkeys([*made[0], *made[1]]):
        entries = [of.get(name) for of in made]
        cells = [
            ABSENT if e is None else " ".join(h[:12] for h in e.outputs.values()) or e.status for e in entries
        ]
        rows.append([name, *cells, "the same" if cells[0] == cells[1] else "different"])
    return rows
