"""From a written reply to a verdict: the judge's own last one, never one that was quoted or planted.

A reply that is one JSON object {"mark", "verdict"} counts first. Otherwise its last line counts, if that has
the form `VERDICT mark = X`. The mark occurs in no material, so that no answer can hold a verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kilter.feedback.judge.announced import own
from kilter.validation import unique

THOUGHTS = tuple(
    re.compile(pattern, re.S | re.I | re.M)
    for pattern in (
        r"<think(?:ing)?\b[^>]*>.*?(?:</think(?:ing)?>|\Z)",
        # Some models' templates begin the thought themselves, so that a reply holds its end alone.
        r"\A.*</think(?:ing)?>",
        r"\[(THINK|THOUGHTS?|REASONING|ANALYSIS)\].*?(?:\[/\1\]|\Z)",
        r"◁think▷.*?(?:◁/think▷|\Z)",
        r"<\|channel\|>(?:analysis|commentary).*?(?:<\|channel\|>final<\|message\|>|\Z)",
    )
)
"""What a reply holds before it speaks. One that broke off goes to the end."""
ENCLOSED = tuple(
    re.compile(pattern, re.S | re.I | re.M)
    for pattern in (
        # Whatever a tag at the head of a line encloses: another name for a thought, or a quotation.
        r"<!--.*?(?:-->|\Z)",
        r"^[ \t]*<(?!br\b|hr\b)([a-z][\w:.-]*)(?:\s[^<>\n]*)?>.*?(?:</\1\s*>|\Z)",
    )
)
"""What may be quoted or thought in a reply that should be a verdict. One that broke off goes to the end."""
FENCE = re.compile(
    r"^[ \t]*(?:(?:[-*+>]|\d+[.)])[ \t]+)?(`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.S | re.M
)
QUOTED_LINE = re.compile(r"^[ \t]*>.*$", re.M)
QUOTED = re.compile(r"\"(?:[^\"\n]|\n(?!\s*\n))*\"|„[^“”]*(?:[“”]|\Z)|“[^”]*(?:”|\Z)|«[^»]*(?:»|\Z)|»[^»«]*«")
BROKEN_OFF = re.compile(
    "|".join(
        rf"{opens}(?:[^{opens}{closes}\n]|\n(?!\s*\n))*\Z"
        for opens, closes in ('""', "‘’", "‹›", "»«", "「」", "『』", "《》", "〈〉")
    )
)
"""A quotation of the last paragraph that nothing closes; before a paragraph's end it may be an inch."""

GAP = "\ufffc"
"""Stands where a line held more than is read of it."""
LONE_GAP = re.compile(rf"^[ \t{GAP}]+$", re.M)

MAY_HOLD = frozenset({"mark", "verdict", "reason"})
"""Fields of a verdict as JSON; an object with others is something else."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A verdict, or None with the reason why there is none."""

    value: str | None
    how: Literal["", "schema", "tag"] = ""
    reason: str = ""


def own_words(reply: str) -> str:
    """The reply without thoughts, code and quotations."""
    text = _spoken(reply)
    for lines in (FENCE, QUOTED_LINE):
        text = lines.sub("", text)
    return LONE_GAP.sub("", QUOTED.sub(GAP, text))


def without_thoughts(reply: str) -> str:
    """What a model says, without what it thought before, where its server does not part the two."""
    for thought in THOUGHTS:
        reply = thought.sub("", reply)
    return reply


def _spoken(reply: str) -> str:
    for silent in (*THOUGHTS, *ENCLOSED):
        reply = silent.sub(_gap, reply)
    return reply


def _gap(found: re.Match[str]) -> str:
    """Nothing at the head of a line. Elsewhere a sign that the line went on, for that may take words back."""
    line = found.string[found.string.rfind("\n", 0, found.start()) + 1 : found.start()]
    return GAP if line.strip() else ""


def read(reply: str, mark: str, allowed: Sequence[str]) -> Parsed:
    """The verdict of a reply.

    Args:
        reply: all that the judge wrote.
        mark: the mark of the question.
        allowed: what a verdict may be. Nothing else counts, and nothing is rounded or completed to one.
    """
    found = _schema(_spoken(reply).strip(), mark)
    if found is not None:
        return Parsed(found, "schema") if found in allowed else _refused(found, allowed)

    # A verdict stands alone on the last line, as asked: who goes on closes a quotation, or takes it back.
    tag = re.compile(rf"^ {{0,3}}([*_]{{0,2}})VERDICT {re.escape(mark)} = (\S+?)\1\.?[ \t]*$", re.M)
    text = own_words(reply).rstrip()
    above, _, last = text.rpartition("\n")
    value = None if BROKEN_OFF.search(text) else tag.search(last)
    if value is not None and not (own(above) and own(_quoted_above(reply))):
        return Parsed(None, reason="the line above the verdict does not leave it to the judge")
    if value is None:
        goes_on = tag.search(text) is not None
        return Parsed(None, reason=f"the reply {'goes on after its' if goes_on else 'holds no'} verdict")
    return Parsed(value[2], "tag") if value[2] in allowed else _refused(value[2], allowed)


def _quoted_above(reply: str) -> str:
    """The quoted line on which the last line follows at once; "" where it follows on no quotation."""
    line = reply.rstrip().rpartition("\n")[0].rpartition("\n")[2]
    return line if QUOTED_LINE.match(line) else ""


def _refused(value: str, allowed: Sequence[str]) -> Parsed:
    return Parsed(None, reason=f"the verdict {value[:20]!r} is not one of {', '.join(allowed)}")


def _schema(text: str, mark: str) -> str | None:
    """The verdict of a reply that is one JSON object and nothing else; None where it is not."""
    if not text.startswith("{"):
        return None
    # Of two verdicts under one key, which one counts would be the reader's choice.
    try:
        row = json.loads(text, object_pairs_hook=unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not row.keys() <= MAY_HOLD or row.get("mark") != mark:
        return None
    value = row.get("verdict")
    # True is an int to Python, and 4.0 is not a grade that was offered.
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value)


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
