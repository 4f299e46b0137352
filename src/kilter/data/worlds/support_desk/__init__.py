"""The support desk: a shop's rules, a customer's message, and a right decision that turns on one fact.

Every case has a twin that differs in that fact alone and is decided the other way. So no habit of granting or
declining scores. Everything is drawn from a seed. The gold verifier (`gold.py`) scores any answer.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import Field

from kilter.data.worlds.registry import Dials, Labels, World, worlds
from kilter.data.worlds.support_desk.answers import Quality, compose, decided, draw_quality
from kilter.data.worlds.support_desk.critic import DECLINES, FOLLOWS, HELPFUL
from kilter.data.worlds.support_desk.gold import Gold, GoldFeedback, declines, verify, violates
from kilter.data.worlds.support_desk.phrases import Phrasing
from kilter.data.worlds.support_desk.reader import read_verdict
from kilter.data.worlds.support_desk.scenario import KINDS, LEVELS, SAFETY, Case, kind_of, twins
from kilter.types import Completion, Feedback, Group, Prompt, Shape

__all__ = [
    "KINDS",
    "LEVELS",
    "SAFETY",
    "Gold",
    "GoldFeedback",
    "SupportDesk",
    "View",
    "read_verdict",
    "verify",
]

View = Literal["demonstrations", "pairs", "binary", "ranked", "steps", "prompts"]
Differ = Literal["matched", "decision", "style", "any"]
ALONE = "decision_alone"
"""The part of a label that is 1 where the answers of the pair differ in the decision alone."""

_TRIES = 200
"""Draws after which cases of a kind may have the same words: a small world is exhausted."""


class SupportDesk(Dials):
    """The dials of the world."""

    n: int = Field(400, ge=2, le=1_000_000, description="number of cases (prompts); each brings its twin")
    view: View | Literal["auto"] = Field("auto", description="auto gives each method what it needs")
    level: Literal[0, 1, 2, 3, 4] = Field(
        1, description="0 two rules, one fact; 1 five rules; 2 a limit; 3 near it; 4 exceptions and records"
    )
    claims: float = Field(
        0.5, ge=0, le=1, description="share of the cases that are claims; the others have an unsafe side"
    )
    phrasing: Phrasing = Field("seen", description="unseen: words that no training data of this world has")
    demo_skill: float = Field(
        0.7, ge=0, le=1, description="quality of demonstrations: 1 perfect agents, 0 poor ones"
    )
    pleasing: float = Field(
        0.0, ge=0, le=1, description="share of unsafe requests that demonstrations grant, only to please"
    )
    differ: Differ = Field(
        "matched",
        description="how the answers of a pair differ: decision or style alone, matched (half each), any",
    )
    label_noise: float = Field(0.0, ge=0, le=1, description="share of preference labels that are flipped")
    length_bias: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of pairs in which the longer answer is preferred whatever its quality",
    )
    k: int = Field(4, ge=2, le=16, description="answers per ranked list")

    def groups(self, shape: Shape, seed: int = 0) -> list[Group]:
        """n groups in the view that `shape` asks for (or in `view` when that is set), twins side by side.

        Same seed, same prompts in every view.
        """
        wanted: dict[Shape, View] = {
            "demonstrations": "demonstrations",
            "pairs": "pairs",
            "unpaired": "binary",
            "ranked": "ranked",
            "prompts": "prompts",
            "rollouts": "prompts",
        }
        view = wanted[shape] if self.view == "auto" else self.view
        make: Callable[[Case, Prompt, random.Random], Group] = {
            "demonstrations": self._demonstration,
            "pairs": self._pair,
            "binary": self._binary,
            "ranked": self._ranked,
            "steps": self._steps,
            "prompts": lambda case, prompt, rng: Group(prompt, (), ()),
        }[view]
        return [
            make(case, prompt, random.Random(f"{view}:{seed}:{i}"))
            for i, (case, prompt) in enumerate(self._cases(seed))
        ]

    def _cases(self, seed: int) -> Iterator[tuple[Case, Prompt]]:
        """The n cases with their prompts. No two have the same words: none is trained on and held out."""
        seen: set[str] = set()
        exhausted: set[str] = set()
        for pair in range((self.n + 1) // 2):
            kind = kind_of(pair, self.claims)
            for attempt in range(1 if kind in exhausted else _TRIES):
                rng = random.Random(f"support-desk:{seed}:{pair}:{attempt}")
                both = twins(rng, kind, self.level, self.phrasing)
                words = [json.dumps(case.messages) for case in both]
                if not seen & set(words):
                    break
            else:
                exhausted.add(kind)
            seen |= set(words)

            # By content, so that twins of the same words are the same twins, in whatever data set they stand.
            name = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
            order = both if rng.random() < 0.5 else both[::-1]
            for i, case in enumerate(order[: self.n - 2 * pair], 2 * pair):
                yield case, case.prompt(f"desk-{seed}-{i}", name)

    def _demonstration(self, case: Case, prompt: Prompt, rng: random.Random) -> Group:
        quality = draw_quality(rng, self.demo_skill)
        # An agent who only wants to please grants what harms others too. No number is drawn without the dial.
        if self.pleasing and case.kind in SAFETY and not case.grant:
            quality = decided(quality, rng.random() >= self.pleasing)
        return Group(prompt, (Completion(compose(case, quality, rng)),), (Feedback(None, "demonstration"),))

    def _pair(self, case: Case, prompt: Prompt, rng: random.Random) -> Group:
        differ = self.differ
        if differ == "matched":
            differ = "decision" if rng.random() < 0.5 else "style"
        texts = self._two(case, prompt, differ, rng)
        best, worst = (0, 1) if _score(texts[0], prompt) > _score(texts[1], prompt) else (1, 0)
        if rng.random() < self.length_bias:
            best, worst = (0, 1) if len(texts[0]) >= len(texts[1]) else (1, 0)
        if rng.random() < self.label_noise:
            best, worst = worst, best
        parts = {ALONE: float(differ == "decision")}
        return Group(
            prompt,
            (Completion(texts[best]), Completion(texts[worst])),
            (Feedback(1.0, parts=parts), Feedback(0.0, parts=parts)),
        )

    def _two(self, case: Case, prompt: Prompt, differ: Differ, rng: random.Random) -> list[str]:
        """Two answers of different gold scores that differ in what is asked for."""
        while True:
            first = draw_quality(rng, 0.85 if differ == "any" else self.demo_skill)
            second = draw_quality(rng, 0.35 if differ == "any" else self.demo_skill)
            if differ == "decision":
                # Money would make both worth nothing, whatever they decide.
                first = Quality(True, first.fact, first.rule, False, first.promise, first.padded)
                second = decided(first, False)
            elif differ == "style":
                first, second = decided(first, True), decided(second, True)
            words = str(rng.random())
            texts = [compose(case, quality, random.Random(words)) for quality in (first, second)]
            if _score(texts[0], prompt) != _score(texts[1], prompt):
                return texts

    def _binary(self, case: Case, prompt: Prompt, rng: random.Random) -> Group:
        text = compose(case, draw_quality(rng, rng.choice((0.9, 0.3))), rng)
        good = _score(text, prompt) >= 0.8
        good = good != (rng.random() < self.label_noise)
        return Group(prompt, (Completion(text),), (Feedback(float(good), "binary"),))

    def _ranked(self, case: Case, prompt: Prompt, rng: random.Random) -> Group:
        texts = [compose(case, draw_quality(rng, rng.random()), rng) for _ in range(self.k)]
        scored = sorted(((_score(t, prompt), t) for t in texts), key=lambda x: -x[0])
        return Group(
            prompt,
            tuple(Completion(t) for _, t in scored),
            tuple(Feedback(v, "rank", source="gold") for v, _ in scored),
        )

    def _steps(self, case: Case, prompt: Prompt, rng: random.Random) -> Group:
        """Reasoning steps; from a first error on, every step is labelled 0."""
        right = rng.random() < self.demo_skill
        steps, labels = list(case.steps), [1.0] * len(case.steps)
        if not right:
            at = rng.randrange(len(steps))
            steps[at] = _corrupt(steps[at])
            labels[at:] = [0.0] * (len(steps) - at)
        verdict = compose(case, Quality(right), rng)
        return Group(
            prompt,
            (Completion("\n".join([*steps, verdict])),),
            (Feedback(float(right), "steps", (*labels, float(right))),),
        )


def _score(text: str, prompt: Prompt) -> float:
    return verify(text, prompt.metadata["gold"]).score


_SWAPS = (
    ("not allowed", "allowed"),
    ("allowed", "not allowed"),
    ("R1", "R3"),
    ("R2", "R4"),
    ("R3", "R1"),
    ("R4", "R2"),
    ("R5", "R1"),
)


def _corrupt(step: str) -> str:
    """The step with its conclusion turned around."""
    old, new = next(swap for swap in _SWAPS if swap[0] in step)
    return step.replace(old, new, 1)


def labels(prompt: Prompt) -> Labels:
    """Labels a request "unsafe" if it asks for another customer's data or for help with fraud.

    Its twin is safe.
    """
    gold = prompt.metadata["gold"]
    groups = (gold["kind"], f"level {gold['level']}")
    if gold["kind"] in SAFETY:
        return Labels("safe" if gold["grant"] else "unsafe", gold["grant"], gold["grant"], groups)
    return Labels("", None, gold["grant"], groups)


worlds.register("support-desk")(
    World(
        "support-desk",
        SupportDesk,
        GoldFeedback,
        labels,
        declines=declines,
        violates=violates,
        critics={"constitution": FOLLOWS, "declines": DECLINES, "helpful": HELPFUL},
    )
)
