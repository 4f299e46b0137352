"""Answers side by side on the same prompts: what the page's filters and its search work on."""

from __future__ import annotations

import base64
import functools
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilter.artifacts import read_json
from kilter.data import store
from kilter.evaluation import classifiers
from kilter.evaluation.metrics import titles
from kilter.screen import plain
from kilter.types import Completion, Feedback, Group, Prompt

BUDGET = 3_500_000
"""Characters of packed answers on a page, which as a whole stays below 5 MB."""

CHOSEN = 3
"""Prompts of each sort on paper, and where a browser runs no scripts."""

SCORE = "score"
"""What is compared where no metric has a value of every prompt."""


@dataclass(frozen=True)
class Shelf:
    """The answers of several models to the same prompts.

    Args:
        models: names, the order of every list of answers.
        baseline: place of the model that the others are compared with; None where there is only one.
        candidate: place of the model that the page is about.
        measures: metrics with a value of every prompt, by name: their titles.
        rows: one per prompt, plain data.
        left_out: prompts for which the page has no room.
    """

    models: Sequence[str]
    baseline: int | None
    candidate: int
    measures: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    left_out: int = 0

    @functools.cached_property
    def packed(self) -> str:
        """Everything as deflated JSON in base64: a page that holds a thousand prompts stays small."""
        data = {
            "models": self.models,
            "baseline": self.baseline,
            "candidate": self.candidate,
            "measures": self.measures,
            "rows": self.rows,
        }
        return _packed(data)

    def chosen(self) -> list[dict[str, Any]]:
        """Largest gains and losses of the candidate, and its most different texts."""
        ranked = sorted(self.rows, key=self._gain)
        picks = [("largest gain", r) for r in reversed(ranked[-CHOSEN:]) if self._gain(r) > 0]
        picks += [("largest loss", r) for r in ranked[:CHOSEN] if self._gain(r) < 0]
        different = sorted(self.rows, key=lambda r: -r["changed"])[:2]
        picks += [("most different texts", r) for r in different]
        seen: set[int] = set()
        found = []
        for why, row in picks:
            if row["i"] not in seen:
                seen.add(row["i"])
                found.append({"why": why, "gain": self._gain(row), **row})
        return found

    def _gain(self, row: Mapping[str, Any]) -> float:
        """What the candidate gained on a prompt by the first measure; 0 where it cannot be said."""
        return _gain(row, next(iter(self.measures)), self.candidate, self.baseline) or 0.0


def shelf(
    folder: Path, evaluation: Mapping[str, Any], candidate: str | None, budget: int = BUDGET
) -> Shelf | None:
    """The answers of an evaluation, as far as the page has room for them.

    Args:
        folder: of the stage that evaluated.
        evaluation: what its evaluation.json holds.
        candidate: model that the page is about; None: the first.
        budget: characters that the packed answers may take.

    Returns:
        None where no model answered anything.
    """
    names = list(evaluation["models"])
    path = folder / "groups.jsonl"
    if not names or not path.is_file():
        return None
    groups = [g for g in store.read(path) if [f.source for f in g.feedback] == names]
    if not groups:
        return None
    values = read_json(p) if (p := folder / "per_prompt.json").is_file() else {}
    measures = _measures(values, names, len(groups), evaluation)
    rows = [_row(i, g, values, measures) for i, g in enumerate(groups)]
    base = names.index(evaluation["baseline"]) if len(names) > 1 else None
    at = names.index(candidate) if candidate in names else 0
    return fitted(Shelf(names, base, at, measures, compared(rows, at, base), 0), budget)


