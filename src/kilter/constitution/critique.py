"""What a critique is worth: it names something that is in the answer, finds nothing, or is no critique."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from kilter.data.words import is_character, joined, words
from kilter.feedback.judge.parse import without_thoughts
from kilter.seams import Chat
from kilter.types import Ask, Reply

Found = Literal["problem", "nothing", "invalid"]

_NOTHING = re.compile(
    r"\W*(?:no (?:problems?|issues?|violations?)(?: (?:was|were|is|are))?(?: found)?"
    r"|nothing (?:is )?wrong|nothing goes against (?:it|the principle)|none)\W*$",
    re.I,
)
_QUOTED = re.compile(
    '"([^"\n]{2,400})"|\u201c([^\u201d\n]{2,400})\u201d|\u00ab([^\u00bb\n]{2,400})\u00bb'
    "|\u300c([^\u300d\n]{2,400})\u300d|\u300e([^\u300f\n]{2,400})\u300f"
)
ALIKE = 0.8
"""Similarity from which a quotation counts as the answer's words."""
RUN = 3
"""Words in a row that a critique without quotation marks shares with the answer; twice as many characters."""
LONGEST_QUOTE = 40
"""Words of a quotation that are compared."""


def said_by(chat: Chat, asks: Sequence[Ask]) -> list[Reply]:
    """What a critic or a reviser says. What it thought before is no critique, and nothing to learn."""
    return [replace(r, text=without_thoughts(r.text).strip()) for r in (chat.reply(asks) if asks else ())]


def look(critique: str, answer: str, prompt: str) -> tuple[Found, str]:
    """(what a critique is, why it is invalid).

    Args:
        critique: the critic's whole reply.
        answer: what it is about.
        prompt: the conversation, from which a critic may have taken orders.
    """
    lines = critique.strip().splitlines()
    if not lines:
        return "invalid", "the critic wrote nothing"
    said = " ".join(words(critique))
    # What the material asks the critic to write proves nothing when the critic writes it.
    if len(said.split()) >= RUN and f" {said} " in f" {' '.join(words(prompt))} ":
        return "invalid", "the critique repeats the prompt"
    if said and said == " ".join(words(answer)):
        return "invalid", "the critique repeats the answer"
    if _NOTHING.match(lines[0]) and len(lines) == 1:
        if said and f" {said} " in f" {' '.join(words(answer))} ":
            return "invalid", "the critique repeats the answer"
        return "nothing", ""
    if not names_something(critique, answer):
        return "invalid", "the critique names nothing that is in the answer"
    return "problem", ""


def names_something(critique: str, answer: str) -> bool:
    """Whether the critique quotes the answer, up to small slips, or shares three words in a row with it."""
    known = words(answer)
    quotes = list(_quotes(critique))
    if any(_stands_in(quote, known) for quote in quotes):
        return True
    # A quotation of something else is a claim that can be checked, and it is false.
    if quotes:
        return False
    said = words(critique)
    return any(not all(map(is_character, run)) for run in _shared(said, known, RUN)) or bool(
        _shared(said, known, 2 * RUN)
    )


def _shared(said: list[str], known: list[str], size: int) -> set[tuple[str, ...]]:
    """Words in a row that both hold; of an answer that is shorter than `size`, the whole."""
    size = min(size, len(known))
    if not size:
        return set()
    one, other = ({tuple(text[i : i + size]) for i in range(len(text) - size + 1)} for text in (said, known))
    return one & other


def _quotes(text: str) -> Iterator[list[str]]:
    for match in _QUOTED.finditer(text):
        if quoted := words(next(g for g in match.groups() if g is not None)):
            yield quoted[:LONGEST_QUOTE]


def _stands_in(quote: list[str], known: list[str]) -> bool:
    wanted = joined(quote)
    windows = (joined(known[i : i + len(quote)]) for i in range(max(1, len(known) - len(quote) + 1)))
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(wanted)
    for window in windows:
        matcher.set_seq1(window)
        if matcher.quick_ratio() >= ALIKE and matcher.ratio() >= ALIKE:
            return True
    return False
