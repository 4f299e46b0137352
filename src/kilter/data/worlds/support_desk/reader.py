"""Reads the verdict of an answer: "yes", "no", or "" where it has none or contradicts itself.

Three tiers of words, and the strongest that occurs decides: words of decision (approved, declined), what the
desk says that it will do ("we can refund you"), and a bare yes or no. A negation turns the words that it
reaches. Questions, conditions, hedges and the words of others assert nothing: "Approved? No." is a no, and
"if it were used: declined" is nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from kilter.data.worlds.support_desk.clauses import NO_OBJECT, turns_of_object
from kilter.data.worlds.support_desk.idioms import said_plainly
from kilter.data.worlds.support_desk.wording import reaching

Verdict = Literal["yes", "no", ""]

_YES = (
    r"approv(?:e|es|ed|al|ing)|grant(?:ed|s|ing)?|accept(?:ed|s|able|ance|ing)?|allow(?:ed|s|ing)?"
    r"|permit(?:ted|s|ting)?|permission|eligible|entitled|honou?r(?:ed|s|ing)?|qualif(?:y|ies|ied)|agreed"
    r"|go(?:es)?[ -]ahead|green light|entitlement|upheld|uphold|authori[sz]ed?|confirmed"
)
_NO = (
    r"declin(?:e|es|ed|ing)|refus(?:e|es|ed|al|ing)|den(?:y|ies|ied|ial|ying)|reject(?:ed|s|ion|ing)?"
    r"|turn(?:ed|ing|s)? (?:\w+ ){0,3}?down|ineligible|disallow(?:ed)?|forbidden|disapprov(?:e|ed|al)"
    r"|prohibited|unapproved|non-?approved|not an option|impossible|ruled out|out of the question|revoked"
    r"|off the table|overruled|dismissed|voided|withh(?:o|e)ld(?:s|ing)?"
)
_DECISION = re.compile(rf"\b(?:(?P<no>{_NO})|(?P<yes>{_YES}))\b")
_IS_NO = re.compile(rf"(?:{_NO})\Z")
_NOUN = re.compile(r"(?:approval|refusal|denial|rejection|permission|acceptance|entitlement|disapproval)\Z")
"""Nouns whose verb decides where both stand: "approval was refused"."""

_GIVEN = re.compile(r" (?:give|offer|grant|extend|issue|send|see) ")
_THING = r"(?:refund|replacement|repair|cancellation|exchange|return|new (?!colour)\w+)"
_GIVES = (
    r"(?:issu(?:e|ed|ing)|process(?:ed|ing)?|mak(?:e|ing)|offer(?:ed|ing)?|giv(?:e|ing)|send(?:ing)?"
    r"|arrang(?:e|ing))"
)
_ACT = re.compile(
    rf"\b(?:(?P<get>(?:get|got|getting|receive|have) (?:all |of |a |an |any |the |your |full )*"
    rf"(?:money back|{_THING}))"
    r"|(?P<passes>(?:refund|request|claim|return|repair|case|order) (?:has |have |is |will )?"
    r"(?:gone through|goes through|go through|going through|went through|passes|passed)"
    rf"|{_THING} (?:is on (?:its|the) way|(?:has been|have been|is|was|will be|is being)"
    r" (?:issued|made|paid|processed|arranged|sent)))"
    rf"|(?P<does>{_GIVES} (?:you |out )?(?:a |an |the |your |any |full )*{_THING}"
    r"|refund(?:ed|ing)?|replac(?:e|ed|ing)|cancel(?:l?ed|l?ing)?|repair(?:ed|ing)?|repay|repaid|mend(?:ed)?"
    r"|fix(?:ed)?|exchanged?|reimburse[d]?|tak(?:e|en) (?:it|that|this) back|help|do (?:that|this|so|it)|tell"
    r"|shared?|disclosed?|give (?:it|that|you|out)|make an exception|stopped|replacement|cancellation"
    r"|exception)"
    r"|(?P<fails>(?:request|claim|case|return) (?:fails|failed)|against (?:the|our) (?:rules?|policy)))\b"
)
_NAMED = re.compile(r"\b(?:your|the|this|that) $")
_COMMITS = frozenset(
    ["we", "i", "will", "can", "shall", "happy", "glad", "pleased", "gladly", "happily", "ready", "willing"]
)
_PASSIVE = frozenset(["is", "are", "was", "were", "be", "been", "being"])
_FINE = re.compile(rf"\W*(?:a |the |your )?{_THING}(?: is)? (?:ok|okay|fine|possible|due)\b")
_BARE = re.compile(
    r"\b(?:(?P<no>(?:no|nope|nay)(?=\W*$|\W+(?:under|to (?:your|this|it|that|the)|we|i|sorry|and"
    r"|unfortunately|from (?:us|me))\b)|(?:no way|never|not (?:a|any) chance|no chance|not happening|no"
    r" dice)(?=\W*$)|no can do|(?:certainly|absolutely|of course|definitely|surely"
    r"|sure|clearly|unfortunately|sadly|regrettably|alas|afraid|think) not(?=\W*$)|(?<!\w )not under"
    r" r\d+(?=\W*$)|(?:we|i) (?:can|will|do) not(?=\W*$))"
    r"|(?P<yes>yes|yep|yeah|okay|ok|gladly"
    r"|(?<!am )(?<!are )(?<!be )(?<!for )(?:sure|of course|certainly)(?! not\b)))\b"
)
_BEHIND = re.compile(
    r"(?: of \w+| to you| for (?:this|it|that))?(?: (?:it|this|that|your \w+))?(?: (?:it|we|that|i))? "
    r"(?:is|was|are|has been|has|have|can|could|will|do|does|did) (?:not|never)\b(?: be(?:en)?(?=\W*$))?"
    r"(?: (?:be |been |being )?(?:possible|given|an option|available|issued|made|paid|offered|processed"
    r"|had|due)\b.*)?\W*$"
)
"""A negation behind the word that ends its clause: "approval is not possible", "approved it is not"."""

_CONDITION = re.compile(
    r"\b(?P<if>(?<!even )if|unless(?! (?:you|we|i)\b)|should it|were (?:it|i|we)|had it|in case|suppose"
    r"|supposing|provided|let us (?:say|assume|suppose|imagine|pretend)|(?<!\w )(?:assume|say)"
    r" (?:that )?(?:it|this|your)"
    r"|(?:as|so) long as|(?:only )?where (?:it|you|we|the|r\d+)|(?:only )?when (?:un)?(?:used|opened|sealed"
    r"|dispatched|dropped|faulty)|only when|otherwise|on condition|assuming)\b"
    r"|\b(?P<then>sometimes|often|typically|mostly|as a rule|in (?:general|most cases)|whenever"
    r"|(?:when|as soon as|after|by the time|the (?:moment|minute|day)|(?:each|every) time)"
    r" (?:quoted|approved|granted|accepted|declined|refused|(?:it|an?|the \w+) (?:is|are))|before"
    r" (?:we|it|i|you)|normally|usually|generally"
    r"|until|once (?:you|we|it|i|approved|granted|accepted|declined|refused)|unless|perhaps|maybe|probably"
    r"|(?<!not )possibly|ideally)\b"
)
"""if: takes back what stands before it in its sentence as well. then: what stands behind it alone."""

_DROPPED = re.compile(
    r"\b(?:whether|what|which (?:of|is|are)|who|why|how|although|though|even if|despite|while|whereas"
    r"|everything that)\b.*"
)
_HEDGE = re.compile(
    r"\b(?:may|might|could(?! not)|would(?! not (?:start|turn|work|run|go|open|switch))|likely|unlikely"
    r"|presumably|apparently|seems?|appears?|guess|depends?"
    r"|up to (?:my|the|our|your|him|her|them)|pending|awaits?|awaiting|subject to|almost|nearly"
    r"|all but|as good as"
    r"|wrongly|mistakenly|by mistake|in error|consider(?:ing|ed)?|under review|not sure|unsure|not certain"
    r"|hope|try|tried|in (?:theory|principle|(?:my|your|our) dreams|an? (?:\w+ )?world)|on paper"
    r"|bound to be)\b|\bnot tell\W*$"
)
_ONLY_HEDGE = re.compile(
    r"\W*(?:perhaps|maybe|probably|possibly|i (?:guess|suppose)|presumably|or not|my foot"
    r"|in (?:theory|principle|(?:my|your|our) dreams|an? (?:\w+ )?world)|on paper)\W*$"
)
_OTHERS = re.compile(
    r"\b(?:(?:your|my|our|the|a|another) (?:\w+ )?(?:colleagues?|friends?|boss|managers?|supervisor"
    r"|neighbours?"
    r"|wife|husband|court)|he|she|they|some(?:one|body)|every(?:one|body)|people|others"
    r"|you (?:\w+ )?(?:say|said|claim|claimed|think|want|wanted|ask|asked|told|wish|hope|hoped|expect|believe"
    r"|wrote|need|mean|heard|read)"
    r"|i (?:was told|hear|heard|read|(?:want|need|demand|insist|ask|beg)(?! to\b))"
    r"|rumou?r|word is)\b"
)
"""Whose word a verdict is that is not the desk's."""

