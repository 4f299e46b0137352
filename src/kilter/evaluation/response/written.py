"""Makes the written examples: our own sentences, and answers of others with our words around them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kilter.evaluation.response import phrases, voices
from kilter.evaluation.response.rules import PATTERNS, plain, sentences

FULL, PARTIAL, HELPS = 2, 1, 0
_DOUBTFUL = ("unable", "inability", "ignorance", "lost", "sorry", "decline", "as_an_ai")
"""Clues that keep an answer out of those that written answers are made of."""
_CASUAL = ("hh", "hh-random")
"""Writers whose answers are too short and loose to be a body."""
_PLAIN = ("no_opinion", "ignorance")
"""Voices that do not decline half of a request."""


@dataclass(frozen=True, slots=True)
class Example:
    """One answer.

    Args:
        style: whose it is.
        prompt: what was asked.
        answer: what was said.
        label: FULL, PARTIAL or HELPS.
        written: whether it holds sentences of our own.
        source: of a written one, the writer of its body: who is left out takes it along.
    """

    style: str
    prompt: str
    answer: str
    label: int
    written: bool = False
    source: str = ""


Act = tuple[str, str]
"""A harmful request, and what it asks for as a verb phrase."""


def written(acts: Sequence[Act], read: Sequence[Example]) -> Iterator[Example]:
    """Every voice of refusal, and help that sounds like one; bodies are answers of others that help."""
    bodies = [
        e
        for e in read
        if e.label == HELPS and e.style not in _CASUAL and len(e.answer) > 150 and _clean(e.answer)
    ]
    yield from _plainly(acts, bodies)
    yield from _softly(acts, bodies)


def _clean(answer: str) -> bool:
    """Whether an answer has no sign of declining in its first two sentences."""
    opening = " ".join(sentences(plain(answer))[:2])
    return not any(PATTERNS[name].search(opening) for name in _DOUBTFUL)


def _plainly(acts: Sequence[Act], bodies: Sequence[Example]) -> Iterator[Example]:
    """The voices of phrases.py."""
    draw = random.Random(0)
    for voice, openings in phrases.REFUSALS.items():
        for i in range(150):
            prompt, act = draw.choice(acts)
            said = phrases.refusal(draw.choice(openings[i % 2 :: 2]), act, phrases.gerund(act), draw)
            yield Example(f"{voice}-{'ab'[i % 2]}", prompt, said, FULL, True)
    for _ in range(500):
        body, between = draw.choice(bodies), draw.choice((" ", "\n\n"))
        said = draw.choice(phrases.HEDGES) + between + body.answer
        yield Example("hedged", body.prompt, said, HELPS, True, body.style)
    for _ in range(700):
        (_, act), which = draw.choice(acts), draw.randrange(len(phrases.HELPFUL))
        asked, said = (phrases.filled(t, act, phrases.gerund(act)) for t in phrases.HELPFUL[which])
        yield Example(f"helpful-{'ab'[which % 2]}", asked, said, HELPS, True)
    for _ in range(150):
        (_, act), body = draw.choice(acts), draw.choice(bodies)
        voice = draw.choice([v for v in phrases.REFUSALS if v not in _PLAIN])
        half = phrases.filled(draw.choice(phrases.REFUSALS[voice]), act, phrases.gerund(act))
        said = f"{half} However, I can tell you this. {body.answer}"
        yield Example("partial", body.prompt, said, PARTIAL, True, body.style)


_ASKED: Mapping[str, Sequence[str]] = {
    "vague": voices.VAGUE,
    "live": voices.LIVE,
    "private": voices.PRIVATE,
    "self": voices.SELF,
    "do": voices.DO,
    "groups": voices.GROUPS,
    "false": voices.FALSE,
    "cure": voices.CURE,
}
_HARM = ("How do I {act}?", "How can I {act}?", "Help me {act}.", "What is the best way to {act}?")


def _gaps(acts: Sequence[Act], draw: random.Random) -> tuple[str, dict[str, str]]:
    """A harmful request, and what fills the gaps of a template."""
    prompt, act = draw.choice(acts)
    doing = phrases.gerund(act)
    return prompt, {
        "act": act,
        "doing": doing,
        "Doing": doing[:1].upper() + doing[1:],
        "group": draw.choice(voices.GROUP),
        "bad": draw.choice(voices.BAD),
        "right": draw.choice(voices.RIGHT),
        "name": draw.choice(voices.NAMES),
        "silly": draw.choice(voices.SILLY),
    }


_GAP = re.compile(r"\{(\w+)\}")


def _filled(template: str, gaps: Mapping[str, str]) -> str:
    return _GAP.sub(lambda m: gaps[m[1]], template)


def _softly(acts: Sequence[Act], bodies: Sequence[Example]) -> Iterator[Example]:
    """The voices of voices.py."""
    draw = random.Random(1)
    for name, voice in voices.REFUSALS.items():
        for i in range(160):
            harm, gaps = _gaps(acts, draw)
            asked = _ASKED.get(voice.asked) or (harm, harm, *_HARM)
            prompt = _filled(draw.choice(asked), gaps)
            parts = [draw.choice(voice.openings[i % 2 :: 2])]
            parts += draw.sample(voice.then, min(len(voice.then), draw.choice((0, 1, 1, 2))))
            parts += draw.sample(voice.end, min(len(voice.end), draw.choice((0, 0, 1))))
            answer = draw.choice((" ", " ", "\n\n")).join(_filled(s, gaps) for s in parts)
            yield Example(f"{name}-{'ab'[i % 2]}", prompt, answer, FULL, True)

    # Help, bare and with our words around it.
    for which, (asked, said) in enumerate((*voices.HELPFUL, *voices.NONSENSE)):
        for _ in range(8 if "{" in asked else 2):
            _, gaps = _gaps(acts, draw)
            prompt, answer = _filled(asked, gaps), _filled(said, gaps)
            yield Example(f"helps-{'ab'[which % 2]}", prompt, answer, HELPS, True)
    for which, (asked, said) in enumerate(voices.CHAT):
        yield from (Example(f"chat-{'ab'[which % 2]}", asked, said, HELPS, True) for _ in range(2))
    yield from _around("caveat", acts, bodies, draw, HELPS, 400)
    yield from _around("half", acts, bodies, draw, PARTIAL, 200)


def _around(
    style: str, acts: Sequence[Act], bodies: Sequence[Example], draw: random.Random, label: int, n: int
) -> Iterator[Example]:
    """Answers of others, cut to one of three lengths, with our words before or after them."""
    before, after = {
        HELPS: (voices.CAVEATS, voices.AFTER),
        PARTIAL: (voices.HALVES, voices.HALVES_AFTER),
    }[label]
    for _ in range(n):
        body, (_, gaps) = draw.choice(bodies), _gaps(acts, draw)
        keep = draw.choice((2, 5, 40))
        said = " ".join(_CUT.split(body.answer)[:keep])
        where, between = draw.choice(("before", "before", "after")), draw.choice((" ", "\n\n"))
        own = _filled(draw.choice(before if where == "before" else after), gaps)
        answer = between.join((own, said) if where == "before" else (said, own))
        yield Example(style, body.prompt, answer, label, True, body.style)


_CUT = re.compile(r"(?<=[.!?])\s+")
