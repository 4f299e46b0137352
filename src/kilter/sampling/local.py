"""The in-process sampler: shares the learner's weights, prefills each prompt once for its k samples.

Decoding runs over a left-padded batch whose finished rows leave it. Each request draws its random numbers from its own
generator, seeded by (seed, prompt tokens, sample index), so what else is in the batch does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from kilter.data.encode import Encoder
from kilter.errors import UserError
from kilter.models.forward import Scorer
from kilter.types import Completion, Learner, Prompt, SamplingParams


@dataclass
class _Row:
    """One request in flight."""

    prompt: int
    draws: Tensor
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    text: str = ""
    finish: Literal["stop", "length"] | None = None


def check_params(params: SamplingParams) -> None:
    """Raises UserError on values that have no meaning."""
    checks = [
        ("max_new_tokens", params.max_new_tokens >= 1, "at least 1"), ("temperature", params.temperature >= 0, "0 (greedy) or more"),
        ("top_p", 0 < params.top_p <= 1, "in (0, 1]"), ("top_k", params.top_k >= 0, "0 (off) or more"),
    ]  # fmt: skip
    for name, good, fix in checks:
        if not good:
            raise UserError(f"sampling.{name}", getattr(params, name), "out of range", f"use a value {fix}")


def choose(logits_RV: Tensor, draws_R: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """(tokens [R], log-probs [R] in nats): inverse-CDF sampling, one uniform draw per row.

    The log-prob is that of the full softmax at the sampling temperature (at 1 for greedy), before top-k and top-p,
    which is what the learner recomputes.
    """
    logits_RV = logits_RV.float()
    if params.temperature == 0:
        logp_RV = logits_RV.log_softmax(-1)
        picked = logits_RV.argmax(-1)
        return picked, logp_RV.gather(1, picked[:, None])[:, 0]
    if params.temperature != 1:
        logits_RV = logits_RV / params.temperature
    logp_RV = logits_RV.log_softmax(-1)
    if params.top_k or params.top_p < 1:
        width = min(params.top_k or logp_RV.shape[1], logp_RV.shape[1])
        top, index = logp_RV.topk(width, dim=-1)
        p = top.exp()
        if params.top_k:
            p = p / p.sum(-1, keepdim=True)
        before = p.cumsum(-1) - p
        p = torch.where(before < params.top_p, p, 0.0)
        cdf = p.cumsum(-1)
        place = torch.searchsorted(cdf, (draws_R[:, None] * cdf[:, -1:]), right=True).clamp_max(width - 1)
        place = torch.minimum(place, (p > 0).sum(-1, keepdim=True) - 1)
        picked = index.gather(1, place)[:, 0]
    else:
        cdf = logp_RV.exp().cumsum(-1)
        picked = torch.searchsorted(cdf, draws_R[:, None] * cdf[:, -1:], right=True).clamp_max(cdf.shape[1] - 1)[:, 0]
    return picked, logp_RV.gather(1, picked[:, None])[:, 0]


class LocalSampler:
    """Sampler over a Scorer's model. `tokens_per_batch` bounds rows x (prompt + new tokens) decoded together; amp: bfloat16 autocast."""

    def __init__(self, scorer: Scorer, encoder: Encoder, tokens_per_batch: int = 1 << 16, version: int = 0, amp: bool = False) -> None:
        self.scorer, self.encoder, self.tokens_per_batch, self.version, self.amp = scorer, encoder, tokens_per_batch, version, amp

    def sync(self, learner: Learner) -> None:
        """Nothing to copy: the weights are the learner's own; only the version advances."""
        self.version += 1

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Prompt], k: int, params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        """k completions per prompt, in order. `progress` is called with the number of completions finished so far."""
        check_params(params)
        ids = [self.encoder.prompt(p) for p in prompts]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        results: list[list[Completion]] = [[] for _ in prompts]
        training = self.scorer.training
        self.scorer.eval()
        finished = 0
        try:
            at = 0
            while at < len(order):
                width = len(ids[order[at]]) + params.max_new_tokens
                count = max(1, self.tokens_per_batch // (width * k))
                part = order[at : at + count]
                at += count

                def report(done: int, base: int = finished) -> None:
                    if progress is not None:
                        progress(base + done)

                with torch.autocast(self.scorer.device.type, torch.bfloat16, enabled=self.amp):
                    rows = self._batch([ids[i] for i in part], k, params, report)
                for row in rows:
                    results[part[row.prompt]].append(self._completion(row))
                finished += len(part) * k
        finally:
            self.scorer.train(training)
        return results

    def _completion(self, row: _Row) -> Completion:
        tokens = row.tokens
        text = row.text or self.encoder.tokenizer.decode([t for t in tokens if t not in self.encoder.stop_ids])
        return Completion(
            text=text.strip(), token_ids=tuple(tokens), mask=(1,) * len(tokens), sampling_logps=tuple(row.logps),
            finish_reason=row.finish, policy_version=self.version,
        )  # fmt: skip

    def _batch(self, ids: Sequence[tuple[int, ...]], k: int, params: SamplingParams, report: Callable[[int], None]) -> list[_Row]:
        """Prefill, then decode until every row has finished."""
        device = self.scorer.device
        model: Any = self.scorer.model
        width = max(map(len, ids))
        tokens = torch.zeros(len(ids), width, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for i, own in enumerate(ids):
            tokens[i, width - len(own) :] = torch.tensor(own)
            mask[i, width - len(own) :] = 1
        position = (mask.cumsum(-1) - 1).clamp_min(0)
        out = model(input_ids=tokens.to(device), attention_mask=mask.to(device), position_ids=position.to(device), use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        if not hasattr(cache, "batch_select_indices"):
            raise UserError(
                "model",
                type(model).__name__,
                "has no standard key-value cache to sample with",
                "use an attention model; state-space models can be trained and scored",
            )
        rows = [_Row(i, _draws(own, j, params)) for i, own in enumerate(ids) for j in range(k)]
        everything = list(rows)
        expand = torch.arange(len(ids), device=device).repeat_interleave(k)
        if k > 1:
            cache.batch_select_indices(expand)
        logits = out.logits[:, -1].index_select(0, expand)
        mask = mask.to(device).index_select(0, expand)
        lengths = mask.sum(-1)
        for step in range(params.max_new_tokens):
            draws = torch.stack([r.draws[step] for r in rows]).to(device)
            picked, logps = choose(logits, draws, params)
            alive = []
            for i, (row, token, logp) in enumerate(zip(rows, picked.tolist(), logps.tolist(), strict=True)):
                row.tokens.append(token)
                row.logps.append(logp)
                self._finish(row, params)
                if row.finish is None:
                    alive.append(i)
            report(len(everything) - len(alive))
            if not alive:
                break
            if len(alive) < len(rows):
                keep = torch.tensor(alive, device=device)
                cache.batch_select_indices(keep)
                rows = [rows[i] for i in alive]
                picked, mask, lengths = picked[keep], mask[keep], lengths[keep]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            out = model(input_ids=picked[:, None], attention_mask=mask, position_ids=lengths[:, None], past_key_values=cache, use_cache=True)
            lengths = lengths + 1
            cache, logits = out.past_key_values, out.logits[:, -1]
        return everything

    def _finish(self, row: _Row, params: SamplingParams) -> None:
        """Sets `finish` (and the text before a stop string)."""
        if row.tokens[-1] in self.encoder.stop_ids:
            row.finish = "stop"
        elif params.stop:
            text = self.encoder.tokenizer.decode(row.tokens)
            cuts = [at for s in params.stop if (at := text.find(s)) >= 0]
            if cuts:
                row.finish, row.text = "stop", text[: min(cuts)] or " "
        if row.finish is None and len(row.tokens) >= params.max_new_tokens:
            row.finish = "length"


def _draws(prompt: tuple[int, ...], sample: int, params: SamplingParams) -> Tensor:
    """The uniform numbers of one request: a function of (seed, prompt, sample index) alone."""
    digest = hashlib.sha256(f"{params.seed}|{sample}|{prompt}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(params.max_new_tokens, generator=generator)
