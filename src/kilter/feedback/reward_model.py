"""A reward model as a feedback source: one scalar per completion, from any Hugging Face sequence classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from kilter.data.collate import collate
from kilter.data.encode import Encoder
from kilter.models.forward import Scorer, supports_shared_prefix
from kilter.models.load import load_reward, load_tokenizer, stop_ids
from kilter.training.learner import split
from kilter.types import Feedback, Group


class RewardModel:
    """FeedbackSource. The prompt is encoded once for all completions of a group; a non-finite score is unscored."""

    def __init__(self, folder: Path, max_length: int = 1024, tokens_per_microbatch: int = 2048, template: str = "auto") -> None:
        tokenizer = load_tokenizer(folder)
        self.encoder = Encoder(tokenizer, stop_ids(folder, tokenizer), max_length, template)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id not in self.encoder.stop_ids else None
        self.scorer = Scorer(load_reward(folder, pad)).eval()
        supports_shared_prefix(self.scorer)
        self.budget, self.source = tokens_per_microbatch, str(folder)

    @torch.no_grad()
    def __call__(self, groups: Sequence[Group], progress: Callable[[int], None] | None = None) -> list[list[Feedback]]:
        """One Feedback per completion; groups that cannot be encoded are unscored."""
        out = [[Feedback(None, "reward", source=self.source)] * len(g.completions) for g in groups]
        encoded = [(i, e) for i, g in enumerate(groups) if g.completions and (e := self.encoder.encode(g)) is not None]
        done = 0
        for first in range(0, len(encoded), 32):
            chunk = encoded[first : first + 32]
            batch = collate([e for _, e in chunk])
            where = {id(p): i for p, (i, _) in zip(batch.prompts_N, chunk, strict=True)}
            for part in split(batch, self.budget, self.scorer.shared):
                scores = self.scorer(part, frozenset({"scores"})).scores_B.tolist()
                for n, prompt in enumerate(part.prompts_N):
                    rows = (part.group_B == n).nonzero()[:, 0].tolist()
                    values = [scores[r] for r in rows]
                    out[where[id(prompt)]] = [Feedback(v if math.isfinite(v) else None, "reward", source=self.source) for v in values]
                done += part.groups()
                if progress is not None:
                    progress(done)
        return out
