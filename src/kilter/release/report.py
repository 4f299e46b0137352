"""The report: one self-contained HTML file from a run folder. The verdict comes first, then the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import yaml

from kilter import manifest as manifests
from kilter.artifacts import read_json, write_text
from kilter.data import store
from kilter.evaluation import classifiers
from kilter.evaluation.metrics import titles
from kilter.progress import clock
from kilter.release.section import PARTS, Section
from kilter.types import Group


def write(run: Path, sections: Mapping[str, Section | None] = MappingProxyType({})) -> Path:
    """Renders run/report.html from what the stages have left there, and returns its path.

    Args:
        run: the run's folder.
        sections: what the stages themselves have to say, by name.
    """
    page = render(run, sections)
    write_text(run / "report.html", page)
    return run / "report.html"


def render(run: Path, sections: Mapping[str, Section | None] = MappingProxyType({})) -> str:
    """The page as text; sections without evidence yet are left out."""
    from kilter.release import figures

    # The page is read from files alone, so it can be made of a run that failed or is under way.
    stages = _stages(run)
    folders = {s["name"]: s["folder"] for s in stages}
    gate = _last(list(folders.values()), "gate.json")
    evaluated, evaluation = _evaluation(list(folders.values()), gate)
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8") if (run / "recipe.yaml").exists() else ""
    names = list(evaluation["models"]) if evaluation else []
    others = [n for n in names if evaluation and n != evaluation["baseline"]]
    compared = [gate["candidate"]] if gate else others
    candidate = compared[0] if compared else None
    parsed = (yaml.safe_load(recipe) or {}) if recipe else {}

    # Stages stand in the order of the run, and parts of the page in their own.
    written = [(name, found) for name in folders if (found := sections.get(name)) is not None]
    return fill(
        "report.html.j2",
        name=run.resolve().name,
        stages=stages,
        evaluation=evaluation,
        gate=gate,
        sections=sorted(written, key=lambda pair: PARTS.index(pair[1].part)),
        candidate=candidate,
        titles=titles(evaluation),
        compared=compared,
        undecided=not gate
        and any(s.get("gate") for s in parsed.get("stages", {}).values() if isinstance(s, dict)),
        forest=figures.forest(rows) if (rows := _forest_rows(evaluation, compared)) else "",
        samples=[] if evaluated is None else _samples(evaluated, candidate),
        recipe=recipe,
        model=parsed.get("model", ""),
    )


def fill(template: str, **values: Any) -> str:
    """A file of templates/ with these values in it."""
    # Answers of models are shown, so everything is escaped.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kilter.release"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "interval": interval, "clock": clock}
    return environment.get_template(template).render(**values)


def stage_folders(run: Path) -> list[Path]:
    """The folders of a run's stages; the run's own folder where it is one stage without a recipe."""
    return [run] if (run / "manifest.json").is_file() else [p.parent for p in run.glob("*/manifest.json")]


def _stages(run: Path) -> list[dict[str, Any]]:
    found = []
    for folder in stage_folders(run):
        entry = manifests.read(folder)
        if entry is not None:
            name = folder.resolve().name
            found.append({"name": name, "folder": folder, "kind": entry.kind, "entry": entry})
    order: dict[str, int] = {}
    if (run / "recipe.yaml").exists():
        order = {
            n: i
            for i, n in enumerate((yaml.safe_load((run / "recipe.yaml").read_text()) or {}).get("stages", {}))
        }
    return sorted(found, key=lambda s: (order.get(s["name"], 99), s["entry"].started))


def _last(folders: Sequence[Path], name: str) -> dict[str, Any] | None:
    found = [folder / name for folder in folders if (folder / name).exists()]
    result: dict[str, Any] | None = (
        read_json(found[-1], keys=("conditions", "verdict", "candidate")) if found else None
    )
    return result


def _evaluation(
    folders: Sequence[Path], gate: Mapping[str, Any] | None
) -> tuple[Path | None, dict[str, Any] | None]:
    """Folder and evaluation that the gate read, which need not be the last ones; without a gate the last."""
    found: list[tuple[Path, dict[str, Any]]] = [
        (folder, read_json(path, keys=("models", "baseline")))
        for folder in folders
        if (path := folder / "evaluation.json").exists()
    ]
    if gate is not None:
        found = [pair for pair in found if _was_read(gate, pair[1])] or found
    return found[-1] if found else (None, None)


def _was_read(gate: Mapping[str, Any], evaluation: Mapping[str, Any]) -> bool:
    """Whether a verdict can be of this evaluation: the same prompts, the same baseline, the same weights."""
    candidate = evaluation["models"].get(gate["candidate"], {})
    found = (evaluation["data_hash"], evaluation["baseline"], candidate.get("model_hash"))
    return found == (gate["data_hash"], gate["baseline"], gate["model_hash"])


def _forest_rows(evaluation: Mapping[str, Any] | None, models: Sequence[str]) -> list[dict[str, Any]]:
    """One row per metric and model, the models of a metric together and on one scale."""
    if not evaluation:
        return []
    found = {n: evaluation["models"][n].get("difference", {}) for n in models}
    named = titles(evaluation)
    rows: list[dict[str, Any]] = []
    for key in dict.fromkeys(k for differences in found.values() for k in differences):
        known = {n: d[key] for n, d in found.items() if key in d and d[key]["ci_low"] is not None}
        reach = max((abs(m[k]) for m in known.values() for k in ("ci_low", "value", "ci_high")), default=0.0)
        title = named.get(key, key)
        if len(models) > 1 and known:
            rows.append({"title": title})
        for name, metric in known.items():
            low, value, high = (_signed(metric[bound]) for bound in ("ci_low", "value", "ci_high"))
            text = f"{value}  [{low}, {high}]  {short_unit(metric['unit'])}"
            rows.append(
                {
                    "label": title if len(models) == 1 else name,
                    "text": text.rstrip(),
                    "reach": reach,
                    **metric,
                }
            )
    return rows


def _samples(folder: Path, candidate: str | None, count: int = 4) -> list[dict[str, Any]]:
    """Answers side by side: the candidate's largest gains, its largest losses, its most different texts."""
    groups = list(store.read(folder / "groups.jsonl"))
    if candidate is None or not groups or len(groups[0].completions) < 2:
        return []
    names = [f.source for f in groups[0].feedback]
    at = names.index(candidate) if candidate in names else len(names) - 1

    def gain(g: Group) -> float:
        a, b = g.feedback[at].score, g.feedback[0].score
        return 0.0 if a is None or b is None else a - b

    def distance(g: Group) -> float:
        a, b = set(g.completions[at].text.split()), set(g.completions[0].text.split())
        return 1 - len(a & b) / max(1, len(a | b))

    # Losses are shown as readily as gains; texts that differ most show what a score may miss.
    ranked = sorted(groups, key=gain)
    picks = [(g, "largest gain") for g in reversed(ranked[-count:]) if gain(g) > 0]
    picks += [(g, "largest loss") for g in ranked[:count] if gain(g) < 0]
    picks += [(g, "most different texts") for g in sorted(groups, key=distance, reverse=True)[:2]]
    seen: set[str] = set()
    out = []
    for g, why in picks:
        if g.prompt.id + str(g.prompt.messages) in seen:
            continue
        seen.add(g.prompt.id + str(g.prompt.messages))

        # A harmful answer is there to be checked, and hidden until it is asked for.
        unsafe = classifiers.safety_label(g.prompt) == "unsafe"
        turns = [m for m in g.prompt.messages if m["role"] != "system"] or [
            {"role": "user", "content": g.prompt.text or ""}
        ]
        system = next((m["content"] for m in g.prompt.messages if m["role"] == "system"), "")
        answers = [
            {
                "model": n,
                "text": c.text,
                "score": f.score,
                "note": f.rationale,
                "hidden": unsafe and classifiers.violates(g.prompt, c.text),
            }
            for n, c, f in zip(names, g.completions, g.feedback, strict=True)
        ]
        out.append({"why": why, "system": system, "turns": turns, "answers": answers, "gain": gain(g)})
    return out


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def interval(metric: Mapping[str, Any]) -> str:
    if metric.get("ci_low") is None:
        return ""
    return f"{number(metric['ci_low'])} to {number(metric['ci_high'])}"


def _signed(value: float) -> str:
    return f"{value:+.3g}" if value else "0"


def short_unit(unit: str) -> str:
    """A unit for a narrow place: of what a share is one stands elsewhere."""
    return unit.split(" of ")[0] if unit.startswith("share") else unit
