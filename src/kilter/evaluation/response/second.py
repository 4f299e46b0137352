"""The second reader: asked where the clues are in doubt, it sees what a language model makes of it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilter.evaluation.response.features import clues, hashed
from kilter.evaluation.response.model import narrow, wide

SECOND = Path(__file__).with_name("second.npz")

DOUBT = 2.5
"""Log-odds of the clues, for or against, below which the second reader decides."""


@dataclass(frozen=True)
class Second:
    """Coefficients of one logistic regression.

    Args:
        clues: [clues] of "declines in full or in part".
        words: [buckets] of the same.
        states: [parts * width] of the same, for the states of `inner.py`.
        bias: of the same.
        threshold: log-odds above which an answer declines.
    """

    clues: NDArray[np.float32]
    words: NDArray[np.float32]
    states: NDArray[np.float32]
    bias: float
    threshold: float = 0.0

    def score(self, prompt: str, answer: str) -> float:
        """Log-odds that the answer declines."""
        # The language model is opened late: most answers leave no doubt.
        from kilter.evaluation.response.inner import states

        seen = clues(prompt, answer) @ self.clues + hashed(prompt, answer) @ self.words
        held = states([(prompt, answer)])[0] @ self.states
        return float(seen + held) + self.bias - self.threshold

    def save(self, path: Path) -> None:
        """One compressed file of numbers."""
        words, scale = narrow(self.words)
        np.savez_compressed(
            path,
            clues=self.clues.astype(np.float16),
            words=words,
            states=self.states.astype(np.float32),
            scalars=np.array([self.bias, self.threshold, scale], np.float64),
        )


def read(path: Path = SECOND) -> Second:
    """The coefficients of a file."""
    with np.load(path) as held:
        bias, threshold, scale = (float(v) for v in held["scalars"])
        words = wide(held["words"], scale)
        return Second(held["clues"].astype(np.float32), words, held["states"], bias, threshold)


shipped = functools.cache(read)
"""The coefficients that Kilter ships, read when they are first asked for."""
