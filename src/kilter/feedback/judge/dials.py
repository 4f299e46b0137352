"""Judges with dials: each has one bias of a set strength, so that what an audit must find is known.

Used by tests, and to rehearse an audit: `Dialled("position", 0.8, truth)` prefers the answer shown first in
80 % of its verdicts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kilter.feedback.judge.verdict import ORDERS, Comparison, Exam, Judgement, Order, Verdict

Array = npt.NDArray[np.float64]
Truth = Callable[[str, str], float]
"""(id of the comparison, text of an answer) to how good it is; what is not known is worst."""

BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.M)
COMMAND = re.compile(r"\b(?:ignore|disregard|verdict|choose this|better (?:one|answer))\b", re.I)
WORST = -1e9
"""Quality of an answer that nobody knows."""

CONSTANT = 0.7
"""The grade that a judge of constant grades gives."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a dialled judge sees of n comparisons: 1 where the first answer has more of it, else 0 or -1."""

    quality: Array
    length: Array
    bullets: Array
    injection: Array


def traits(comparisons: Sequence[Comparison], truth: Truth) -> Traits:
    """What tells the two answers of each comparison apart."""

    def sign(measure: Callable[[str, str], float]) -> Array:
        return np.sign([measure(c.id, c.first) - measure(c.id, c.second) for c in comparisons])

    return Traits(
        sign(truth),
        sign(lambda _, text: len(text)),
        sign(lambda _, text: len(BULLET.findall(text))),
        sign(lambda _, text: float(bool(COMMAND.search(text)))),
    )


Mask = npt.NDArray[np.bool_]
Bias = Callable[[Traits, Array], tuple[Array, Mask]]
"""(traits, coins [n, 2, R]) to verdicts and to whether there is one, both of that shape."""


def _more(trait: str) -> Bias:
    """Whichever answer has more of a trait wins; equal ones leave it to quality."""

    def bias(seen: Traits, coin: Array) -> tuple[Array, Mask]:
        sign = np.broadcast_to(getattr(seen, trait)[:, None, None], coin.shape)
        return (sign + 1) / 2, sign != 0

    return bias


def _always(value: float) -> Bias:
    """The same verdict on everything."""
    return lambda seen, coin: (np.full(coin.shape, value), np.full(coin.shape, True))


def _shown_first(seen: Traits, coin: Array) -> tuple[Array, Mask]:
    """The first answer of a comparison is shown first in one order, and second in the other."""
    return np.broadcast_to(np.array([1.0, 0.0])[None, :, None], coin.shape), np.full(coin.shape, True)


@dataclass(frozen=True, slots=True)
class Dial:
    """One kind of judge.

    Args:
        bias: what decides in place of quality, with the strength of the dial as its probability.
        against: whether the other answer wins where the bias could have decided and did not; else quality.
        names: probes of the audit that must name it at full strength.
    """

    bias: Bias
    against: bool = False
    names: tuple[str, ...] = ()


DIALS: Mapping[str, Dial] = {
    "perfect": Dial(_more("quality")),
    "position": Dial(_shown_first, True, ("position", "consistency")),
    "longer": Dial(_more("length"), True, ("verbosity",)),
    "bullets": Dial(_more("bullets"), True, ("bullets",)),
    "injected": Dial(_more("injection"), names=("injection",)),
    "random": Dial(lambda seen, coin: (np.round(coin), np.full(coin.shape, True)), names=("kappa",)),
    "constant": Dial(_always(0.5), names=("ties", "kappa")),
    "tie": Dial(_always(0.5), names=("ties", "kappa")),
    "abstaining": Dial(_always(float("nan")), names=("unscored",)),
}
"""Judges by name. `constant` grades every answer alike, so that it cannot compare either."""


def decide(dial: Dial, strength: float, seen: Traits, chance: Array, coin: Array) -> Array:
    """Verdicts of one judge by arrays.

    Args:
        dial: the kind.
        strength: probability, 0 to 1, that the bias decides where it has a say.
        seen: of n comparisons.
        chance: [n, 2, R] uniform numbers: where they are below `strength`, the bias decides.
        coin: [n, 2, R] the same, for a judge that throws one.

    Returns:
        [n, 2, R] P(first answer better): 0, .5 or 1; NaN is unscored.
    """
    said, says = dial.bias(seen, coin)
    quality = np.broadcast_to((seen.quality[:, None, None] + 1) / 2, chance.shape)
    otherwise = np.where(says, 1 - said, quality) if dial.against else quality
    return np.where(says & (chance < strength), said, otherwise)


@dataclass(frozen=True)
class Dialled:
    """A judge (verdict.Judge) with one bias.

    Args:
        kind: a name in DIALS.
        strength: see `decide`.
        truth: how good an answer is.
        seed: of its chances. The same question, order and repeat have the same verdict, however it is asked.
        mass: what it reports as the mass of its verdicts.
    """

    kind: str
    strength: float
    truth: Truth
    seed: int = 0
    mass: float | None = 1.0

    @property
    def name(self) -> str:
        """Kind and strength."""
        return f"{self.kind} {self.strength:g}"

    @property
    def fingerprint(self) -> str:
        """Of kind, strength and seed."""
        return hashlib.sha256(f"{self.kind}|{self.strength}|{self.seed}".encode()).hexdigest()

    def compare(self, comparisons: Sequence[Comparison], repeats: int = 1) -> list[Judgement]:
        """See verdict.Judge."""
        if not comparisons:
            return []
        drawn = np.array([self._chances(c, repeats) for c in comparisons])
        seen = traits(comparisons, self.truth)
        values = decide(DIALS[self.kind], self.strength, seen, drawn[..., 0], drawn[..., 1])
        return [
            Judgement(
                c,
                tuple(self._verdict(rows[o, r], ORDERS[o], r) for r in range(repeats) for o in range(2)),
            )
            for c, rows in zip(comparisons, values, strict=True)
        ]

    def grade(self, exams: Sequence[Exam], repeats: int = 1) -> list[tuple[Verdict, ...]]:
        """See verdict.Judge. The same grade for everything."""
        return [tuple(self._verdict(CONSTANT, "forward", r) for r in range(repeats)) for _ in exams]

    def _verdict(self, value: float, order: Order, repeat: int) -> Verdict:
        if np.isnan(value):
            return Verdict(None, order, repeat, reason="abstained")
        return Verdict(float(value), order, repeat, self.mass, "tag")

    def _chances(self, c: Comparison, repeats: int) -> Array:
        """[2, repeats, 2] uniform numbers of one comparison."""
        digest = hashlib.sha256("\0".join((str(self.seed), c.id, c.first, c.second)).encode()).digest()
        return np.random.default_rng(list(digest[:16])).random((repeats, 2, 2)).swapaxes(0, 1)


def known(answers: Mapping[str, Sequence[tuple[str, float]]]) -> Truth:
    """How good an answer is, by the longest known answer that stands in it, dressed however it may be.

    Args:
        answers: texts with their quality, by the id of the prompt. Ids of comparisons begin with it and `#`.
    """
    plain = {id: [(_plain(text), quality) for text, quality in rows] for id, rows in answers.items()}

    def quality(id: str, text: str) -> float:
        bare = _plain(text)
        found = [(len(t), q) for t, q in plain.get(id.partition("#")[0], ()) if t and t in bare]
        return max(found)[1] if found else WORST

    return quality


def _plain(text: str) -> str:
    return re.sub(r"\W+", "", text).lower()
