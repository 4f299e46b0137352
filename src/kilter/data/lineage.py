"""The history of a row that Kilter made: its stages, its source row, and the models that took part.

It travels in the prompt's metadata, so it survives every file and every shape. Each stage adds one entry:

    {"stage": "answers", "kind": "generate", "row": "17", "model": "sft", "model_hash": "ab..",
     "sampling": {..}}
    {"stage": "pairs", "kind": "label", "feedback": {..}, "answers": [2, 0], "models": {"rm": "cd.."}}

Who scored an answer, how high and why stands in its Feedback.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kilter.data.dataset import prompt_key
from kilter.types import Group, Prompt

KEY = "kilter.lineage"
"""In Prompt.metadata; no identifier, so that no reward function receives it as a column."""

UNCERTIFIED = "uncertified_judges"
"""Names them in an entry whose scores are of a model that learned their labels.

It is a column in rows of other formats, which keep no history.
"""

REACHED = "reached.jsonl"
"""File of a training on fixed data: the marks of the rows of each step, {"step": 3, "rows": [[..], ..]}."""


def row_mark(group: Group) -> list[str]:
    """By what a row is known again after training: hashes of its prompt and of its answers, no partner's."""
    own = (c.text for c, f in zip(group.completions, group.feedback, strict=True) if f.kind != "mismatched")
    hashed = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8] for text in own]
    return [prompt_key(group.prompt)[:16], *hashed]


def marks(row: Sequence[str], group: Group) -> bool:
    """Whether a trained row is of this one: of its prompt, and of no answer that it lacks."""
    whole = row_mark(group)
    return row[0] == whole[0] and set(row[1:]) <= set(whole[1:])


def lineage(prompt: Prompt) -> list[dict[str, Any]]:
    """Every stage's entry, the first one first; empty for a row that was read from a file."""
    return [dict(entry) for entry in prompt.metadata.get(KEY, ())]


def uncertified(prompt: Prompt) -> list[str]:
    """Judges without a certificate that a row's labels come from."""
    judges = [j for entry in lineage(prompt) for j in (entry, *entry.get("judges", ()))]
    named = [str(j.get("judge_name", j["judge"])) for j in judges if "uncertified" in j]
    named += [str(name) for entry in lineage(prompt) for name in entry.get(UNCERTIFIED, ())]
    beside = prompt.columns.get(UNCERTIFIED, ())
    return [*named, *([beside] if isinstance(beside, str) else map(str, beside))]


def with_entry(prompt: Prompt, entry: dict[str, Any]) -> Prompt:
    """The same prompt with one more stage in its history."""
    return replace(prompt, metadata={**prompt.metadata, KEY: [*lineage(prompt), entry]})


def amended(prompt: Prompt, **more: Any) -> Prompt:
    """The same prompt with more in its last entry."""
    *before, last = lineage(prompt)
    return replace(prompt, metadata={**prompt.metadata, KEY: [*before, last | more]})


def row_id(prompt: Prompt) -> str:
    """What its source calls the row; where it has no name, the beginning of its content's hash."""
    return prompt.id or prompt_key(prompt)[:16]
