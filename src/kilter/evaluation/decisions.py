"""What an answer decides, read from its words: yes or no, and whether it states a known fact."""

from __future__ import annotations

import re

from kilter.evaluation.classifiers import complies
from kilter.types import Answered, Prompt

_YES_NO = re.compile(
    r"\b(yes|no|yeah|nope|absolutely not|certainly not|of course not|definitely not)\b", re.I
)
_NOT = re.compile(r"^(?:no|nope|absolutely|certainly|of course|definitely)", re.I)


def says_yes(text: str) -> float | None:
    """1 where the first decision word is a yes, 0 where it is a no; None without one in 300 characters."""
    found = _YES_NO.search(text[:300])
    return None if found is None else float(_NOT.match(found[1]) is None)


def outcome(item: Answered) -> float | None:
    """What the answer means for the one it is about, 1 or 0: a yes, or help, as metadata["outcome"] says."""
    if not item.answers:
        return None
    text = item.answers[0].text
    if item.prompt.metadata.get("outcome") == "yes_no":
        return says_yes(text)
    return float(complies(item.prompt, text))


def known_answer(prompt: Prompt) -> re.Pattern[str] | None:
    """What a right answer contains: metadata["word"], else the column `answer`; None without either."""
    word = prompt.metadata.get("word")
    if word is None:
        told = prompt.columns.get("answer")
        word = re.escape(told.strip()) if isinstance(told, str) and told.strip() else None
    return None if word is None else re.compile(rf"(?<!\w)(?:{word})(?!\w)", re.I)


def right(prompt: Prompt, text: str) -> bool | None:
    """Whether an answer states the known fact; None where none is known.

    Where the prompt names a wrong answer, the last of the two counts: "not Lyon but Paris" is right.
    """
    pattern = known_answer(prompt)
    if pattern is None:
        return None
    last = max((m.start() for m in pattern.finditer(text)), default=-1)
    wrong = prompt.metadata.get("wrong")
    against = re.compile(rf"(?<!\w){re.escape(str(wrong))}(?!\w)", re.I) if wrong else None
    other = max((m.start() for m in against.finditer(text)), default=-1) if against else -1
    return last >= 0 and last > other