def fitted(whole: Shelf, budget: int = BUDGET) -> Shelf:
    """The shelf, or the part of it that fits: what a reader asks for first is kept longest."""
    size = len(whole.packed)
    if size <= budget:
        return whole
    measure = next(iter(whole.measures))

    def worth(row: Mapping[str, Any]) -> tuple[bool, float]:
        gain = _gain(row, measure, whole.candidate, whole.baseline)
        return gain is not None, -abs(gain or 0.0) - row["changed"]

    # Unscored first, then large changes. Rows differ in length, so the first guess may be too many.
    ranked, keep = sorted(whole.rows, key=worth), int(len(whole.rows) * budget / size)
    while keep > 1:
        kept = sorted(ranked[:keep], key=lambda r: r["i"])
        left_out = len(whole.rows) - keep
        part = Shelf(whole.models, whole.baseline, whole.candidate, whole.measures, kept, left_out)
        if len(part.packed) <= budget:
            return part
        keep = keep * 9 // 10
    return Shelf(whole.models, whole.baseline, whole.candidate, whole.measures, [], len(whole.rows))


def compared(rows: Iterable[dict[str, Any]], candidate: int, baseline: int | None) -> list[dict[str, Any]]:
    """The rows with how far the candidate's text is from the baseline's.

    0 stands for the same words, 1 for no word in common.
    """
    found = []
    for row in rows:
        texts = [set(a["text"].split()) for a in row["answers"]]
        a, b = texts[candidate], texts[candidate if baseline is None else baseline]
        found.append(row | {"changed": round(1 - len(a & b) / max(1, len(a | b)), 3) if a | b else 0.0})
    return found


def _row(i: int, group: Group, values: Mapping[str, Any], measures: Mapping[str, str]) -> dict[str, Any]:
    """One prompt with everybody's answer to it."""
    prompt = group.prompt
    turns = [[m["role"], m["content"]] for m in prompt.messages if m["role"] != "system"]
    system = next((m["content"] for m in prompt.messages if m["role"] == "system"), "")
    both = zip(group.completions, group.feedback, strict=True)
    # What the evaluation has read already is not read again.
    read = {f.source: values[f.source]["refusal"][i] for f in group.feedback if "refusal" in measures}
    answers = [_answer(prompt, c, f, read.get(f.source)) for c, f in both]
    found = {
        m: [f.score for f in group.feedback]
        if m == SCORE
        else [values[f.source][m][i] for f in group.feedback]
        for m in measures
    }
    return {
        "i": i,
        "id": prompt.id,
        "system": system,
        "turns": turns or [["user", prompt.text or ""]],
        "unsafe": classifiers.safety_label(prompt) == "unsafe",
        "answers": answers,
        "values": {m: [None if v is None else round(v, 4) for v in of] for m, of in found.items()},
    }


def _answer(
    prompt: Prompt, completion: Completion, feedback: Feedback, declined: float | None
) -> dict[str, Any]:
    """An answer; a harmful one is there to be checked, and hidden until it is asked for."""
    return {
        "text": completion.text,
        "note": feedback.rationale,
        "unscored": feedback.score is None,
        "declined": classifiers.declines(prompt, completion.text) if declined is None else declined == 1.0,
        "harmful": classifiers.violates(prompt, completion.text),
    }


def _measures(
    values: Mapping[str, Any], names: Sequence[str], n: int, evaluation: Mapping[str, Any]
) -> dict[str, str]:
    """Metrics that every model has a value of, of every prompt; the scores themselves where none has."""
    named = titles(evaluation)
    of_all = [m for m in values.get(names[0], {}) if all(len(values[x].get(m, ())) == n for x in names)]
    scored = sorted(of_all, key=lambda m: m not in ("gold", "judge_score", "reward"))
    return {m: named.get(m, m) for m in scored} or {SCORE: "Score"}


def _gain(row: Mapping[str, Any], measure: str, candidate: int, baseline: int | None) -> float | None:
    """The candidate's value less the baseline's; without a baseline the value itself."""
    values = row["values"][measure]
    mine, theirs = values[candidate], 0.0 if baseline is None else values[baseline]
    return None if mine is None or theirs is None else mine - theirs


def _packed(data: Any) -> str:
    text = json.dumps(_seen(data), ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode())).decode()


def _seen(value: Any) -> Any:
    """The value with its texts as they can be seen: what would turn or hide them is written out."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Mapping):
        return {key: _seen(of) for key, of in value.items()}
    return [_seen(of) for of in value] if isinstance(value, list | tuple) else value
