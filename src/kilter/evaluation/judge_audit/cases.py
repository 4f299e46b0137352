"""What a judge is audited on: pairs and lists of answers that people, or a world, have put in order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from kilter.data.dataset import prompt_key
from kilter.feedback.judge.source import reference
from kilter.types import Group, Prompt

WRITERS = ("chosen_model", "rejected_model")
"""Columns that say which model wrote the better and the worse answer."""

TRANSLATED = ("translated_prompt", "translated_chosen", "translated_rejected")
"""Columns with the same pair in another language."""


@dataclass(frozen=True, slots=True)
class Case:
    """Two answers to a prompt, the better one known.

    Args:
        prompt: what was asked.
        better: the preferred answer.
        worse: the other one.
        id: distinct among cases.
        cluster: rows of one prompt have the same number.
        writers: models that wrote the better and the worse answer; "" is unknown.
        reference: an answer known to be right, which the judge is shown; "" without one.
        translated: prompt, better and worse answer in another language; None without one.
    """

    prompt: Prompt
    better: str
    worse: str
    id: str
    cluster: int
    writers: tuple[str, str] = ("", "")
    reference: str = ""
    translated: tuple[str, str, str] | None = None

    @property
    def flipped(self) -> bool:
        """Whether a comparison names the worse answer first: half of them do, by hash."""
        return hashlib.sha256(f"{self.id}\0{self.better}".encode()).digest()[0] % 2 == 1


@dataclass(frozen=True, slots=True)
class Triple:
    """Three answers to a prompt, the best one first. graded: whether their order is known."""

    prompt: Prompt
    answers: tuple[str, str, str]
    id: str
    cluster: int
    graded: bool


def cases_of(groups: Sequence[Group], limit: int | None = None) -> list[Case]:
    """The first pairs of a data set in the shape `pairs`."""
    clusters: dict[str, int] = {}
    found = []
    for n, g in enumerate(groups[:limit]):
        cluster = clusters.setdefault(prompt_key(g.prompt), len(clusters))
        writers = tuple(str(g.prompt.columns.get(name, "")) for name in WRITERS)
        better, worse = (c.text for c in g.completions)
        both = (writers[0], writers[1])
        found.append(
            Case(
                g.prompt,
                better,
                worse,
                f"pair-{n}",
                cluster,
                both,
                reference(g.prompt),
                _translated(g.prompt),
            )
        )
    return found


def _translated(prompt: Prompt) -> tuple[str, str, str] | None:
    """The pair in another language, where the data has all of it."""
    texts = [str(prompt.columns.get(name) or "") for name in TRANSLATED]
    return (texts[0], texts[1], texts[2]) if all(texts) else None


def triples_of(groups: Sequence[Group], limit: int, seed: int) -> list[Triple]:
    """A random triple of each prompt with three answers; the data is in the shape `ranked`, best first."""
    clusters: dict[str, int] = {}
    found: list[Triple] = []
    for n, g in enumerate(groups):
        if len(g.completions) < 3 or len(found) == limit:
            continue
        rng = random.Random(f"triple:{seed}:{n}")
        picked = sorted(rng.sample(range(len(g.completions)), 3))
        scores = [g.feedback[i].score for i in picked]
        texts = [g.completions[i].text for i in picked]
        if len(set(texts)) < 3:
            continue
        cluster = clusters.setdefault(prompt_key(g.prompt), len(clusters))
        graded = None not in scores and len(set(scores)) == 3
        found.append(Triple(g.prompt, (texts[0], texts[1], texts[2]), f"triple-{n}", cluster, graded))
    return found
