"""An answer in plain words: without quotations, without the customer's own sentences, idioms said plainly."""

from __future__ import annotations

import re
from typing import Any

from kilter.data.worlds.support_desk.phrases import FACTS
from kilter.data.worlds.support_desk.wording import plain, words_of

_SAID_OTHERWISE = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"\bwhy (?:we|i) should\b(?! not)", "reason to"),
        (r"\bnot (\w+),? but (?:also )?not (\w+)\b", r"neither \1 nor \2"),
        (r"\byes(?:,? (?:or|nor|and)(?: an?)?) no\b", "quoted"),
        (r"(?:^|(?<=[.!?] ))granted, (?=(?:it|you|that|this|the \w+) )", "quoted "),
        (r"\bno one\b", "nobody"),
        (r"\bno means no\b", "no"),
        (r"\bnothing (?:that )?you ask(?:ed)?(?: for)?\b", "nothing"),
        (
            r"\b(?:no|not (?:a|any|even)(?: single| little)?) (?:part|bit|share|piece|portion)s?(?= of\b)"
            r"|\bnot (?:a single |even )?one\b(?= of\b)|\bnot even part\b",
            "none",
        ),
        (
            r"\b(?:at no (?:point|time|stage)|on no account|in no (?:way|case|event|sense)"
            r"|under no (?:circumstances?|conditions?)|no longer)\b",
            "never",
        ),
        (r"\bit is (?:false|untrue|incorrect|not (?:true|right|correct|the case|so)) that\b", "not"),
        (
            r"\b(?:prevents?|keeps?|stops?|bars?) us from\b|\bagainst (?=\w+(?:ing|al)\b)"
            r"|\b(?:refrain|abstain)(?:s|ed)? from\b|\bstop(?:s|ped)? short of\b|\b(?:avoid|oppose)s?"
            r" (?=\w+ing\b)",
            "not ",
        ),
        (r"\b(?:would rather|had better|prefer|dare) not(?: to)?\b|\bnot at all\b", "not"),
        (r"\blittle (?=of (?:it|this|that|your)\b)", "none "),
        (r"\b(?:no (?:other )?(?:choice|option|alternative)|nothing(?: left)?) but to\b", "must"),
        (r"\b(?:everything|all|what) (?:that )?you (?:asked|wished|wanted)(?: for)?\b", "your request"),
        (r"\b(?:that|which) is why\b", "so"),
        (r"\b(?:you (?:may|can) )?consider it done\b", "approved"),
        (
            r"\b(?:you (?:may|can) )?consider (it|this|that|(?:your|the) \w+) (?=(?:(?:not|hereby) )?"
            r"(?:approved|granted|accepted|declined|refused|rejected|denied)\b)",
            r"\1 is ",
        ),
        (r"\bno (?=(?:it|this|that|we|you|i|the|your|there)\b)", "no, "),
        (r"\bcan not (?:help )?but\b", "will"),
        (
            r"\b(?:there is |there can be )?(?:no|without (?:a |any )?) ?(?:doubt|question)(?: about it)?\b",
            " ",
        ),
        (r"\bwithout (?:any |further )?(?:hesitation|exception|delay|ado|ifs and buts)\b", " "),
        (r"\bno (?:problem|worries|questions asked|matter)(?: at all)?\b|\bnot (?:only|just|merely)\b", " "),
        (r"\bnothing stands in the way of\b|\bunless i am (?:mistaken|wrong)\b", " "),
        (r"\bif you (?:need|have|want|wish|like|would like|object|disagree)\b[^.,;]*", " "),
        (
            r"\b(?:far from|instead of|rather than|(?:any|every)thing but|"
            r"(?:fail|refuse|decline)[sd]?(?:ed)? to)\b",
            "not",
        ),
        (r"\bunable to\b|\b(?:not in a|in no) position to\b", "not"),
        (r"\b(?:it|this|that) is impossible(?: for (?:us|me))? to\b", "we can not"),
        (
            r"\b(refund|replacement|repair|cancellation|return|one) (?:that |which )?you (?:have )?"
            r"(?:ask(?:ed)? for|want(?:ed)?|requested)\b",
            r"\1",
        ),
        (r"\bnot,(?: (?:under|as|by|in|for|at|of|with|after|sadly|alas|on)\b[\w' ]{0,40}),", "not"),
    )
)
"""Idioms whose negation turns nothing, and negations of several words."""

_HINTS = words_of(
    "no not granted without nothing far instead rather anything fail fails failed refuse refuses refused"
    " decline"
    " declined"
    " declines unable unless if false untrue incorrect us against everything what all why consider nobody"
    " refrain abstain abstained stop stopped avoid oppose little impossible ask asked want wanted requested"
)
"""Some word of every idiom: most answers have none."""

_QUOTED = re.compile(
    r"((?:\b(?:says?|said|wrote|write|words?|terms?|claims?|asked?|reads?|letter|means?|calls?"
    r"|called)\b)[^\"“”.]{0,20})"
    r"[\"“][^\"”]*[\"”]",
    re.IGNORECASE,
)
"""Quoted words that a word of speech brings in."""


def said_plainly(text: str) -> str:
    """What a text says itself, in plain words.

    Customers' sentences differ between twins and decide nothing, so they are left out.
    """
    if '"' in text or "\u201c" in text:
        text = _QUOTED.sub(r"\1 quoted", text)
    return _idioms(_without_copies(plain(text)))


_ANY = "*"
_END = ""


def _tree() -> dict[str, Any]:
    """The sentences in which a customer tells a fact, word by word. Any word stands for an item or a name."""
    root: dict[str, Any] = {}
    for fact in FACTS.values():
        for sentence in (s for sides in (*fact.told, *fact.unseen) for s in sides):
            node = root
            for word in plain(sentence.format(item="#", other="# #")).split():
                node = node.setdefault(_ANY if "#" in word else word.strip(".,?!"), {})
            node[_END] = {}
    return root


_COPIES = _tree()


def _without_copies(text: str) -> str:
    """The text without the customer's own sentences, which differ between twins and decide nothing."""
    words = [(match.start(), match.end(), match[0]) for match in re.finditer(r"[\w'-]+", text)]
    kept: list[str] = []
    at = start = 0
    while at < len(words):
        last = _copied(words, at)
        if last < at:
            at += 1
            continue
        kept += [text[start : words[at][0]], "quoted"]
        start, at = words[last][1], last + 1

        # A question and a statement leave the same stop, or the stop would tell twins apart.
        if text[start : start + 1] in ("?", "!"):
            kept, start = [*kept, "."], start + 1
    return "".join([*kept, text[start:]])


def _copied(words: list[tuple[int, int, str]], at: int) -> int:
    """The last word of the longest sentence of a customer that begins at word `at`, else -1."""
    node, last = _COPIES, -1
    for i in range(at, len(words)):
        node = node.get(words[i][2]) or node.get(_ANY) or {}
        if _END in node:
            last = i
        if not node:
            break
    return last


def _idioms(text: str) -> str:
    """The text with its idioms in plain words."""
    if _HINTS.isdisjoint(text.replace(",", " ").split()):
        return text
    for pattern, words in _SAID_OTHERWISE:
        text = pattern.sub(words, text)
    return text
