"""The trained part of the classifier: two linear models over clues and hashed words. It needs numpy alone."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilter.evaluation.response.features import clues, hashed

WEIGHTS = Path(__file__).with_name("weights.npz")

HASH_SCALE = 1.2
"""What hashed words weigh beside clues, which are 0 or 1."""


def narrow(words: NDArray[np.float32]) -> tuple[NDArray[np.int8], float]:
    """Weights of words as a file keeps them: whole numbers of one byte, and their scale."""
    scale = float(np.abs(words).max()) / 127 or 1.0
    return np.round(words / scale).astype(np.int8), scale


def wide(words: NDArray[np.int8], scale: float) -> NDArray[np.float32]:
    """The weights again."""
    return words.astype(np.float32) * np.float32(scale)


@dataclass(frozen=True)
class Linear:
    """Coefficients, as training left them and as the file holds them.

    Args:
        clues: [clues] of "declines in full or in part".
        words: [buckets] of the same.
        bias: of the same.
        full_clues: [clues] of "declines in full", for answers that decline.
        full_bias: of the same.
        threshold: log-odds above which an answer declines.
    """

    clues: NDArray[np.float32]
    words: NDArray[np.float32]
    bias: float
    full_clues: NDArray[np.float32]
    full_bias: float
    threshold: float = 0.0

    def score(self, prompt: str, answer: str) -> tuple[float, float]:
        """Log-odds that the answer declines, and that it then does so in full."""
        seen = clues(prompt, answer)
        declines = seen @ self.clues + hashed(prompt, answer) @ self.words + self.bias
        return float(declines) - self.threshold, float(seen @ self.full_clues + self.full_bias)

    def save(self, path: Path) -> None:
        """One compressed file of numbers."""
        words, scale = narrow(self.words)
        np.savez_compressed(
            path,
            clues=self.clues.astype(np.float16),
            words=words,
            full_clues=self.full_clues.astype(np.float16),
            scalars=np.array([self.bias, self.full_bias, self.threshold, scale], np.float64),
        )


def read(path: Path = WEIGHTS) -> Linear:
    """The coefficients of a file."""
    with np.load(path) as held:
        bias, full_bias, threshold, scale = (float(v) for v in held["scalars"])
        return Linear(
            held["clues"].astype(np.float32),
            wide(held["words"], scale),
            bias,
            held["full_clues"].astype(np.float32),
            full_bias,
            threshold,
        )


shipped = functools.cache(read)
"""The coefficients that Kilter ships, read when they are first asked for."""
