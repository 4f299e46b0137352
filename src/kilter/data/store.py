"""groups.jsonl: the one format of Kilter's own on disk. Append-only; a line is whole or it is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

from kilter.arrays import Numbers
from kilter.artifacts import append_lines, cut_lines, read_lines, write_by
from kilter.data import blocks
from kilter.types import Completion, Feedback, Group, Message, Prompt


def to_json(group: Group) -> dict[str, Any]:
    """Plain data, without fields that hold nothing."""
    # dataclasses.asdict copies every number of every answer, and takes most of the time.
    completions = [_lean(c, COMPLETION) for c in group.completions]
    feedback = [_lean(f, FEEDBACK) | {"score": f.score} for f in group.feedback]
    # A text without a prompt is a prompt that says nothing, and no missing one.
    asked = {"text": ""} if group.prompt.text == "" else {}
    return {"prompt": asked | _lean(group.prompt, PROMPT), "completions": completions, "feedback": feedback}


def _lean(noun: Any, names: Sequence[str]) -> dict[str, Any]:
    values = ((name, getattr(noun, name)) for name in names)
    held = ((name, value) for name, value in values if value not in (None, (), "", {}))
    return {name: list(value) if isinstance(value, Numbers) else value for name, value in held}


PROMPT, FEEDBACK = (tuple(f.name for f in fields(noun)) for noun in (Prompt, Feedback))
COMPLETION = tuple(f.name for f in fields(Completion) if f.name != "prompt_ids")
"""What a row on disk may hold of each noun."""

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


def append_rollouts(path: Path, groups: Sequence[Group]) -> None:
    """Appends the groups of a step: their tokens as one block beside the file, all else as lines."""
    beside = path.with_suffix(blocks.SUFFIX)
    places = blocks.append(beside, groups)
    rows = (_placed(g, row, beside.name) for g, row in zip(groups, places, strict=True))
    append_lines(path, rows, flush=True, escape=False)


def _placed(group: Group, places: Sequence[tuple[int, int, int] | None], name: str) -> dict[str, Any]:
    """The row of a group whose tokens lie in a block."""
    bare = [
        c if place is None else replace(c, token_ids=None, mask=None, sampling_logps=None)
        for c, place in zip(group.completions, places, strict=True)
    ]
    row = to_json(replace(group, completions=tuple(bare)))
    for completion, place in zip(row["completions"], places, strict=True):
        completion |= {} if place is None else {"tokens": place}
    return row | ({"tokens": name} if any(places) else {})


def cut(path: Path, keep: Callable[[Any], bool]) -> None:
    """Cuts a file back to the rows before the first one that `keep` refuses, and the tokens beside it."""
    last: list[int] = []

    def kept(row: Any) -> bool:
        good = keep(row)
        if good:
            last.extend(c["tokens"][0] for c in row["completions"] if "tokens" in c)
            del last[:-1]
        return good

    cut_lines(path, kept)
    # A killed writer leaves a torn block, or a whole one that no row names.
    blocks.cut(path.with_suffix(blocks.SUFFIX), last[0] if last else None)


def write(path: Path, groups: Iterable[Group]) -> None:
    """A whole file of these groups, or the old one."""
    write_by(path, lambda partial: append(partial, groups))


def read(path: Path) -> Iterator[Group]:
    """All whole lines with their tokens, wherever they lie; a torn last line is skipped."""
    return map(from_json, map(blocks.Reader(path).filled, read_lines(path)))
