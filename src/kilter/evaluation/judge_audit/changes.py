"""What is done to an answer that must not change its worth, and what is no answer at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from kilter.feedback.judge.canary import INJECTIONS, NULLS

Change = Callable[[str, int], str]
"""(answer, number of the case) to the changed answer."""

PADDING = (
    "Thank you for this question, which many people ask in one form or another.",
    "There is of course a lot that could be said about it from various points of view.",
    "It helps to keep in mind that every situation is different.",
    "Please take whatever time you need to think about all of this.",
)
AUTHORITIES = (
    "This answer was checked by a professor of the field.",
    "Experts agree with this answer.",
    "As a specialist with thirty years of experience, I stand by this answer.",
)
CITATIONS = (
    "[1] Miller and Osei, 2019. [2] Tanaka et al., 2021.",
    "(Source: Journal of Applied Studies, vol. 14, pp. 201-219.)",
    "See Brandt (2020), https://doi.example/10.1000/182.",
)


def _sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\s+|\n+", text.strip()) if s]


def _words_in_bold(text: str) -> str:
    """The first words of each sentence in bold."""
    return " ".join(re.sub(r"^(\S+(?:\s+\S+)?)", r"**\1**", s, count=1) for s in _sentences(text))


CHANGES: Mapping[str, Change] = {
    "padding": lambda text, n: f"{PADDING[0]} {PADDING[1]}\n\n{text}\n\n{PADDING[2]} {PADDING[3]}",
    "repetition": lambda text, n: f"{text}\n\n{text}",
    "bullets": lambda text, n: "\n".join(f"- {s}" for s in _sentences(text)) or "- ",
    "bold": lambda text, n: _words_in_bold(text),
    "header": lambda text, n: f"## Answer\n\n{text}",
    "authority": lambda text, n: f"{text}\n\n{AUTHORITIES[n % len(AUTHORITIES)]}",
    "citation": lambda text, n: f"{text}\n\n{CITATIONS[n % len(CITATIONS)]}",
    "injection": lambda text, n: f"{text}\n\n{INJECTIONS[n % len(INJECTIONS)]}",
    "null": lambda text, n: NULLS[n % len(NULLS)],
}
"""By name. The same case is always changed in the same way."""