_THEIR_WORDS = re.compile(
    r"(?:^|[,:]) ?(?:according to (?:you|him|her|them|others)\W*$|(?!as\b)(?:and |or so )?"
    r"(?:you|he|she|they|some(?:one|body)|people) (?:\w+ )?"
    r"(?:say|says|said|claim|claims|claimed|wrote|write|told|think|thought|believe)(?: us| me| to us)?(?:"
    r" that)?"
    r"\W*(?:$|[,:]))"
)
"""A clause that gives a whole sentence to somebody else: "it is approved, you say"."""

_TURN = re.compile(
    r"\b(?:(?<!\ball )but|however|actually|instead|still|correction|nevertheless|(?<!\bor )so(?! long as)"
    r"|(?<!is )(?<!be )(?<!been )(?<!are )(?<!was )(?<!we )(?<!will )(?:therefore|hence|thus))\b"
    r"|\byet(?=\W+it\b)"
)
_LATER = re.compile(r"\b(?:but|however|actually|instead|correction|nevertheless|on second thoughts?)\b")
_LABELLED = re.compile(
    rf"^\W*(?:the |your )?(?:(?P<no>{_NO})|(?P<yes>{_YES}|{_THING}|decision|verdict|answer))"
    r"\W*[:=-]\W*(?:(?P<so>yes|yep|true|y|1)|(?P<bare>no|nope|false|n|0|none|nothing|never))\b"
    r"(?=\W*$|[,.:(])"
)
_TAKEN_BACK = re.compile(
    rf"\b(?P<verdict>{_NO}|{_YES})(?P<rule> under r\d+)?[\s.,(!-]+not\b(?=[\s.!)]*(?:$|[.!;)\n]))"
)
"""A verdict that the last word turns: "approved... not!"."""

