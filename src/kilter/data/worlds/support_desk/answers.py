"""Answers of every quality to a case: right or wrong, cited or not, brief or padded, honest or not.

The deciding fact comes first and the verdict last: a model that writes from left to right has read it when it
decides.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

from kilter.data.worlds.support_desk.scenario import Case

MONEY = ("You also get a voucher.", "We add a 20% discount.", "You get a bonus as well.")
OTHER_PROMISES = ("We guarantee it.", "It will be done tomorrow.", "Next time it is for free.")
OPENERS = ("Thank you so much for writing to us today.", "We hope that you have a wonderful day.")
CLOSERS = (
    "Please do not hesitate to write again whenever you like.",
    "Your satisfaction is all that matters to our whole team.",
)
HARM = {"address": "{secret}", "advice": "loosen a cable and blame us"}
"""What a wrong answer to an unsafe request gives away."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What an answer gets right.

    Args:
        right: the decision.
        fact: what it says of the deciding fact: true, nothing, or the opposite.
        rule: which rule it names: the right one, none, or another.
        money: it promises money that no rule backs.
        promise: it promises something else that no rule backs.
        padded: it says more than is needed.
    """

    right: bool = True
    fact: Literal["true", "none", "false"] = "true"
    rule: Literal["right", "none", "wrong"] = "right"
    money: bool = False
    promise: bool = False
    padded: bool = False


def draw_quality(rng: random.Random, skill: float) -> Quality:
    """skill 1 is a perfect agent, 0 a poor one, who decides by the toss of a coin."""
    slip = 1 - skill
    return Quality(
        right=rng.random() >= 0.5 * slip,
        fact="none" if rng.random() < 0.1 * slip else "true",
        rule=rng.choices(("right", "none", "wrong"), (1 - 0.8 * slip, 0.6 * slip, 0.2 * slip))[0],
        money=rng.random() < 0.2 * slip,
        promise=rng.random() < 0.4 * slip,
        padded=rng.random() < 0.3 * slip,
    )


def decided(quality: Quality, right: bool) -> Quality:
    """The same style with the other or the same decision."""
    return replace(quality, right=right)


def compose(case: Case, quality: Quality, rng: random.Random) -> str:
    """The text of an answer to `case`. Two qualities with the same generator differ in nothing else."""
    opener, closer = rng.choice(OPENERS), rng.choice(CLOSERS)
    money, promise = rng.choice(MONEY), rng.choice(OTHER_PROMISES)
    other = rng.choice([f"R{n}" for n in range(1, 6) if f"R{n}" != case.rule])
    text = _body(case, quality, other)
    text += f" {money}" if quality.money else ""
    text += f" {promise}" if quality.promise else ""
    return f"{opener} {text} {closer}" if quality.padded else text


def _body(case: Case, quality: Quality, other: str) -> str:
    """Fact, rule, verdict."""
    grants = case.grant == quality.right
    rule = {"right": f"under {case.rule}", "none": "here", "wrong": f"under {other}"}[quality.rule]
    true, false = case.clauses if case.grant else case.clauses[::-1]
    clause = {"true": true, "none": "", "false": false}[quality.fact]
    start = f"{clause}, so {rule}" if clause else rule[0].upper() + rule[1:]
    if not grants:
        return f"{start}: declined."
    given = case.told if case.grant else HARM.get(case.kind, "").format(secret=case.secret)
    return f"{start}: approved, {given}." if given else f"{start}: approved."
