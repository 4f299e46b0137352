"""Whether an answer cites the right rule alone, and gives the deciding fact with facts of this case alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kilter.data.worlds.support_desk.phrases import FACTS, ITEMS, NAMES, SHOPS, STREETS
from kilter.data.worlds.support_desk.scenario import CLAIMS, EXCEPTION, FACT
from kilter.data.worlds.support_desk.wording import NUMBERS, words_of

_RULE = re.compile(r"\b(?:R|rules?) ?(\d+)\b", re.I)
_CODE = re.compile(r"\b(?!R\d+\b)[A-Z]{1,3}-?\d+\w*|\bR ?\d+(?:[a-z]+|\.\d+|-\w+)\b|\b(?:[A-Z]\.){2,}", re.I)
_LAWS = re.compile(
    r"\b(?:laws?|acts?|statutes?|sections?|articles?|paragraphs?|clauses?|chapters?|regulations?|directives?"
    r"|codes?|by-?laws?|guidelines?|terms (?:of|and)|our terms|constitution|treaty|annex|appendix)\b|§",
    re.I,
)
_NAMED = re.compile(
    r"\b(?:rules?|policy|policies)\b(?:,? (?:named|called|number|no\.?|nr\.?|#))*\W*([\w.]*)", re.I
)
_NAMING = re.compile(r"([\w'&-]+) (?:rules?|policy|policies)\b", re.I)
_BEHIND = words_of(
    """
    of is are was were says say said does do did for on that this we which it not no allows allow
    applies apply requires require states covers cover grants grant decides decide and so here to
    because since as with but or by in you your approved declined your our the a an must can could
    will may has have if when refund replacement repair cancel cancellation i they there asks wants
    holds stands backs about under
    """
)
_BEFORE = words_of(
    """
    the this that a an any our your shop shop's store same first return refund repair replacement
    cancellation cancel own no under of and as per by each every which clear exact relevant right
    applicable following to simple honest record main basic with in these those is other's see its
    rule on all single one stated given deciding not from
    """
)

_NUMBER_WORDS = frozenset({word for word, n in NUMBERS.items() if n > 1} | {"hundred", "thousand", "dozen"})
_DIGITS = re.compile(r"\d+")
_LETTERS = re.compile(r"[a-z]+")
_YOURS = re.compile(r"\byour (?:own )?(\w+)", re.I)
_OWN = words_of(
    """
    own record records address data details request claim refund order repair replacement
    cancellation case item product device parcel money receipt colleague question message fault
    return warranty purchase satisfaction entire full whole patience understanding home street
    account file friend help name case's copy price
    """
)
_CAPITAL = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+\b|\b[A-Z][a-z]+ [A-Z][a-z]+\b")
_CAPITALS = words_of(
    """
    Approved Declined Yes No You We It Your Under Rule Monday Thank Thanks Please Our Dear Hello
    Sorry The Not Granted Refused Denied Support Customer Refund Repair
    """
) | {word for name in (*SHOPS, *STREETS) for word in name.split()}
_NAMES = re.compile(r"\b(?:" + "|".join(sorted({w for name in NAMES for w in name.split()})) + r")\b")
_ITEMS = re.compile(r"\b(" + "|".join(ITEMS) + r")s?\b", re.I)
_STATES = re.compile(
    r"us(?:ed|e)\b|opened|sealed|fault|defect|broken|work|dispatch|shipp|sent|packed|on its way|itself"
    r"|on its own"
    r"|drop|fell|a fall|on sale|price|second|new|custom|stock|wet|dry|water",
    re.I,
)
"""A word of any fact of a claim stands here: most answers have the deciding one alone."""

_OF_CLAIMS = tuple({*FACT.values(), *EXCEPTION.values()})


_UNTOLD = words_of(
    """
    video videos photo photos picture pictures camera witness witnesses technician technicians
    expert experts courier invoice warranty colour color red blue green black white pink big small
    large heavy loud size arrived delivered late lost stolen missing birthday present
    christmas wedding card cash paypal loyal regular scratched scratch cracked screen battery
    charger engraved rain rained soaked bargain reduced yesterday 
    january february april june july september october november december
    neighbour neighbor wife husband friend son daughter aunt uncle mother father sister brother
    family guest colleague boss child kids dog cat stairs table floor sink factory warehouse store
    shelf owner twice thrice holiday party damaged dented dirty rusty burnt smoke leaking noisy
    expensive cheap
    """
)
"""What answers make up about a case. A word that the customer's own sentences have is no invention."""

