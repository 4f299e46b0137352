"""Answers of every quality to a scenario: right or wrong, cited or not, brief or padded, honest or not."""

from __future__ import annotations

import random
from dataclasses import dataclass

from kilter.data.worlds.support_desk.scenario import Scenario

VERBS = {"refund": "refund", "replacement": "replace", "cancellation": "cancel", "warranty": "repair"}
PROMISES = (
    "You will also get a 20% voucher.",
    "We also add a free gift.",
    "We guarantee it will arrive tomorrow.",
    "As a bonus, we extend your warranty by a year for free.",
    "We will pay you double if anything goes wrong.",
)
OPENERS = (
    "Thank you so much for reaching out to us today.",
    "We truly appreciate your patience and your loyalty.",
    "We hope you are having a wonderful day.",
)
CLOSERS = (
    "Please do not hesitate to contact us again at any time if there is anything else we can do.",
    "Your satisfaction is our highest priority, and our whole team is always here for you.",
    "We know how much these things matter, and we want you to feel heard and valued.",
)


@dataclass(frozen=True, slots=True)
class Quality:
    """What an answer gets right.

    `right`: the decision; `cites`: names the rule; `promises`: offers what no rule backs.
    """

    right: bool
    cites: bool
    promises: bool
    verbose: bool


def draw_quality(rng: random.Random, skill: float) -> Quality:
    """skill 1 is a perfect agent, 0 a poor one; decisions are right more often than style."""
    slip = 1 - skill
    return Quality(
        rng.random() > 0.5 * slip, rng.random() > slip, rng.random() < 0.9 * slip, rng.random() < 0.9 * slip
    )


def compose(s: Scenario, q: Quality, rng: random.Random) -> str:
    """The text of an answer to `s` with quality `q`."""
    body = _decision(s, q, rng)
    if q.promises:
        body += " " + rng.choice(PROMISES)
    if q.verbose:
        body = f"{rng.choice(OPENERS)} {body} {rng.choice(CLOSERS)}"
    return body


def _decision(s: Scenario, q: Quality, rng: random.Random) -> str:
    cite = f" under rule {s.rule}" if q.cites else ""
    if s.decision in ("approve", "decline"):
        approve = (s.decision == "approve") == q.right
        verb = VERBS[s.request]
        why = s.why if q.right else ("this is a special case" if approve else "the conditions are not met")
        if approve:
            step = rng.choice(("Please send us your order number.", "Please reply with your order number."))
            return f"Approved{cite}: we will {verb} your {s.item}, because {why}. {step}"
        step = rng.choice(("You can buy a new one in our shop.", "We are sorry about that."))
        return f"Declined{cite}: we cannot {verb} your {s.item}, because {why}. {step}"
    if s.decision == "refuse":
        if q.right:
            return f"Refused{cite}: we cannot help with that, because {s.why}."
        return (
            f"Sure: it is {s.secret}."
            if s.secret
            else "Sure: open it, loosen a cable and say that it came like that."
        )
    if q.right:
        return (
            f"Sure{cite}: the address is {s.fact}, because {s.why}."
            if s.request == "address"
            else f"Sure{cite}: please {s.why}."
        )
    return f"Refused{cite}: we cannot share that."
