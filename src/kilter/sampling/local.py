"""The in-process sampler: shares the learner's weights, prefills each prompt once for its k samples, batches continuously.

Rows that finish leave and waiting ones take their place, within a budget of cached tokens. Each request draws its random
numbers from its own generator, seeded by (seed, prompt tokens, sample index), so what else is in the batch does not matter.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from kilter.data.encode import Encoder
from kilter.models.forward import Scorer
from kilter.models.positions import require_steady
from kilter.sampling.choose import check_params, choose, occurrences, request_seed
from kilter.sampling.engine import (
    Engine,
    MixtureEngine,
    SharedEngine,
    StandardEngine,
    supports_shared_decoding,
)
from kilter.sampling.packed import packed_linears
from kilter.types import Completion, Prompt, SamplingParams

TAIL = 24
"""Tokens whose text is searched for stop strings after each new token, beyond the stop string's own length."""


@dataclass
class _Row:
    """One request in flight."""

    prompt: int
    sample: int
    params: SamplingParams
    draws: Tensor
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    entropy: float = 0.0
    text: str | None = None
    finish: Literal["stop", "length"] | None = None


@dataclass
class Throughput:
    """What the last call of `generate` did, or the one under way has done so far."""

    prompt_tokens: int = 0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    began: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens per second, prefill included."""
        return self.tokens / max(self.seconds, 1e-9)


class LocalSampler:
    """Sampler over a Scorer's model.

    tokens_per_batch bounds the key-value cache: prompt tokens + rows x new tokens in flight. amp: bfloat16 autocast.
    mixture: (reference Scorer, a) samples from the geometric mixture pi^(1-a) ref^a instead of the policy.
    """

    exact = True

    def __init__(
        self,
        scorer: Scorer,
        encoder: Encoder,
        tokens_per_batch: int = 1 << 14,
        version: int = 0,
        amp: bool = False,
        mixture: tuple[Scorer, float] | None = None,
    ) -> None:
        self.scorer, self.encoder, self.tokens_per_batch, self.version, self.amp = (
            scorer,
            encoder,
            tokens_per_batch,
            version,
            amp,
        )
        self.mixture = mixture
        self.last = Throughput()

    def sync(self) -> None:
        """Nothing to copy: the weights are the learner's own; only the version advances."""
        self.version += 1

    @torch.inference_mode()  # a decoding step is many small operations, each a little cheaper than under no_grad
    def generate(
        self,
        prompts: Sequence[Prompt],
        k: int,
        params: SamplingParams | Sequence[SamplingParams],
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """k completions per prompt, in order. `params`: one for all, or one per prompt. `progress`: completions finished so far."""
        own = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        for p in {id(p): p for p in own}.values():
            check_params(p)
        if not prompts:
            return []
        begin = time.perf_counter()
        self.last = Throughput(began=begin)
        ids = [self.encoder.prompt(p) for p in prompts]
        scorers = [self.scorer, *([self.mixture[0]] if self.mixture else ())]
        for s in scorers:
            require_steady(
                s._base().config.get_text_config(),
                max(len(i) + p.max_new_tokens for i, p in zip(ids, own, strict=True)),
                "prompt + max_new_tokens",
            )
        training = [s.training for s in scorers]
        try:
            for s in scorers:
                s.eval()
            self._turn = occurrences(ids)
            rows = self._decode(ids, own, k, progress)
        finally:
            for s, was in zip(scorers, training, strict=True):
                s.train(was)
        results: list[list[Completion]] = [[] for _ in prompts]
        for row in sorted(rows, key=lambda r: (r.prompt, r.sample)):
            results[row.prompt].append(self._completion(row))
        self.last.prompt_tokens = sum(map(len, ids))
        self.last.seconds = time.perf_counter() - begin
        return results

    def _completion(self, row: _Row) -> Completion:
        tokens = row.tokens
        text = (
            row.text
            if row.text is not None
            else self.encoder.tokenizer.decode([t for t in tokens if t not in self.encoder.stop_ids])
        )
        return Completion(
            text=text.strip(),
            token_ids=tuple(tokens),
            mask=(1,) * len(tokens),
            sampling_logps=tuple(row.logps),
            finish_reason=row.finish,
            policy_version=self.version,
            entropy=row.entropy / max(1, len(tokens)),
        )

    def _decode(
        self,
        ids: Sequence[tuple[int, ...]],
        params: Sequence[SamplingParams],
        k: int,
        progress: Callable[[int], None] | None,
    ) -> list[_Row]:
        """All requests to their end. Longest prompts first: late-comers then fit the slots that the first ones leave."""
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        widest, longest = len(ids[order[0]]), max(p.max_new_tokens for p in params)
        groups = max(1, min(len(ids), self.tokens_per_batch // (widest + k * longest)))
        capacity = (
            min(groups * k, max(1, (self.tokens_per_batch - widest) // longest))
            if groups == 1
            else groups * k
        )
        shared = all(
            supports_shared_decoding(s)
            for s in ([self.scorer, self.mixture[0]] if self.mixture else [self.scorer])
        )
        device = self.scorer.device
        finished: list[_Row] = []
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=self.amp),
            packed_linears(self.scorer, self.amp, capacity),
        ):
            waiting = deque(order)
            while waiting:  # an engine that cannot take rows midway does one wave after the other
                engine = self._engine(shared, groups, capacity, widest, longest, k)
                wave = (
                    waiting
                    if engine.midway
                    else deque(waiting.popleft() for _ in range(min(groups, len(waiting))))
                )
                self._run(
                    engine,
                    wave,
                    ids,
                    params,
                    k,
                    capacity if engine.midway else len(wave) * k,
                    groups,
                    finished,
                    progress,
                )
        return finished

    def _engine(self, shared: bool, groups: int, capacity: int, widest: int, longest: int, k: int) -> Engine:
        def make(scorer: Scorer) -> Engine:
            graphs = scorer.device.type == "cuda"
            return (
                SharedEngine(scorer, groups, capacity, widest, longest, k, fixed=graphs)
                if shared
                else StandardEngine(scorer)
            )

        return (
            make(self.scorer)
            if self.mixture is None
            else MixtureEngine(make(self.scorer), make(self.mixture[0]), self.mixture[1])
        )

    def _run(
        self,
        engine: Engine,
        waiting: deque[int],
        ids: Sequence[tuple[int, ...]],
        params: Sequence[SamplingParams],
        k: int,
        capacity: int,
        slots: int,
        finished: list[_Row],
        progress: Callable[[int], None] | None,
    ) -> None:
        """Admit, choose a token for every row, let finished rows leave, decode the rest; until nothing is left."""
        device = self.scorer.device
        rows: list[_Row] = []
        pending: deque[tuple[int, int, int, Tensor]] = (
            deque()
        )  # (handle, prompt, next sample, its logits) of prompts with samples to start
        logits: Tensor | None = None
        while waiting or pending or rows:
            room = capacity - len(rows)
            started = len({r.prompt for r in rows} | {p[1] for p in pending})
            fresh: list[int] = []
            while (
                waiting
                and started + len(fresh) < slots
                and (sum(k - p[2] for p in pending) + len(fresh) * k) < room
            ):
                fresh.append(waiting.popleft())
            if fresh:
                handles, found = engine.prefill([ids[i] for i in fresh])
                pending += [(h, i, 0, row) for h, i, row in zip(handles, fresh, found, strict=True)]
            joined: list[int] = []
            new: list[Tensor] = []
            while pending and len(joined) < room:
                handle, prompt, sample, own = pending.popleft()
                rows.append(
                    _Row(
                        prompt,
                        sample,
                        params[prompt],
                        _draws(ids[prompt], sample + k * self._turn[prompt], params[prompt]),
                    )
                )
                joined.append(handle)
                new.append(own)
                if sample + 1 < k:
                    pending.appendleft((handle, prompt, sample + 1, own))
            if joined:
                engine.attach(joined)
                for handle in {h for h in joined if h not in {p[0] for p in pending}}:
                    engine.release(handle)
                logits = torch.cat([*([] if logits is None else [logits]), torch.stack(new)])
            assert logits is not None
            draws = torch.stack([r.draws[len(r.tokens)] for r in rows]).to(device)
            picked, logps, entropy = choose(logits, draws, [r.params for r in rows])
            alive = []
            for i, (row, token, logp, spread) in enumerate(
                zip(rows, picked.tolist(), logps.tolist(), entropy.tolist(), strict=True)
            ):
                row.tokens.append(token)
                row.logps.append(logp)
                row.entropy += spread
                self._finish(row)
                if row.finish is None:
                    alive.append(i)
                else:
                    finished.append(row)
            self.last.tokens += len(picked)
            self.last.seconds = time.perf_counter() - self.last.began
            if progress is not None:
                progress(len(finished))
            if len(alive) < len(rows):
                alive = _fill_holes(alive)
                engine.keep(alive)
                rows = [rows[i] for i in alive]
            logits = engine.decode(picked[torch.tensor(alive, device=device)]) if rows else None
            self.last.steps += 1

    def _finish(self, row: _Row) -> None:
        """Sets `finish` (and the text before a stop string)."""
        params = row.params
        if row.tokens[-1] in self.encoder.stop_ids:
            row.finish = "stop"
        elif params.stop:
            decode = self.encoder.tokenizer.decode
            tail = decode(row.tokens[-(TAIL + max(map(len, params.stop))) :])
            if any(s in tail for s in params.stop):
                text = decode(row.tokens)
                row.finish, row.text = (
                    "stop",
                    text[: min(at for s in params.stop if (at := text.find(s)) >= 0)],
                )
        if row.finish is None and len(row.tokens) >= params.max_new_tokens:
            row.finish = "length"


def _fill_holes(alive: list[int]) -> list[int]:
    """The order in which the fewest rows move: survivors stay, the last ones fill the holes."""
    order: list[Any] = [None] * len(alive)
    movers = [i for i in alive if i >= len(alive)]
    for i in alive:
        if i < len(alive):
            order[i] = i
    return [movers.pop() if i is None else i for i in order]


def _draws(prompt: tuple[int, ...], sample: int, params: SamplingParams) -> Tensor:
    """The uniform numbers of one request: a function of (seed, prompt, sample index) alone; a prompt that stands in a batch twice goes on counting its samples."""
    generator = torch.Generator().manual_seed(request_seed(params, prompt, sample))
    return torch.rand(params.max_new_tokens, generator=generator)
