"""Reads the verdict of an answer: "yes", "no", or "" where it has none or contradicts itself.

Three tiers of words, and the strongest that occurs decides: words of decision (approved, declined), what the
desk says that it will do ("we can refund you"), and a bare yes or no. A negation turns the words behind it.
Questions and conditions assert nothing: "Approved? No." is a no, and "if it were used: declined" is nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["yes", "no", ""]

_YES = (
    r"approv(?:e|es|ed|al|ing)|grant(?:ed|s|ing)?|accept(?:ed|s|able)?|allow(?:ed|s)?|permit(?:ted|s)?"
    r"|eligible|entitled|honou?red|qualif(?:y|ies|ied)|agreed|go(?:es)? ahead|green light|entitlement|upheld"
)
_NO = (
    r"declin(?:e|es|ed|ing)|refus(?:e|es|ed|al|ing)|den(?:y|ies|ied|ial)|reject(?:ed|s|ion|ing)?"
    r"|turn(?:ed)? down"
    r"|turn (?:this|it|that|you) down|ineligible|disallow(?:ed)?|forbidden|disapproved?|not an option"
    r"|impossible|ruled out|out of the question"
)
_DECISION = re.compile(rf"\b(?:(?P<no>{_NO})|(?P<yes>{_YES}))\b")
_DOES = (
    r"refund(?:ed)?|replac(?:e|ed)|cancel(?:l?ed)?|repair(?:ed)?|repay|repaid|mend(?:ed)?|fix(?:ed)?"
    r"|exchange[d]?|reimburse[d]?|tak(?:e|en) (?:it|that|this) back"
    r"|send (?:you )?(?:a|the) (?:new|replacement)"
    r"|help|do (?:that|this|so|it)|tell|share[d]?|disclose[d]?|give (?:it|that|you|out)|make an exception"
)
_CAN = r"can|could|will|shall|'ll|may|(?:am|are|'m|'re) (?:able|happy|glad|going) to"
_CANNOT = (
    r"can ?not|can't|could not|couldn't|will not|won't|shall not|may not|mustn't|must not|do not|don't"
    r"|(?:am |are |is )?unable to|(?:am not|are not|aren't|not) able to"
    r"|am not going to|are not going to|aren't going to|never"
)
_ACTS = re.compile(
    rf"\b(?P<no>(?:{_CANNOT})(?: \w+){{0,3}}? (?:{_DOES}))\b"
    rf"|(?:\b|(?='))(?P<yes>(?:{_CAN})(?: (?!not\b|never\b|no\b)\w+){{0,3}}? (?:{_DOES}))\b"
    r"|\b(?P<none>no (?:refund|replacement|cancellation|repair|exception|exchange))\b"
)
_BARE = re.compile(
    r"\b(?:(?P<yes>yes|yep|yeah|sure|of course|certainly|gladly|okay|ok)"
    r"|(?P<no>no(?! problem| other| drop| longer| use| fault)|nope|nay))\b"
)
_NEGATION = re.compile(
    r"\b(?:not|never|no|nor|neither|without|cannot|hardly|nothing|nobody|far from|instead of|rather than"
    r"|anything but|fail(?:s|ed)? to|unable to|refus(?:e|es|ed) to|declin(?:e|es|ed) to)\b|n't\b"
)
_BEHIND = re.compile(r" (?:is|was|has been|can|could|will)(?: not|n't| impossible|not)\b")
"""A negation behind the word: "approval is not possible"."""

_REACH = 5
"""Words behind a negation that it still turns."""

_CONDITION = re.compile(
    r"\b(?:if|unless|whether|would(?! never)|had it|were it|should it|in case|normally|usually|otherwise"
    r"|might|suppose|provided|as long as|once you|until|only when)\b"
)
_TURN = re.compile(
    r"\b(?:but|however|actually|instead|yet|still|correction|nevertheless|so|therefore|hence|thus)\b"
)
_LATER = re.compile(r"\b(?:but|however|actually|instead|correction|nevertheless|on second thoughts?)\b")
_LABELLED = re.compile(rf"^\W*(?:(?P<no>{_NO})|(?P<yes>{_YES}))\W*[:=-]\W*(?P<bare>yes|no|true|false)\b")


@dataclass(frozen=True, slots=True)
class _Said:
    """One assertion. tier: 0 the strongest. later: a word before it takes back what was said."""

    yes: bool
    tier: int
    later: bool


def read_verdict(text: str) -> Verdict:
    """The verdict of an answer, whatever its wording. Both at once are no verdict."""
    said = list(_assertions(_plain(text)))
    if not said:
        return ""
    strongest = min(s.tier for s in said)
    decided = [s for s in said if s.tier == strongest]
    sides = {s.yes for s in decided}

    # "We declined it at first, but it is approved": what takes back the rest is the verdict.
    if len(sides) == 2 and decided[-1].later:
        sides = {decided[-1].yes}
    if len(sides) == 2:
        return ""
    return "yes" if sides.pop() else "no"


def _plain(text: str) -> str:
    """Lower case, straight quotes, no markup."""
    text = text.replace("\u2019", "'").replace("\u2018", "'").replace("\u2014", ", ").replace("\u2013", "-")
    return re.sub(r"[*_`\"]", "", text).lower()


def _assertions(text: str) -> Iterator[_Said]:
    """Everything that the text asserts, in its order."""
    asked: bool | None = None
    for sentence in re.findall(r"[^.!?;\n]+[.!?;\n]?", text):
        if sentence.rstrip().endswith("?"):
            asked = _question(sentence)
            continue

        # A bare yes or no behind a question answers it: "Declined? No."
        reply = re.match(r"\W*(yes|no|nope|yep)\b", sentence)
        if reply and asked is not None:
            yes = reply[1] in ("yes", "yep")
            yield _Said(asked == yes, 0, False)
            sentence = sentence[reply.end() :]
        asked = None
        yield from _of_sentence(sentence)


def _question(sentence: str) -> bool | None:
    """Which verdict a question asks for; None where it asks for both or neither."""
    sides = {match["yes"] is not None for match in _DECISION.finditer(sentence)}
    if len(sides) != 1:
        return None
    turned = len(_NEGATION.findall(sentence)) % 2 == 1
    return sides.pop() != turned


def _of_sentence(sentence: str) -> Iterator[_Said]:
    """What a sentence that is not a question asserts."""
    labelled = _LABELLED.match(sentence)
    if labelled:
        yield _Said((labelled["yes"] is not None) == (labelled["bare"] in ("yes", "true")), 0, False)
        return
    for clause in _unconditional(sentence):
        later = bool(_LATER.search(clause))
        found = list(_DECISION.finditer(clause))
        for match in found:
            turned = (
                _negations(clause[: match.start()]) + bool(_BEHIND.match(clause[match.end() :]))
            ) % 2 == 1
            yield _Said((match["yes"] is not None) != turned, 0, later)

        # Without a word of decision, what the desk will do, and else a bare yes or no.
        acts = list(_ACTS.finditer(clause)) if not found else []
        for match in acts:
            yield _Said(match["yes"] is not None, 1, later)
        for match in _BARE.finditer(clause) if not found and not acts else ():
            yield _Said(match["yes"] is not None, 2, later)


def _unconditional(sentence: str) -> Iterator[str]:
    """The parts of a sentence between its turns that no condition holds back."""
    starts = [0, *(match.start() for match in _TURN.finditer(sentence)), len(sentence)]
    for first, last in itertools.pairwise(starts):
        part = sentence[first:last]
        if part.strip() and not _CONDITION.search(part):
            yield part


def _negations(before: str) -> int:
    """Negations that reach to the end of `before`. A comma or colon ends their reach."""
    words = re.split(r"[,:()]", before)[-1].split()[-_REACH:]
    near = " ".join(words)
    return len(_NEGATION.findall(near)) - ("neither" in words and "nor" in words)
