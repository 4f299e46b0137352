"""Statements of a support agent, with their verdicts.

A verdict is known by construction: 1 grants, -1 declines, 0 does neither.

The words are those of people, not of the reader's lists, which the grammar must not follow.
"""

import random
from collections.abc import Iterator

# Base form, past participle and -ing form, with what the bare verb says of the request.
VERBS = (
    ("approve", "approved", "approving", 1),
    ("grant", "granted", "granting", 1),
    ("accept", "accepted", "accepting", 1),
    ("decline", "declined", "declining", -1),
    ("refuse", "refused", "refusing", -1),
    ("reject", "rejected", "rejecting", -1),
    ("deny", "denied", "denying", -1),
)

AGENTS = ("We", "I", "Our team", "The shop", "We here")
REQUESTS = ("It", "This", "Your request", "Your refund", "The claim", "Your claim", "This one", "The request")
OBJECTS = ("it", "this", "your request", "the claim", "your refund", "that", "this claim", "your claim")
NO_OBJECTS = ("nothing", "none of it", "no part of it", "nothing of this", "not a single part of it")
NO_SUBJECTS = (
    "Nothing",
    "None of it",
    "No part of it",
    "No part of your claim",
    "Nothing of this",
    "Not one of these",
)
OTHER_OBJECTS = (
    "of your patience",
    "of your choice",
    "the terms",
    "your apology",
    "your card",
    "the new plan",
    "our duties",
    "cards",
)

# How the verb is said: the pattern, the sign it gives. {v} base, {p} participle, {g} -ing form.
ACTIVE = (
    ("{v}", 1),
    ("hereby {v}", 1),
    ("do {v}", 1),
    ("have {p}", 1),
    ("have now {p}", 1),
    ("will {v}", 1),
    ("are {g}", 1),
    ("can {v}", 1),
    ("have decided to {v}", 1),
    ("are going to {v}", 1),
    ("do not {v}", -1),
    ("don't {v}", -1),
    ("did not {v}", -1),
    ("will not {v}", -1),
    ("won't {v}", -1),
    ("cannot {v}", -1),
    ("can't possibly {v}", -1),
    ("can not {v}", -1),
    ("are not {g}", -1),
    ("aren't {g}", -1),
    ("will never {v}", -1),
    ("have decided not to {v}", -1),
    ("are not going to {v}", -1),
    ("see no reason to {v}", -1),
    ("have no grounds to {v}", -1),
    ("are in no position to {v}", -1),
    ("by no means {v}", -1),
    ("may {v}", 0),
    ("might {v}", 0),
    ("would {v}", 0),
    ("could {v}", 0),
    ("may not {v}", 0),
    ("hope to {v}", 0),
    ("would like to {v}", 0),
    ("plan to {v}", 0),
    ("will perhaps {v}", 0),
    ("probably {v}", 0),
    ("usually {v}", 0),
    ("often {v}", 0),
    ("were asked to {v}", 0),
    ("have not decided whether to {v}", 0),
    ("cannot say whether we {v}", 0),
    ("would have {p}", 0),
)

PASSIVE = (
    ("is {p}", 1),
    ("is hereby {p}", 1),
    ("has been {p}", 1),
    ("has now been {p}", 1),
    ("will be {p}", 1),
    ("is therefore {p}", 1),
    ("can be {p}", 1),
    ("gets {p}", 1),
    ("is not {p}", -1),
    ("isn't {p}", -1),
    ("has not been {p}", -1),
    ("hasn't been {p}", -1),
    ("will not be {p}", -1),
    ("won't be {p}", -1),
    ("cannot be {p}", -1),
    ("is never {p}", -1),
    ("is by no means {p}", -1),
    ("is in no way {p}", -1),
    ("is no longer {p}", -1),
    ("is far from {p}", -1),
    ("is anything but {p}", -1),
    ("is hardly {p}", -1),
    ("may be {p}", 0),
    ("might be {p}", 0),
    ("could be {p}", 0),
    ("would be {p}", 0),
    ("is perhaps {p}", 0),
    ("is probably {p}", 0),
    ("is possibly not {p}", 0),
    ("is usually {p}", 0),
    ("would have been {p}", 0),
    ("needs to be {p}", 0),
    ("is yet to be {p}", 0),
    ("is waiting to be {p}", 0),
    ("is almost {p}", 0),
    ("was {p} last year", 0),
)

