"""What a source of feedback may need of the run around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilter.errors import UserError
from kilter.types import Group, Prompt


@dataclass(frozen=True)
class Context:
    """The resources of a run that a source may need.

    model: resolves a stage or model name to a folder. policy: (Scorer, Encoder) or None. known: answers
    of the training data, on which rewards are normalised. gather: one value of every rank, in order.
    folder: where a source may keep what it paid for; None is nowhere. certificates: judge.json files of the
    run, beside the one that a judge's settings name. replay: kept replies that answer in place of every
    judge, whatever cache its settings name; None asks.
    """

    model: Callable[[str], Path] = Path
    policy: Any = None
    max_length: int = 1024
    template: str = "auto"
    known: Sequence[Group] = ()
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    folder: Path | None = None
    certificates: Sequence[Path] = ()
    replay: Path | None = None


def require_columns(needed: Sequence[str], prompts: Iterable[Prompt], field: str) -> None:
    """Raises UserError where not one prompt brings a column that a source needs.

    Args:
        needed: names of columns.
        prompts: all that it will be asked to score; none says nothing.
        field: the source, for messages.
    """
    lacking, known, seen = list(needed), set[str](), False
    for prompt in prompts:
        own = prompt.metadata.keys() | prompt.columns.keys()
        lacking, seen = [n for n in lacking if n not in own], True
        if not lacking:
            return
        known |= {n for n in own if n.isidentifier()}
    if lacking and seen:
        name = lacking[0]
        raise UserError(
            field,
            name,
            f"is needed and is not a column of the data (it has {', '.join(sorted(known)) or 'none'})",
            f"name a column that the data has, or say which one it is: --map {name}=COLUMN",
        )