_TOLD_WORDS = {
    name: words_of(
        re.sub(r"[^a-z ]", " ", " ".join(s for pair in (*f.told, *f.unseen) for s in pair).lower())
    )
    for name, f in FACTS.items()
}
_SUBJECT = re.compile(
    r"\b(?:the|this|that|a|an) ([a-z]+) (?:was|is|has|had|were|are|did|does|got|never)\b", re.I
)
_SUBJECTS = _OWN | words_of(
    "customer rule rules fact answer decision verdict reason one shop desk deal limit box seal it you we i"
    " which there she he"
)
_DOER = re.compile(
    r"\b(?:used|opened|dropped|dispatched|shipped|sent|tried) by (?!you\b|us\b|itself\b|any|me\b|the"
    r" (?:customer|shop)|now\b"
    r"|nobody|no\b|r\d|our\b|then\b|someone|somebody|accident|mistake)\w+",
    re.I,
)
_MANY = re.compile(r"\b(?:both|these|they|those|all) (?:\w+ )?(?:were|are|have)\b", re.I)


def cites(text: str, gold: Mapping[str, Any]) -> bool:
    """Whether the right rule is cited, and no other, none of another shop, and no law."""
    if {f"R{n}" for n in _RULE.findall(text)} != {gold["rule"]}:
        return False
    rest = text.replace(str(gold.get("told", "")) or "\0", " ")
    if _CODE.search(rest) or _LAWS.search(rest):
        return False
    named = [word.strip(".").lower() for word in _NAMED.findall(rest)]
    naming = [word.lower() for word in _NAMING.findall(rest)]
    plain = all(not w or w in _BEHIND or w == gold["rule"].lower() or w == gold["rule"][1:] for w in named)
    return plain and all(w in _BEFORE for w in naming)


def reasons(text: str, gold: Mapping[str, Any]) -> bool:
    """Whether the fact that decides is stated as it is, with facts of this case alone."""
    if FACTS[gold["fact"]].stated(text) != {gold["grant"]}:
        return False
    told = str(gold.get("told", ""))
    rest = _RULE.sub(" ", text.replace(told, " ") if told else text)
    return not (_foreign_numbers(rest, gold) or _foreign_things(rest, gold) or _foreign_facts(rest, gold))


def _foreign_numbers(text: str, gold: Mapping[str, Any]) -> bool:
    if not set(_DIGITS.findall(text)) <= set(gold["numbers"]):
        return True
    words = [word for word in _LETTERS.findall(text.lower()) if word in _NUMBER_WORDS]
    return not {str(NUMBERS.get(word, word)) for word in words} <= set(gold["numbers"])


def _foreign_things(text: str, gold: Mapping[str, Any]) -> bool:
    """Things, people and places that are not of this case."""
    item = str(gold["item"])
    if not {match.lower() for match in _ITEMS.findall(text)} <= {item} or _NAMES.search(text):
        return True
    if any(word.lower() not in _OWN and word.lower() != item for word in _YOURS.findall(text)):
        return True
    if any(word.lower() not in _SUBJECTS and word.lower() != item for word in _SUBJECT.findall(text)):
        return True
    if (" by " in text and _DOER.search(text)) or _MANY.search(text):
        return True
    return any(word not in _CAPITALS for match in _CAPITAL.findall(text) for word in match.split())


def _foreign_facts(text: str, gold: Mapping[str, Any]) -> bool:
    """Facts beside the deciding one that the customer did not tell, or that are told the other way round."""
    kind, level, decides = gold["kind"], gold.get("level", 0), gold["fact"]
    told = {FACT[kind]} if kind in CLAIMS and level >= 2 else set()
    told |= {EXCEPTION[kind]} if kind in CLAIMS and level == 4 else set()
    own = FACTS[decides]
    untold = _UNTOLD.intersection(_LETTERS.findall(text.lower()))
    if untold and not untold <= frozenset().union(*(_TOLD_WORDS[name] for name in {decides, *told})):
        return True
    rest = own.declined.sub(" ", own.granted.sub(" ", text))
    if not _STATES.search(rest):
        return False
    skipped = {decides, *(() if kind in CLAIMS else ("faulty",))}
    return any(
        not FACTS[name].stated(rest) <= ({True} if name in told else set())
        for name in _OF_CLAIMS
        if name not in skipped
    )