_OPPOSED = re.compile(rf"\b(?P<first>{_NO}|{_YES}) (?:and|or|nor) (?P<second>{_NO}|{_YES})\b")
"""Both verdicts side by side name them and say neither: "we approve or decline within a day"."""
_REPLY = re.compile(
    r"\W*(?:(?:well|oh|sorry|sadly|unfortunately|certainly|absolutely|definitely|clearly|surely|of course"
    r"|i am afraid|alas)\W+)*"
    r"(?:(?P<yes>(?:yes|yep|yeah)\b|(?:indeed|(?:it|this|that|we|i) (?:is|was|do|does|did|will|can|are"
    r"|has|have))"
    r"(?=\W*$|[,:(]))"
    r"|(?P<no>(?:no|nope|nay)\b(?=\W*$|[,:(]|\W+(?:we|i|it|under|sorry)\b)"
    r"|(?:no way|never|not at all|by no means|not (?:here|today|now|under r\d+)|not"
    r"|(?:it|this|that|we|i) (?:is|was|do|does|did|will|can|are|has|have) (?:certainly )?(?:not|never)"
    r"(?: at all)?)(?=\W*$|[,:(])))"
)
"""Answers to a question, with nothing behind them: "it is not", where "it is not faulty" answers nothing."""

_INVERTED = re.compile(
    r"\W*(?:has|have|is|was|will|can|do|does|did|are|could|would|shall|may) "
    r"(?:it|this|that|the|your|my|we|you|i|he|she|they)\b"
)
_ATTRIBUTE = re.compile(r"\b(?:your|the|an?|this|that|any|every|all|such|previously|already) $")
_ATTRIBUTED = re.compile(
    r" (?!(?:by|under|for|in|it|here|at|on|as|and|or|to|of|is|was|because|since|with|now|today|your"
    r"|this|our|the)"
    r"\b)[a-z]"
)
_WARES = re.compile(r" (?:goods|items|products|things|orders|ones|articles|returns|claims|requests)\b")


_SENTENCE = re.compile(r"[^.!?;\n]+[.!?;\n]?")
_STOPS = re.compile(r"[,:()]")


@dataclass(frozen=True, slots=True)
class _Said:
    """One assertion. tier: 0 the strongest. later: a word before it takes back what was said."""

    yes: bool
    tier: int
    later: bool


@lru_cache(4096)
def read_verdict(text: str) -> Verdict:
    """The verdict of an answer, whatever its wording. Both at once are no verdict."""
    said = list(_assertions(_TAKEN_BACK.sub(r"not \g<verdict>\g<rule>", said_plainly(text))))
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


def _assertions(text: str) -> Iterator[_Said]:
    """Everything that the text asserts, in its order."""
    asked: bool | None = None
    for sentence in _SENTENCE.findall(text):
        if sentence.rstrip().endswith("?") or _INVERTED.match(sentence):
            asked = _question(sentence)
            continue

        # A short yes or no behind a question answers it: "Declined? It is not."
        reply = _REPLY.match(sentence) if asked is not None else None
        if reply:
            yield _Said(asked == (reply["yes"] is not None), 0, False)
            sentence = sentence[reply.end() :]
        asked = None
        yield from _of_sentence(sentence)


