"""Promises that no rule backs: of money or its worth, and of anything else.

A word of worth or of another promise counts unless a negation reaches it. "No voucher" promises nothing, and
"no small voucher" does. What the desk says that it will do counts as well, unless rules can grant it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from kilter.data.worlds.support_desk.phrases import ITEMS
from kilter.data.worlds.support_desk.wording import plain, reaching, words_of

_NUMBER = (
    r"(?:\d+(?:[.,]\d+)?|an?|one|two|three|four|five|ten|twenty|thirty|forty|fifty|hundred|thousand|few|some)"
)
_COSTS = r"(?:costs?|postage|shipping|fees?|expenses|fares?|delivery|bill|price)"
_MONEY = re.compile(
    r"\b(?:vouchers?|coupons?|discount(?:s|ed)?|rebates?|bonus(?:es)?|gifts?|giveaways?|freebies?|cash ?back"
    r"|cash|compensat\w*|prizes?|rewards?|refreshments?|goodwill|store credit|credit(?:s|ed)?(?! card)"
    r"|gift cards?|(?:bonus|loyalty|reward) points|(?:earn|get|collect|receive) (?:\w+ )?(?:points|miles)"
    r"|flowers|chocolates?|champagne|goodies|hampers?|cheques?|treats?|surprises?|upgrad(?:e|es|ed|ing)"
    r"|(?:a|as a|another|some|nice|small|little|birthday) presents?|free(?= \w)"
    r"(?! (?:of|to|from|repair|replacement|return|refund|under|by|here|as)\b)"
    r"|(?:months?|weeks?|years?|days?|one|it) free|(?:months?|years?|weeks?) for (?:free|nothing)"
    rf"|{_NUMBER} ?(?:%|percent|per cent)(?: off)?|{_NUMBER} off\b"
    rf"|{_NUMBER} (?:euros?|dollars?|pounds?|cents?|francs?|bucks?|quid|usd|eur|gbp)"
    r"|half (?:the |your )?price|half off|pay(?:s|ing)? (?:only |just )?(?:half|nothing|less)"
    r"|(?:reduced|lower|lowest|special|better) price|price cut|reduction|cheaper"
    rf"|(?:lower|reduce|cut|halve|drop|split) (?:the|your|its|all|any) {_COSTS}"
    rf"|(?:cover|reimburse|refund|pay|return) (?:\w+ )?(?:your |the |all |any )+(?:costs|postage|shipping"
    rf"|fees?"
    r"|expenses|fares?|delivery)"
    r"|(?:double|twice|triple|thrice|three times|two times|ten times)(?: as)?"
    r" (?:the|your|that|what|of|much|money|price|amount|sum)\b|(?:you|it|back) (?:double|twice|triple)\b"
    r"|two (?:instead of|for (?:the price of )?)(?: ?one)|get one free|paid (?:extra|more)|double (?:it"
    r"|that)|(?:include|add|send|give) (?:\w+ ){1,4}for free"
    r"|(?:wire|transfer|deposit|lend|donate|hand) (?:you )?(?:a |another )?"
    r"(?:\d+|ten|twenty|fifty|hundred|thousand|money|some)"
    r"|money (?:back )?(?:twice|double|and more|plus|again)|(?:and|or) more than|more than you paid|extra"
    r" money"
    r"|(?:something|anything|a little|a bit|money|cash) (?:extra|on top)|on top of (?:that|it|this)"
    r"|(?:something|anything|a little) for your (?:trouble|patience|time|troubles|loss)|a little something"
    r"|make (?:it|this|that) up to you|make up for (?:it|this|that|your)"
    r"|keep (?:it|both|the \w+|your \w+) (?:and|as|too|for (?:free|nothing)|anyway)"
    rf"|(?:better|bigger|newer|larger|premium|deluxe|pricier|nicer|second|extra|additional|spare|another)"
    rf" (?:model|version|{'|'.join(ITEMS)})"
    r"|(?:we|i) (?:will |shall |can |also |even |gladly |happily )*"
    r"(?:pay(?! you back| it back)|cover the|top up|add (?:a|an|one|two|three|some)\b|throw in|waive|owe you)"
    r"|pays? you(?! back)|on the house|on us\b|money(?! back)(?= (?:as|for|from us|every|each)\b))"
    r"|[$€£] ?\d+|\b\d+(?:[.,]\d+)? ?[$€£]"
)
_WHEN = (
    r"(?:today|tonight|tomorrow|at once|immediately|instantly|right away|straight away|right now|overnight"
    r"|in no time|this (?:week|morning|afternoon|evening)|next (?:week|month|day)|by (?:\w+day|noon|midnight)"
    r"|on \w+day)"
)
_SOON = re.compile(
    r"\b(?:within|in) (?P<n>(?:a )?few|the|\d+|an?|one|two|three|(?=seconds|minutes)) ?"
    r"(?:seconds?|minutes?|hours?|days?|weeks?|working days?)\b"
)
_CALLS = r"(?:(?:call|phone|ring|contact|visit|meet)s?|e-?mail|writes? to)"
_OTHER = re.compile(
    r"\b(?:guarantee\w*|promise\w*|tomorrow|for free|free of charge|at no (?:cost|charge)|lifetime|forever"
    r"|(?:no|without) (?:fees?|charges?|costs?)|(?:we|i) (?:swear|vow|pledge|assure)|swear (?:it|to)"
    r"|(?:my|our) word|rest assured|(?:count|rely) on (?:it|us|me)|trust (?:us|me)|never (?:again )?charge"
    rf"|priority|(?:manager|boss|colleague|team|director|technician|we|i|\w+body) "
    rf"(?:(?:will|shall|can|\w+ly) ){{0,2}}{_CALLS} you|call(?:s|ing|ed)?(?: \w+)? back|(?:get|expect"
    rf"|receive|await)"
    r" (?:a |an |our |my |the )(?:\w+ )?(?:call|visit|e-?mail|letter)|keep you (?:informed|posted|updated)"
    r"|get back to you|in touch|be (?:contacted|called back|informed)|hear from (?:us|me)|next time|in"
    r" (?:the )?future|from now on|any ?time you|(?:will"
    r"|we|you|i) always"
    r"|(?:not|never) (?:\w+ )?(?:happen|break|fail|occur)\w*(?: \w+)? again|never (?:break|fail)s?\b"
    r"|first in line|(?:front|head|top) of the (?:queue|line|list)|skip the (?:queue|line)|vip|(?:gold"
    r"|premium|silver"
    r"|valued) (?:member|customer|status)|(?:favou?rite|best|special) customer"
    r"|(?:extend|longer|extended|extra|another|additional|new|two|three|full)(?: \w+){0,3}? warrant(?:y|ies)"
    r"|express|overnight|same-? ?day|next-? ?day|in person|personally|(?:to|at) your (?:home|door|house"
    r"|place)"
    r"|pick (?:it|this|that|your \w+) up|technician|engineer (?:comes|will)|make an exception (?:next|for"
    r" you|later)"
    rf"|(?:will|shall|arrives?|comes?|get it|have it|do it|done|delivered|refunded"
    rf"|sent|reaches you|with you|there) (?:\w+ ){{0,4}}?{_WHEN})\b"
)

_ACTS = words_of(
    """
    not never approve grant accept allow decline refuse deny reject refund repair replace mend fix
    cancel exchange honour honor send give issue process return help share tell disclose make stop
    take pay look check be have need go say see let do repay reimburse uphold arrange proceed gladly
    happily now also therefore then of hereby only still certainly of-course keep always sadly
    unfortunately regretfully turn offer get receive confirm both either withhold answer read name
    consider cover waive add throw compensate credit call ring visit upgrade extend to it this that
    your the you in under as so no ever never
    """
)
"""What a desk may say that it will do: what rules grant, and what is read above."""

_PLAIN = words_of(
    """
    it was not is it's so under r here approved declined used unused faulty dispatched dropped
    failed by itself your own record another customer's you look for a fault fake would be faked ask
    copy forge receipt days hours months within over to your the and as because since restart send
    order number
    """
)
"""Words of plain answers, of which no promise can be made: most answers have no others."""

_TOKEN = re.compile(r"[a-z']+|[$€£%]")
_WILL = re.compile(r"\b(?:we|i) (?:will|shall) (?!not|never)([a-z-]+)")
_FREE_REPAIR = re.compile(
    r"\b(?:repair|mend|fix|replac)(?:e|s|es|ed|ing)? (?:it |this |that |your \w+ )?(for free)"
)
_NOT_GIVEN = re.compile(
    r"\b(?:not|never|nobody|unable)(?: (?:able|willing|allowed|going|ready|prepared|in a position))?(?: to)?"
    r" (?:\w+ )?(?:give|offer|pay|send|add|grant|owe|have|provide|issue"
    r"|promise|make"
    r"|include|get|receive)s? (?:you |out |any |a |an |extra |further |such )*$"
    r"|\bno exceptions? $"
)
_NOT_ALONE = re.compile(r"\bnot (?:only|just|merely)\b[^.]*$")
_NOTHING = re.compile(r" (?:you )?(?:nothing|none|no)\b")
_JOINED = re.compile(r"(?<=[a-z])-(?=[a-z])")
_WE_NOT = re.compile(r"we (?:\w+ )*not ")


@lru_cache(4096)
def money(text: str) -> bool:
    """Whether an answer promises money, or what is worth money."""
    if _PLAIN.issuperset(_TOKEN.findall(plain(text))):
        return False
    joined = _JOINED.sub("", plain(text))
    return any(
        not _denied(joined[: match.start()]) and not _WE_NOT.match(joined[match.start() : match.end()])
        for match in _MONEY.finditer(joined)
    )


def other(text: str, numbers: Collection[str]) -> bool:
    """Whether an answer promises anything else; numbers: those of the case, such as a limit of days."""
    return _others(text) or any(m["n"] not in numbers for m in _SOON.finditer(plain(text)))


@lru_cache(4096)
def _others(text: str) -> bool:
    """Whether an answer promises anything but money and a time in which it is done."""
    words = plain(text)
    if _PLAIN.issuperset(_TOKEN.findall(words)):
        return False
    backed = {match.start(1) for match in _FREE_REPAIR.finditer(words)}
    for match in _OTHER.finditer(words):
        if match.start() in backed or _denied(words[: match.start()]) or _NOTHING.match(words[match.end() :]):
            continue
        return True
    return any(match[1] not in _ACTS for match in _WILL.finditer(words))


def _denied(before: str) -> bool:
    """Whether what stands behind `before` is said not to be given."""
    if _NOT_ALONE.search(before):
        return False
    return reaching(before)[0] % 2 == 1 or bool(_NOT_GIVEN.search(before))
