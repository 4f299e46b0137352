"""What can be said of a constitution by reading it: principles that say the same, and what may be meant."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from kilter.constitution.document import Constitution, Principle, Shot
from kilter.data.words import words
from kilter.data.worlds.registry import known_labels

ALIKE = 0.8
"""Jaccard index of the words from which two principles count as duplicates."""

COMMON = frozenset(
    words(
        "a an and any are as at be by for from has have if in is it its no not of on or so that the "
        "their them to was what which who whom with answer answers response assistant should must"
    )
)
"""Words that nearly all principles share, and that make none alike."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at. level: error where a run would learn nothing from the principle."""

    level: Literal["error", "warn"]
    principle: str
    problem: str


def lint(document: Constitution) -> list[Finding]:
    """Every finding, errors first."""
    found = [*_duplicates(document), *_examples(document), *_ranks(document), *_scopes(document)]
    if not document.licence:
        found.append(Finding("warn", "", "has no licence: nobody knows whether its words may be used"))
    return sorted(found, key=lambda f: (f.level != "error", f.principle))


def jaccard(a: str, b: str) -> float:
    """Words in both over words in either; common ones do not count."""
    first, second = (set(words(text)) - COMMON for text in (a, b))
    return len(first & second) / len(first | second) if first | second else 0.0


def _duplicates(document: Constitution) -> Iterator[Finding]:
    for a, b in itertools.combinations(document.principles, 2):
        index = jaccard(a.text, b.text)
        # Two principles may say the same of different prompts.
        if index > ALIKE and a.scope == b.scope:
            yield Finding("error", b.id, f"says the same as {a.id} (Jaccard index of the words {index:.2f})")


def _examples(document: Constitution) -> Iterator[Finding]:
    for principle in document.principles:
        for shot in principle.examples.bad:
            if problem := _problem(principle, shot):
                yield Finding("error", principle.id, problem)


def _problem(principle: Principle, shot: Shot) -> str:
    if not shot.critique:
        return f"has a bad example without a critique: {shot.prompt[:60]!r}"
    if words(shot.revision) == words(shot.answer):
        return f"has an example whose revision is its answer: {shot.prompt[:60]!r}"
    return ""


def _scopes(document: Constitution) -> Iterator[Finding]:
    """Labels that no prompt that Kilter brings has: a principle of another label alone is never drawn."""
    said = {label for principle in document.principles for label in principle.scope.labels}
    if not said - {"safe", "unsafe"}:
        return
    known = known_labels()
    for principle in document.principles:
        for label in principle.scope.labels:
            if label not in known:
                close = get_close_matches(label, known, n=1)
                meant = f"did you mean {close[0]!r}?" if close else "a world of your own may have it"
                problem = f"has a scope with the label {label!r}, which no prompt of Kilter's worlds has"
                yield Finding("warn", principle.id, f"{problem}: {meant}")


def _ranks(document: Constitution) -> Iterator[Finding]:
    ranks = document.tiers
    if len(document.principles) > 3 and len(set(ranks.values())) == 1:
        yield Finding("warn", "", "gives all principles one priority, so that weights decide every conflict")
