"""Plain words of an answer, and which of them a negation turns.

A negation reaches a word through words of grammar alone ("not yet been", "no reason to"). A word of content
ends its reach: in "I have not used it, declined" nothing turns "declined", with the comma or without it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from kilter.data.worlds.support_desk.folding import folded

_CACHED = 4096
_WORD = re.compile(r"[a-z']+|\d+")
_QUOTES = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u2014": ", ", "\u2013": "-"}
)
_MARKUP = str.maketrans("", "", '*_`"~')
_SPACE = re.compile(r"[^\S\n ]+|  +")
_STOPS = re.compile(r"[,:;()]")
_CONTRACTED = (
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"\bshan't\b"), "shall not"),
    (re.compile(r"\b(?:cannot|can't|cant)\b"), "can not"),
    # "Ain't no way" denies once, as its speakers mean it.
    (re.compile(r"\bain't (?=no|never|nothing|none)"), ""),
    (re.compile(r"\bain't\b"), "is not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\blet's\b"), "let us"),
    (re.compile(r"'ll\b"), " will"),
    (re.compile(r"'re\b"), " are"),
    (re.compile(r"'ve\b"), " have"),
    (re.compile(r"'m\b"), " am"),
    (re.compile(r"'d\b"), " would"),
    (
        re.compile(
            r"\b(\w+)'s (?=(?:(?:been|not|now|hereby) )*"
            r"(?:approved|granted|accepted|declined|refused|rejected|denied)\b)"
        ),
        r"\1 is ",
    ),
    (re.compile(r"\b(it|that|this|here|there|what|who|he|she)'s\b"), r"\1 is"),
)


def words_of(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


NEGATORS = words_of(
    """
    not never no none nothing nobody neither nor without hardly scarcely barely lack lacks lacking
    seldom rarely
    """
)
THROUGH = words_of(
    """
    be been being is are was were am have has had having do does did will shall can could may must
    should need we you it this that these those i us them there here to a an the any of for on in at
    by with which such some all yet ever now also simply just currently possibly really actually
    even once either still so-called able going willing prepared happy glad pleased ready gladly
    happily hereby therefore please means circumstances way whatsoever reason reasons ground grounds
    cause basis need case rule rules think believe say see find know consider feel your our their
    its request claim order refund replacement repair cancellation return exchange possible entitled
    allowed full kind kindly certainly under get gets got getting thus hence position true correct
    formally finally going part shop team desk one decided can allows
    allow lets let permits permit permitted single whatsoever
    """
)
"""Words that carry a negation on to the word behind them."""

_REACH = 12
"""Words before a word in which its negation may stand."""

_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
NUMBERS = {word: n for n, word in enumerate(_ONES)} | {word: 20 + 10 * n for n, word in enumerate(_TENS)}
"""Number words below 100. Words such as "forty-two" are two of them."""


@lru_cache(_CACHED)
def plain(text: str) -> str:
    """Lower case, straight quotes, no markup, no contractions, one kind of space."""
    text = folded(text.translate(_QUOTES))
    text = _SPACE.sub(" ", text.translate(_MARKUP).lower()).replace(" - ", ", ")
    if "'" in text or "can" in text:
        for pattern, words in _CONTRACTED:
            text = pattern.sub(words, text)
    return text


def tokens(text: str) -> list[str]:
    """Words and numbers of a text, number words below 100 as digits."""
    found: list[str] = []
    tens = False
    for word in _WORD.findall(plain(text)):
        value = NUMBERS.get(word)
        if value is None:
            found.append(word)
        elif tens and 0 < value < 10:
            found[-1] = str(int(found[-1]) + value)
        else:
            found.append(str(value))
        tens = value is not None and value >= 20
    return found


def reaching(before: str) -> tuple[int, set[str]]:
    """The negations that reach the end of `before`, and the words of grammar that stand there."""
    turned, through, seen = 0, set(), set()
    for word in reversed(_WORD.findall(_STOPS.split(before)[-1])[-_REACH:]):
        if word in NEGATORS:
            # "Neither it nor that" is one negation.
            turned += not (word == "neither" and "nor" in seen)
            seen.add(word)
        elif word in THROUGH:
            through.add(word)
        else:
            break
    return turned, through
