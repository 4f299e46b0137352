"""Answers that are known to be right: the reference of a prompt, and an answer beside it."""

from __future__ import annotations

import re
import string
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kilter.data.row import is_missing, unpacked
from kilter.data.row import name as name_of
from kilter.feedback.verifiers import behind
from kilter.types import Answered, Prompt

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = frozenset(string.punctuation)


def references(prompt: Prompt, key: str = "answer") -> list[str]:
    """Texts that would be right, any of them; none where the prompt has no reference.

    Args:
        prompt: with what Kilter noted of it, and the user's own columns.
        key: name of the note or the column; a list there holds several right answers.
    """
    value = prompt.metadata.get(key, prompt.columns.get(key))
    if isinstance(value, str):
        value = unpacked(value)
    several = value if isinstance(value, list | tuple) else [value]
    return [name_of(one) for one in several if not is_missing(one)]


def stated(text: str, mark: str) -> str | None:
    """What of an answer is compared: what stands behind its last mark; None where it has none."""
    if not mark:
        return text
    return behind(text, mark) if mark in text else None


@dataclass(frozen=True)
class AgainstReferences(ABC):
    """A metric of one answer beside its references.

    key: column of the reference, a text or several of them. mark: only what follows the last mark counts, and
    an answer without it scores 0.
    """

    key: str = "answer"
    mark: str = ""

    @abstractmethod
    def score(self, text: str, right: Sequence[str]) -> float:
        """0 to 1 for what an answer states."""

    def per_prompt(self, item: Answered) -> float | None:
        """0 to 1; unscored without a reference."""
        right = references(item.prompt, self.key)
        if not right:
            return None
        text = stated(item.answers[0].text, self.mark)
        return 0.0 if text is None else self.score(text, right)


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and further spaces, as SQuAD compares (Rajpurkar 2016)."""
    plain = "".join(c for c in text.lower() if c not in PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", plain).split())


def same(text: str, right: Sequence[str]) -> float:
    """1 where the answer is one of the references once both are normalised, else 0."""
    return float(any(normalised(text) == normalised(reference) for reference in right))


def word_f1(text: str, right: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, against the reference that it is highest for."""
    return max(_f1(normalised(text).split(), normalised(reference).split()) for reference in right)


def _f1(said: Sequence[str], right: Sequence[str]) -> float:
    """Of two lists of words; two empty ones are equal."""
    if not said or not right:
        return float(list(said) == list(right))
    shared = (Counter(said) & Counter(right)).total()
    return 2 * shared / (len(said) + len(right))
