"""What a source of feedback may need of the run around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilter.errors import UserError
from kilter.seams import RawScores, Sampler
from kilter.types import Group, Prompt

if TYPE_CHECKING:  # an endpoint is asked without torch
    from kilter.roles.open import OpenSpec
    from kilter.sampling.config import SamplerKind

OpenScores = Callable[[Callable[..., RawScores], Mapping[str, Any]], RawScores]
"""Makes a model from a class and plain arguments, wherever it is to live."""

OpenSampler = Callable[["SamplerKind", "OpenSpec", str], Sampler]
"""Opens a sampler over a model, wherever it is to live; see roles/sampler.py."""


def scores_here(make: Callable[..., RawScores], arguments: Mapping[str, Any]) -> RawScores:
    """The model in this process."""
    return make(**arguments)


@dataclass(frozen=True)
class Context:
    """The resources of a run that a source may need.

    model: resolves a stage or model name to a folder. policy: (Scorer, Encoder) or None. known: answers
    of the training data, on which rewards are normalised. gather: one value of every rank, in order.
    folder: where a source may keep what it paid for; None is nowhere. certificates: judge.json files of the
    run, beside the one that a judge's settings name. replay: kept replies that answer in place of every
    judge, whatever cache its settings name; None asks. scores: opens a model that scores, here or elsewhere.
    sampler: opens the model of a judge elsewhere; None opens it here.
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
    scores: OpenScores = scores_here
    sampler: OpenSampler | None = None


_LOGGED = "metrics.jsonl holds each reward's mean, and groups.jsonl every score"

OF_TRL = {
    "trainer_state": "Kilter passes prompts, completions and columns alone",
    "log_extra": _LOGGED,
    "log_metric": _LOGGED,
    "environments": "Kilter has no environments, and columns hold what a reward needs",
    "environment": "Kilter has no environments, and columns hold what a reward needs",
}
"""Arguments that TRL gives to a reward function and Kilter does not, and what stands in their place."""


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
        if name in OF_TRL:
            problem = "is an argument of TRL's trainers, and no column of the data"
            instead = OF_TRL[name]
            raise UserError(field, name, problem, f"leave it out, or give it a default: {instead}")
        raise UserError(
            field,
            name,
            f"is needed and is not a column of the data (it has {', '.join(sorted(known)) or 'none'})",
            f"name a column that the data has, or say which one it is: --map {name}=COLUMN",
        )
