"""The looks of two answers, as features that a win rate is controlled for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kilter.types import Completion

_CODE = re.compile(r"^```.*?(?:^```|\Z)", re.M | re.S)
"""What stands in a block of code is no markdown of the answer's own."""

MARKS: Mapping[str, re.Pattern[str]] = {
    "headers": re.compile(r"^ {0,3}#{1,6} ", re.M),
    "lists": re.compile(r"^\s*(?:[-*+•]|\d+[.)]) ", re.M),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
}
"""Markdown by feature."""


def length(answer: Completion) -> int:
    """Tokens; words where an endpoint gives text alone."""
    return len(answer.text.split()) if answer.token_ids is None else len(answer.token_ids)


def normalised(answer: Completion, other: Completion) -> dict[str, float]:
    """Differences of two answers by feature, each in [-1, 1]; 0 where both have as much of it.

        length: (a - b) / (a + b) of tokens
        others: (a - b) / (a + b + 1) of marks per token

    Args:
        answer: counts as a.
        other: counts as b.
    """
    sizes = length(answer), length(other)
    plain = [_CODE.sub("", a.text) for a in (answer, other)]
    found = {"length": (sizes[0] - sizes[1]) / (sum(sizes) or 1)}
    for name, mark in MARKS.items():
        a, b = (len(mark.findall(text)) / (size + 1) for text, size in zip(plain, sizes, strict=True))
        found[name] = (a - b) / (a + b + 1)
    return found
