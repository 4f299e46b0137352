"""One model's result on one task, as every format can say it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kilter.errors import UserError
from kilter.registry import Registry

Values = Sequence[float | None]


def content(path: Path) -> dict[str, Any]:
    """What a JSON file holds, for telling formats apart; empty where that is no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt with its answer.

    Args:
        id: told apart from all others of the task.
        prompt: what was asked, as text.
        answer: what the model said; "" where it said nothing.
        target: what was right, as far as it is known.
        question: what tells the question whatever template it was asked in; "" where the format has nothing.
        cluster: name that prompts which belong together share; "" where nobody says.
    """

    id: str
    prompt: str
    answer: str = ""
    target: str = ""
    question: str = field(default="", compare=False)
    cluster: str = ""


def cluster_named(about: Any) -> str:
    """The `cluster` that the notes on a prompt name; "" where they name none."""
    name = about.get("cluster") if isinstance(about, Mapping) else None
    return "" if name is None else str(name)


@dataclass(frozen=True, slots=True)
class Number:
    """A metric of the whole task.

    Args:
        value: of all prompts; None where nothing is scored.
        n: prompts behind it; 0 is unknown.
        unscored: prompts without a value.
        stderr: its standard error, None where the format has none.
        interval: lowest and highest, where the format has them.
        better: "higher", "lower", or None.
        method: how it was estimated.
        title: for people.
    """

    value: float | None
    n: int
    unscored: int = 0
    stderr: float | None = None
    interval: tuple[float, float] | None = None
    better: str | None = None
    method: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model did.

    Args:
        model: its name.
        task: what it was asked.
        numbers: metric -> its value.
        asked: its prompts and answers; none where the format keeps them elsewhere.
        values: metric -> one value per prompt of `asked`, None is unscored.
        about: what else the file says: where the model lies, how it was sampled, who made the file.
    """

    model: str
    task: str
    numbers: Mapping[str, Number]
    asked: Sequence[Asked] = ()
    values: Mapping[str, Values] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A format.

    Args:
        title: whose format it is.
        fits: whether a file is of this format.
        read: a file to the outcomes in it. Raises UserError.
        write: outcomes into a folder; the files that were written.
        beside: files that `read` reads beside the one that it is given.
    """

    title: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], list[Outcome]]
    write: Callable[[Sequence[Outcome], Path], list[Path]]
    beside: Callable[[Path], list[Path]] = lambda path: []


exchanges: Registry[Exchange] = Registry("result format")
"""By name."""


def safe(name: str) -> str:
    """A name as a folder or file may bear it."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._")[-80:] or "model"


def damaged(path: Path, why: str) -> UserError:
    """The error of a file that cannot be read."""
    return UserError(
        "results",
        str(path),
        f"cannot be read: {why}.",
        "Give a log of inspect_ai (.eval or .json) or results_*.json of lm-eval.",
    )
