"""The history of a row that Kilter made: its stages, its source row, and the models that took part.

It travels in the prompt's metadata, so it survives every file and every shape. Each stage adds one entry:

    {"stage": "answers", "kind": "generate", "row": "17", "model": "sft", "model_hash": "ab..",
     "sampling": {..}}
    {"stage": "pairs", "kind": "label", "feedback": {..}, "answers": [2, 0], "models": {"rm": "cd.."}}

Who scored an answer, how high and why stands in its Feedback.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kilter.data.dataset import prompt_key
from kilter.types import Prompt

KEY = "kilter.lineage"
"""In Prompt.metadata; no identifier, so that no reward function receives it as a column."""

UNCERTIFIED = "uncertified_judges"
"""Names them in an entry whose scores are of a model that learned their labels.

It is a column in rows of other formats, which keep no history.
"""


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