# What goes before a whole statement: the words and what they do to its sign.
FRONTS = (
    ("", 1),
    ("So ", 1),
    ("Therefore ", 1),
    ("Good news: ", 1),
    ("Unfortunately, ", 1),
    ("I can confirm that ", 1),
    ("I am afraid ", 1),
    ("We regret that ", 1),
    ("We are pleased to say that ", 1),
    ("Under R1 ", 1),
    ("As it was not used, ", 1),
    ("Because it was used, ", 1),
    ("Since nobody used it, ", 1),
    ("Thank you for your patience. ", 1),
    ("No problem: ", 1),
    ("There is no doubt that ", 1),
    ("It is not true that ", -1),
    ("It is not the case that ", -1),
    ("It is false that ", -1),
    ("I think ", 1),
    ("I guess ", 0),
    ("Perhaps ", 0),
    ("Maybe ", 0),
    ("I doubt that ", 0),
    ("If it was not used, ", 0),
    ("If it was used, ", 0),
    ("Unless it was used, ", 0),
    ("Provided that it is new, ", 0),
    ("You say that ", 0),
    ("You ask whether ", 0),
    ("They told me that ", 0),
    ("I do not know whether ", 0),
    ("We cannot say whether ", 0),
    ("Suppose that ", 0),
    ("Please wait until ", 0),
)

TAILS = (
    (".", 1),
    (" under R1.", 1),
    (", under R1.", 1),
    (" today.", 1),
    (", as it was used.", 1),
    (", because it was not used.", 1),
    (" since nobody used it.", 1),
    (", no doubt about it.", 1),
    (", and nothing else is needed.", 1),
    (", and we thank you for your patience.", 1),
    (". Nothing more is needed.", 1),
    (". We hope that helps.", 1),
    (", I am afraid.", 1),
    (", if it is unused.", 0),
    (" unless it was used.", 0),
    (", perhaps.", 0),
    (", I think.", 1),
    ("?", 0),
    (", you say.", 0),
)


def lowered(text: str, front: str) -> str:
    """The statement as it stands after these words."""
    if not front or front.endswith(". ") or text.startswith("I "):
        return text
    return text[0].lower() + text[1:]


def bodies(draw: random.Random) -> tuple[str, int]:
    """One statement without front and tail, and its sign."""
    base, participle, ing, sign = draw.choice(VERBS)
    forms = {"v": base, "p": participle, "g": ing}
    kind = draw.choice(("active", "active", "passive", "passive", "no object", "no subject", "other object"))
    if kind == "passive":
        pattern, turn = draw.choice(PASSIVE)
        return f"{draw.choice(REQUESTS)} {pattern.format(**forms)}", sign * turn
    if kind == "no subject":
        pattern, turn = draw.choice([form for form in PASSIVE if form[1] != -1])
        return f"{draw.choice(NO_SUBJECTS)} {pattern.format(**forms)}", -sign * turn
    if kind == "active":
        agent, (pattern, turn) = draw.choice(AGENTS), draw.choice(ACTIVE)
        return agreed(agent, f"{pattern.format(**forms)} {draw.choice(OBJECTS)}", forms), sign * turn
    agent, (pattern, turn) = draw.choice(AGENTS), draw.choice([form for form in ACTIVE if form[1] != -1])
    if kind == "no object":
        return agreed(agent, f"{pattern.format(**forms)} {draw.choice(NO_OBJECTS)}", forms), -sign * turn
    forms = {"v": "approve", "p": "approved", "g": "approving"} if draw.random() < 0.5 else forms
    return agreed(agent, f"{pattern.format(**forms)} {draw.choice(OTHER_OBJECTS)}", forms), 0


def agreed(agent: str, predicate: str, forms: dict[str, str]) -> str:
    """Agent and predicate, the verb's person made to agree."""
    first, _, rest = predicate.partition(" ")
    if agent == "I":
        first = {"are": "am", "aren't": "am not", "were": "was"}.get(first, first)
    if agent in ("Our team", "The shop"):
        base = forms["v"]
        singular = {
            base: base[:-1] + "ies" if base == "deny" else base + "s",
            "do": "does",
            "don't": "doesn't",
        }
        singular |= {
            "have": "has",
            "are": "is",
            "aren't": "isn't",
            "were": "was",
            "see": "sees",
            "hope": "hopes",
        }
        first = (singular | {"plan": "plans"}).get(first, first)
    return f"{agent} {first} {rest}"


def statements(number: int, seed: int = 1) -> Iterator[tuple[str, int]]:
    """That many statements, each with its verdict by construction.

    A turned front over a statement that already turns is left out: people do not talk so, and the
    two turns make what nobody can be held to.
    """
    draw = random.Random(seed)
    made = 0
    while made < number:
        body, sign = bodies(draw)
        front, before = draw.choice(FRONTS)
        tail, after = draw.choice(TAILS)
        turned = any(
            word in f" {body.lower()} "
            for word in (" no", "n't ", " but ", " far from ", " hardly ", " never ")
        )
        if (before == -1 and turned) or (tail == "?" and front):
            continue
        made += 1
        yield f"{front}{lowered(body, front)}{tail}", sign * before * after
