"""A reward model in memory: one scalar per completion, from a sequence classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from kilter.data.collate import collate
from kilter.errors import UserError
from kilter.models.load import reads_pairs
from kilter.models.microbatch import split
from kilter.roles.open import OpenSpec, open_model
from kilter.seams import RawScores
from kilter.types import Feedback, Group


class RewardModel(RawScores):
    """A scalar per completion, as the model gives it.

    The prompt is encoded once for all completions of a group; a non-finite score is unscored.
    """

    def __init__(
        self,
        folder: Path,
        max_length: int = 1024,
        tokens_per_microbatch: int = 2048,
        template: str = "auto",
        amp: bool = False,
    ) -> None:
        require_single(folder)
        ready = open_model(
            OpenSpec(folder, "reward", template=template, max_length=max_length, long_rows="cut")
        )
        self.encoder, self.scorer = ready.encoder, ready.scorer
        self.budget, self.source, self.amp = tokens_per_microbatch, str(folder), amp

    @torch.no_grad()
    def __call__(
        self, groups: Sequence[Group], progress: Callable[[int], None] | None = None
    ) -> list[list[Feedback]]:
        """One Feedback per completion; groups that cannot be encoded are unscored."""
        out = [
            [Feedback(None, "reward", source=self.source, rationale="cannot be encoded")] * len(g.completions)
            for g in groups
        ]
        encoded = [
            (i, e)
            for i, g in enumerate(groups)
            if g.completions and (e := self.encoder.encode(g)) is not None
        ]
        done = 0
        for first in range(0, len(encoded), 32):
            chunk = encoded[first : first + 32]
            batch = collate([e for _, e in chunk])
            where = {id(p): i for p, (i, _) in zip(batch.prompts_N, chunk, strict=True)}
            for part in split(batch, self.budget, self.scorer.shared):
                scores = self.scorer(part, frozenset({"scores"}), amp=self.amp).scores_B.tolist()
                for n, prompt in enumerate(part.prompts_N):
                    rows = (part.group_B == n).nonzero()[:, 0].tolist()
                    values = [scores[r] for r in rows]
                    out[where[id(prompt)]] = [
                        Feedback(
                            v if math.isfinite(v) else None,
                            "reward",
                            source=self.source,
                            rationale="" if math.isfinite(v) else f"scored {v}",
                        )
                        for v in values
                    ]
                done += part.groups()
                if progress is not None:
                    progress(done)
        return out


def require_single(folder: Path) -> None:
    """Raises UserError for a model of pairs."""
    if reads_pairs(folder):
        raise UserError(
            "reward_model",
            str(folder),
            "reads two answers at once",
            "use feedback {preference_model: ...}, or train one with method bradley_terry",
        )