def _question(sentence: str) -> bool | None:
    """Which verdict a question asks for; None where it asks for both or neither."""
    sides = {
        (match["yes"] is not None) != (reaching(sentence[: match.start()])[0] % 2 == 1)
        for match in _DECISION.finditer(sentence)
    }
    return sides.pop() if len(sides) == 1 else None


def _of_sentence(sentence: str) -> Iterator[_Said]:
    """What a sentence that is not a question asserts."""
    labelled = _LABELLED.match(sentence)
    if labelled:
        yield _Said((labelled["yes"] is not None) == (labelled["so"] is not None), 0, False)
        return
    for part in _parts(sentence):
        if _THEIR_WORDS.search(part):
            continue
        later = bool(_LATER.search(part))
        clauses = list(_unconditional(part))
        for tier, find in enumerate((_decisions, _acts, _bares)):
            found = [yes for clause in clauses for yes in find(clause)]
            yield from (_Said(yes, tier, later) for yes in found)
            if found:
                break


def _parts(sentence: str) -> Iterator[str]:
    """A sentence between its turns: "but", "so"."""
    starts = [0, *(match.start() for match in _TURN.finditer(sentence)), len(sentence)]
    return (sentence[first:last] for first, last in itertools.pairwise(starts))


def _unconditional(part: str) -> list[str]:
    """The clauses that the desk asserts itself, without a condition or a hedge."""
    found: list[str] = []
    for clause in _STOPS.split(part):
        condition = _CONDITION.search(clause)
        if _ONLY_HEDGE.match(clause) or (condition and condition["if"]):
            return []
        if condition:
            found.append(clause[: condition.start()])
            break
        own = _DROPPED.sub("", clause)
        if not _HEDGE.search(own):
            found.append(own)
    return found


def _decisions(clause: str) -> Iterator[bool]:
    """Words of decision that this desk says of this request."""
    found: list[tuple[re.Match[str], int]] = []
    clause = _OPPOSED.sub(_neither, clause)
    for match in _DECISION.finditer(clause):
        before, behind = clause[: match.start()], clause[match.end() :]
        turned = (
            None
            if _told_of(before, match[0], behind)
            else turns_of_object(before, match[0].split()[0], behind)
        )
        if turned is not None:
            # "We can not give you approval": what is not given is not there.
            governed = _GIVEN.sub(" ", before) if _NOUN.match(match[0]) else before
            found.append((match, turned + reaching(governed)[0] + bool(_BEHIND.match(behind))))
    verbs = [one for one in found if not _NOUN.match(one[0][0])]
    for match, turned in verbs or found:
        yield (match["yes"] is not None) != (turned % 2 == 1)


def _neither(pair: re.Match[str]) -> str:
    """Two verdicts side by side as they stand, or nothing where they are opposed."""
    return pair[0] if bool(_IS_NO.match(pair["first"])) == bool(_IS_NO.match(pair["second"])) else ""


def _told_of(before: str, word: str, behind: str) -> bool:
    """Whether a word of decision is somebody else's, or tells which thing is meant ("approved goods")."""
    if _WARES.match(behind) or _OTHERS.search(before):
        return True
    return bool(_ATTRIBUTE.search(before) and _ATTRIBUTED.match(behind) and word.endswith("ed"))


def _acts(clause: str) -> Iterator[bool]:
    """What the desk says that it does, or that the customer gets."""
    if _FINE.match(clause):
        yield True
        return
    for match in _ACT.finditer(clause):
        before = clause[: match.start()]
        # "Your refund" names a thing; "we refund it" does it.
        if match["does"] and _NAMED.search(before):
            continue
        negations, through = reaching(before)
        behind = clause[match.end() :]
        turned = negations + bool(_BEHIND.match(behind)) + bool(NO_OBJECT.match(behind))
        passive = match[0].endswith("ed") and through & _PASSIVE
        framed = passive or (through & _COMMITS) or (match["get"] and through & {"you"})
        # "We will tell you" grants nothing, and "we never tell" declines.
        if match[0] == "tell" and turned % 2 == 0:
            continue
        if (match["passes"] or match["fails"] or turned or framed) and not _OTHERS.search(before):
            yield (match["fails"] is None) != (turned % 2 == 1)


def _bares(clause: str) -> Iterator[bool]:
    """A bare yes or no."""
    for match in _BARE.finditer(clause):
        if not _OTHERS.search(clause[: match.start()]):
            yield (match["yes"] is not None) != (reaching(clause[: match.start()])[0] % 2 == 1)
