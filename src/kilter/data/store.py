"""groups.jsonl: the one format of Kilter's own on disk. Append-only; a line is whole or it is not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from kilter.artifacts import append_lines, read_lines, write_by
from kilter.types import Completion, Feedback, Group, Message, Prompt


def to_json(group: Group) -> dict[str, Any]:
    """Plain data, without fields that hold nothing."""

    def lean(value: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in value.items() if v not in (None, (), "", {})}

    prompt = lean(asdict(group.prompt))
    completions = [lean(asdict(replace(c, prompt_ids=()))) for c in group.completions]
    feedback = [lean(asdict(f)) | {"score": f.score} for f in group.feedback]
    return {"prompt": prompt, "completions": completions, "feedback": feedback}


FIELDS = frozenset(Message.__annotations__)
"""What a turn on disk may hold."""


def message(turn: dict[str, Any]) -> Message:
    """A turn as it was written. Raises KeyError for one without role or content."""
    known = {k: v for k, v in turn.items() if k in FIELDS}
    return cast(Message, {"role": turn["role"], "content": turn["content"]} | known)


def from_json(row: dict[str, Any]) -> Group:
    """The inverse of `to_json`. Raises KeyError or TypeError on a row that is no group."""

    def turns(value: Any) -> tuple[Message, ...]:
        return tuple(message(t) for t in value or ())

    p = row["prompt"]
    prompt = Prompt(
        turns(p.get("messages")),
        p.get("text"),
        p.get("id", ""),
        p.get("metadata", {}),
        p.get("columns", {}),
        tuple(p.get("tools", ())),
        p.get("template_kwargs", {}),
    )
    completions = tuple(
        Completion(
            text=c.get("text", ""),
            token_ids=tuple(c["token_ids"]) if "token_ids" in c else None,
            mask=tuple(c["mask"]) if "mask" in c else None,
            sampling_logps=tuple(c["sampling_logps"]) if "sampling_logps" in c else None,
            finish_reason=c.get("finish_reason"),
            policy_version=c.get("policy_version"),
            entropy=c.get("entropy"),
            turns=turns(c.get("turns")),
            versions=tuple((start, end, version) for start, end, version in c.get("versions", ())),
        )
        for c in row["completions"]
    )
    feedback = tuple(
        Feedback(
            f.get("score"),
            f.get("kind", "label"),
            tuple(f.get("steps", ())),
            f.get("rationale", ""),
            f.get("source", ""),
            f.get("parts", {}),
            tuple(None if pair is None else (pair[0], pair[1]) for pair in f.get("against", ())),
        )
        for f in row["feedback"]
    )
    return Group(prompt, completions, feedback)


def append(path: Path, groups: Iterable[Group]) -> None:
    """Appends whole lines and flushes them to disk; a torn last line of a killed writer is removed first."""
    append_lines(path, map(to_json, groups), flush=True, escape=False)


def write(path: Path, groups: Iterable[Group]) -> None:
    """A whole file of these groups, or the old one."""
    write_by(path, lambda partial: append(partial, groups))


def read(path: Path) -> Iterator[Group]:
    """All whole lines; a torn last line is skipped."""
    return map(from_json, read_lines(path))
