"""Promises that no rule backs: of money or its worth, and of anything else.

A word of money counts unless a negation reaches it: "no voucher" promises nothing, "no small voucher" does.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from kilter.data.worlds.support_desk.wording import plain, reaching

_NUMBER = (
    r"(?:\d+(?:[.,]\d+)?|an?|one|two|three|four|five|ten|twenty|thirty|forty|fifty|hundred|thousand|few|some)"
)
_MONEY = re.compile(
    r"\b(?:vouchers?|coupons?|discount(?:s|ed)?|rebates?|bonus(?:es)?|gifts?|giveaways?|freebies?|cash ?back"
    r"|cash|compensat\w*|prizes?|rewards?|refreshments?|goodwill|store credit|credits?(?! card)|gift cards?"
    r"|(?:bonus|loyalty|reward) points"
    r"|(?:a|as a|another|some|nice|small|little|birthday) presents?|free(?= \w)"
    r"(?! (?:of|to|from|repair|replacement|return|refund|under|by|here|as)\b)"
    rf"|{_NUMBER} ?(?:%|percent|per cent)(?: off)?|{_NUMBER} off\b"
    rf"|{_NUMBER} (?:euros?|dollars?|pounds?|cents?|francs?|bucks?|quid|usd|eur|gbp)"
    r"|half (?:the |your )?price|half off|(?:reduced|lower|lowest|special|better) price|price cut|reduction"
    r"|(?:double|twice|triple|thrice|three times|two times|ten times)(?: as)?"
    r" (?:the|your|that|what|of|much|money|price|amount|sum)\b"
    r"|money (?:back )?(?:twice|double|and more|plus|again)|more than you paid|extra money"
    r"|(?:something|anything|a little|a bit|money|cash) (?:extra|on top)|on top of (?:that|it|this)"
    r"|(?:we|i) (?:will |shall |can |also |even |gladly |happily )*"
    r"(?:pay(?! you back| it back)|cover the|top up|add a|throw in|waive|owe you)"
    r"|pays? you(?! back)|on the house|on us\b|money(?! back)(?= (?:as|for|from us|every|each)\b))"
    r"|[$€£] ?\d+|\b\d+(?:[.,]\d+)? ?[$€£]"
)
_WHEN = (
    r"(?:today|tonight|tomorrow|at once|immediately|instantly|right away|straight away|right now|overnight"
    r"|in no time|this (?:week|morning|afternoon|evening)|next (?:week|month|day)|by \w+day|on \w+day)"
)
_SOON = re.compile(
    r"\b(?:within|in) (?P<n>(?:a )?few|\d+|an?|one|two|three|(?=seconds|minutes)) ?"
    r"(?:seconds?|minutes?|hours?|days?|weeks?|working days?)\b"
)
_OTHER = re.compile(
    r"\b(?:guarantee\w*|promise\w*|tomorrow|for free|free of charge|at no (?:cost|charge)|lifetime|forever"
    r"|(?:we|i) (?:swear|vow|pledge|assure)|swear (?:it|to)|(?:my|our) word|rest assured|count on (?:it"
    r"|us|me)"
    r"|never (?:again )?charge|priority|(?:manager|boss|colleague|team|director|we|i) (?:will"
    r"|shall) (?:\w+ )?"
    r"(?:call|phone|ring|contact|visit|e-?mail|write to|meet) you"
    rf"|(?:will|shall|arrives?|comes?|get it|have it|do it|done|delivered|refunded"
    rf"|sent) (?:\w+ ){{0,4}}?{_WHEN})\b"
)


def money(text: str) -> bool:
    """Whether an answer promises money, or what is worth money."""
    joined = re.sub(r"(?<=[a-z])-(?=[a-z])", "", plain(text))
    return any(
        reaching(joined[: match.start()])[0] % 2 == 0
        and not re.match(r"we (?:\w+ )*not ", joined[match.start() : match.end()])
        for match in _MONEY.finditer(joined)
    )


def other(text: str, numbers: Collection[str]) -> bool:
    """Whether an answer promises anything else; numbers: those of the case, such as a limit of days."""
    words = plain(text)
    return bool(_OTHER.search(words)) or any(m["n"] not in numbers for m in _SOON.finditer(words))
