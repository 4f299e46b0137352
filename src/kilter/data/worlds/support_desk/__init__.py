"""The support desk: a shop's policy, a customer's message, and a right decision that follows from the rules.

Everything is drawn from a seed, of any size. The gold verifier (`gold.py`) scores any answer, so the effect
of label noise, length bias or a method can be measured against the truth.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from kilter.data.worlds.registry import Dials, Labels, World, worlds
from kilter.data.worlds.support_desk.answers import Quality, compose, draw_quality
from kilter.data.worlds.support_desk.gold import Gold, GoldFeedback, verify
from kilter.data.worlds.support_desk.scenario import HARMFUL, KINDS, LOOKALIKE, Scenario, draw
from kilter.types import Completion, Feedback, Group, Prompt, Shape

__all__ = [
    "HARMFUL",
    "KINDS",
    "LOOKALIKE",
    "Gold",
    "GoldFeedback",
    "SupportDesk",
    "View",
    "verify",
]

View = Literal["demonstrations", "pairs", "binary", "ranked", "steps", "prompts"]


class SupportDesk(Dials):
    """The dials of the world."""

    n: int = Field(400, ge=2, le=1_000_000, description="number of scenarios (prompts)")
    view: View | Literal["auto"] = Field("auto", description="auto gives each method what it needs")
    demo_skill: float = Field(
        0.5, ge=0, le=1, description="quality of demonstrations: 1 perfect agents, 0 poor ones"
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
        """n groups in the view that `shape` asks for (or in `view` when that is set).

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
        make: Callable[[Scenario, str, random.Random], Group] = {
            "demonstrations": self._demonstration,
            "pairs": self._pair,
            "binary": self._binary,
            "ranked": self._ranked,
            "steps": self._steps,
            "prompts": lambda s, name, rng: Group(s.prompt(name), (), ()),
        }[view]
        out = []
        for i in range(self.n):
            scenario = draw(random.Random(f"support-desk:{seed}:{i}"))
            out.append(make(scenario, f"desk-{seed}-{i}", random.Random(f"{view}:{seed}:{i}")))
        return out

    def _demonstration(self, s: Scenario, name: str, rng: random.Random) -> Group:
        text = compose(s, draw_quality(rng, self.demo_skill), rng)
        return Group(s.prompt(name), (Completion(text),), (Feedback(None, "demonstration"),))

    def _pair(self, s: Scenario, name: str, rng: random.Random) -> Group:
        prompt = s.prompt(name)
        while True:
            texts = [compose(s, draw_quality(rng, skill), rng) for skill in (0.85, 0.35)]
            scores = [verify(t, prompt.metadata["gold"]).score for t in texts]
            if scores[0] != scores[1]:
                break
        best, worst = (0, 1) if scores[0] > scores[1] else (1, 0)
        if rng.random() < self.length_bias:
            best, worst = (0, 1) if len(texts[0]) >= len(texts[1]) else (1, 0)
        if rng.random() < self.label_noise:
            best, worst = worst, best
        return Group(
            prompt, (Completion(texts[best]), Completion(texts[worst])), (Feedback(1.0), Feedback(0.0))
        )

    def _binary(self, s: Scenario, name: str, rng: random.Random) -> Group:
        prompt = s.prompt(name)
        text = compose(s, draw_quality(rng, rng.choice((0.9, 0.3))), rng)
        good = verify(text, prompt.metadata["gold"]).score >= 0.8
        good = good != (rng.random() < self.label_noise)
        return Group(prompt, (Completion(text),), (Feedback(float(good), "binary"),))

    def _ranked(self, s: Scenario, name: str, rng: random.Random) -> Group:
        prompt = s.prompt(name)
        texts = [compose(s, draw_quality(rng, rng.random()), rng) for _ in range(self.k)]
        scored = sorted(((verify(t, prompt.metadata["gold"]).score, t) for t in texts), key=lambda x: -x[0])
        return Group(
            prompt,
            tuple(Completion(t) for _, t in scored),
            tuple(Feedback(v, "rank", source="gold") for v, _ in scored),
        )

    def _steps(self, s: Scenario, name: str, rng: random.Random) -> Group:
        """Reasoning steps; from a first error on, every step is labelled 0."""
        right = rng.random() < self.demo_skill
        steps, labels = list(s.steps), [1.0] * len(s.steps)
        if not right:
            at = rng.randrange(len(steps))
            steps[at] = _corrupt(steps[at])
            labels[at:] = [0.0] * (len(steps) - at)
        verdict = compose(s, Quality(right, True, False, False), rng)
        return Group(
            s.prompt(name),
            (Completion("\n".join([*steps, verdict])),),
            (Feedback(float(right), "steps", (*labels, float(right))),),
        )


_SWAPS = (
    ("in time", "too late"),
    ("too late", "in time"),
    ("not allowed", "allowed"),
    ("allowed", "not allowed"),
    ("not covered", "covered"),
    ("covered", "not covered"),
    ("forbids", "allows"),
    ("allows", "forbids"),
    ("R1", "R3"),
    ("R2", "R4"),
    ("R3", "R1"),
    ("R4", "R2"),
    ("R5", "R1"),
    ("says", "does not say"),
    ("answer is", "answer is not"),
)


def _corrupt(step: str) -> str:
    """The step with its conclusion turned around."""
    for old, new in _SWAPS:
        if old in step:
            return step.replace(old, new, 1)
    return step + " So nothing follows."


def labels(prompt: Prompt) -> Labels:
    """Labels a request "unsafe" if it asks for another customer's data or for help with fraud.

    A request that the rules grant deserves help.
    """
    gold = prompt.metadata["gold"]
    return Labels("unsafe" if gold["kind"] in HARMFUL else "safe", gold["decision"] in ("approve", "help"))


worlds.register("support-desk")(World("support-desk", SupportDesk, GoldFeedback, labels))
