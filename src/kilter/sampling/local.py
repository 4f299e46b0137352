"""The in-process sampler: it shares the learner's weights and prefills each prompt once for its k samples.

Rows that finish leave and waiting ones take their place, within a budget of cached tokens. Each sample
draws its random numbers from its own generator, seeded by (seed, prompt tokens, sample index), so the
rest of the batch does not matter.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from kilter.data.encode import Encoder
from kilter.errors import UserError
from kilter.models.forward import Scorer
from kilter.models.positions import positions, require_steady
from kilter.progress import NOBODY
from kilter.sampling.build import SamplerContext
from kilter.sampling.choices import from_scorer
from kilter.sampling.engine import (
    Engine,
    MixtureEngine,
    RecomputingEngine,
    SharedEngine,
    StandardEngine,
    supports_shared_decoding,
)
from kilter.sampling.items import Item, admitted, made
from kilter.sampling.packed import packed_linears
from kilter.sampling.params import check_params
from kilter.sampling.registry import samplers
from kilter.sampling.rollout import Rollout, Row, Throughput
from kilter.sampling.text import Stream, stop_cut
from kilter.seams import Listener
from kilter.types import Choice, Prompt, Request, Sample, SamplerFacts, SamplingParams, Weights


class LocalSampler:
    """Samples from the model of a Scorer.

    tokens_per_batch bounds the key-value cache: prompt tokens + rows x new tokens in flight. amp:
    bfloat16 autocast. mixture: (reference Scorer, a) samples from the geometric mixture pi^(1-a) ref^a
    instead of the policy.
    """

    def __init__(
        self,
        scorer: Scorer,
        encoder: Encoder,
        tokens_per_batch: int = 1 << 14,
        version: int = 0,
        amp: bool = False,
        mixture: tuple[Scorer, float] | None = None,
    ) -> None:
        self.scorer, self.encoder, self.tokens_per_batch = scorer, encoder, tokens_per_batch
        self.version, self.amp, self.mixture = version, amp, mixture
        self.last = Throughput()

    @property
    def facts(self) -> SamplerFacts:
        """The learner's own weights, read in place."""
        # Models with relative positions alone declare no limit.
        context = positions(_config(self.scorer))
        return SamplerFacts(True, self.version, context=context, continues=True, chooses=True, skips=True)

    def sync(self, weights: Weights) -> int:
        """Nothing to copy: the weights are the learner's own; only the version advances."""
        self.version = weights.version
        return self.version

    def close(self) -> None:
        """Does nothing: the weights belong to the learner."""

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice]:
        """Takes the probabilities from one forward of the model itself."""
        return from_scorer(self.scorer, self.encoder, prompts, options, self.facts.context, amp=self.amp)

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Samples from the weights in memory. The model is in evaluation mode until the iterator ends."""
        # Rollouts share one object for all their requests, and one look at it is enough.
        for params in {id(r.params): r.params for r in requests}.values():
            check_params(params)
            self._refuse_endless(params)
        begin = time.perf_counter()
        self.last = Throughput(began=begin)
        items, failed = admitted(requests, self._ids)
        yield from failed
        if items:
            with self._evaluating():
                for rows in self._decode(items, listener):
                    yield from map(self._sample, rows)
        self.last.prompt_tokens = sum(len(i.ids) for i in items)
        self.last.seconds = time.perf_counter() - begin

    def _refuse_endless(self, params: SamplingParams) -> None:
        """Raises UserError for answers as long as the model, which leave no room for any prompt."""
        context = self.facts.context
        if context is not None and params.max_new_tokens >= context:
            raise UserError(
                "sampling.max_new_tokens",
                params.max_new_tokens,
                f"leaves no room for a prompt: the model has {context} positions for both",
                f"use fewer than {context}",
            )

    def _ids(self, request: Request) -> tuple[int, ...]:
        """Prompt and prefix as tokens. Raises UserError where there is no room for an answer."""
        ids = (request.prompt_ids or self.encoder.prompt(request.prompt)) + request.prefix_ids
        # A row beyond these positions would change the numbers of all rows that share its batch.
        for scorer in self._scorers():
            length = len(ids) + request.params.max_new_tokens
            require_steady(_config(scorer), length, "prompt + max_new_tokens")
        rows = self.scorer.vocabulary
        if max(ids, default=0) >= rows:
            raise UserError(
                "prompt",
                f"token {max(ids)}",
                f"has no embedding: the model has {rows} rows of them; resize them, or leave out the token",
                "give a model with more rows (model.resize_token_embeddings)",
            )
        context, wanted = self.facts.context, request.params.max_new_tokens
        if context is not None and len(ids) + wanted > context:
            room = context - len(ids)
            fix = f"lower max_new_tokens to {room}" if room > 0 else "shorten the prompt"
            raise UserError(
                "prompt",
                f"{len(ids)} tokens",
                f"does not fit into the {context} positions of this model with an answer of {wanted}; {fix}",
                f"use a model with a longer context, or {fix}",
            )
        return ids

    def _scorers(self) -> list[Scorer]:
        """The policy and, in a mixture, the reference."""
        return [self.scorer, *([self.mixture[0]] if self.mixture else ())]

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Every model in evaluation mode, and afterwards as it was."""
        training = [s.training for s in self._scorers()]
        try:
            for s in self._scorers():
                s.eval()
            yield
        finally:
            for s, was in zip(self._scorers(), training, strict=True):
                s.train(was)

    def _sample(self, row: Row) -> Sample:
        entropy = row.entropy / max(1, len(row.tokens))
        return made(
            row.item,
            row.sample,
            self.encoder,
            row.tokens,
            row.logps,
            row.finish,
            self.version,
            row.text,
            entropy,
        )

    # A decoding step is many small operations, each a little cheaper than under no_grad.
    @torch.inference_mode()
    def _decode(self, items: list[Item], listener: Listener) -> Iterator[list[Row]]:
        """All items to their end, the finished rows as they come."""
        # Longest prompts first: late-comers then fit the slots that the first ones leave.
        order = sorted(items, key=lambda i: -len(i.ids))
        widest, longest = len(order[0].ids), max(i.request.params.max_new_tokens for i in items)
        k = max(len(i.numbers) for i in items)
        groups, capacity = self._sizes(len(items), widest, longest, k)
        shared = all(supports_shared_decoding(s) for s in self._scorers())
        device, done = self.scorer.device, 0
        streams: dict[tuple[str, int], Stream] = {}
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=self.amp),
            packed_linears(self.scorer, self.amp, capacity),
        ):
            waiting = deque(order)
            while waiting:
                # An engine that cannot take rows midway does one wave after the other.
                engine = self._engine(shared, groups, capacity, widest, longest, k)
                wave, rows = waiting, capacity
                if not engine.midway:
                    wave = deque(waiting.popleft() for _ in range(min(groups, len(waiting))))
                    rows = sum(len(i.numbers) for i in wave)
                rollout = Rollout(engine, wave, rows, groups, self._settle, device, self.last)
                for finished in rollout.steps():
                    done += len(finished)
                    if listener.wants_text:
                        self._tell(rollout.rows, streams, listener)
                    listener.finished(done, self.last.tokens_per_second)
                    if finished:
                        # What the caller computes in between is none of this rollout's precision.
                        with torch.autocast(device.type, enabled=False):
                            yield finished

    def _sizes(self, prompts: int, widest: int, longest: int, k: int) -> tuple[int, int]:
        """(prompts, rows) in flight whose cached tokens stay within the budget; at least one of each."""
        groups = max(1, min(prompts, self.tokens_per_batch // (widest + k * longest)))
        if groups > 1:
            return groups, groups * k
        # Not even all samples of one prompt fit: some of them wait for the others.
        return groups, min(k, max(1, (self.tokens_per_batch - widest) // longest))

    def _engine(self, shared: bool, groups: int, capacity: int, widest: int, longest: int, k: int) -> Engine:
        def make(scorer: Scorer) -> Engine:
            if shared:
                # CUDA graphs replay steps of one shape; a CPU is faster with shapes that shrink.
                fixed = scorer.device.type == "cuda"
                return SharedEngine(scorer, groups, capacity, widest, longest, k, fixed)
            return StandardEngine(scorer) if scorer.decodes_cached else RecomputingEngine(scorer)

        if self.mixture is None:
            return make(self.scorer)
        return MixtureEngine(make(self.scorer), make(self.mixture[0]), self.mixture[1])

    def _settle(self, row: Row) -> None:
        """Sets `finish` (and the text before a stop string)."""
        if row.tokens[-1] in self.encoder.stop_ids:
            row.finish = "stop"
        elif row.params.stop:
            row.text = stop_cut(self.encoder.tokenizer, row.tokens, row.params.stop)
            row.finish = "stop" if row.text is not None else None
        # An answer that ends with its last token has ended by itself.
        if row.finish is None and len(row.tokens) >= row.params.max_new_tokens:
            row.finish = "length"

    def _tell(self, rows: Sequence[Row], streams: dict[tuple[str, int], Stream], listener: Listener) -> None:
        """Hands on the text that every row has gained."""
        for row in rows:
            request = row.item.request
            stream = streams.setdefault((request.id, row.sample), Stream(self.encoder, row.params.stop))
            piece = stream.take(row.tokens, row.text, row.finish is not None)
            if piece:
                listener.text(request, row.sample, piece)


@samplers.register("local")
def open_local(context: SamplerContext) -> LocalSampler:
    """Opens a sampler on the weights that are in memory."""
    scorer, encoder = context.policy()
    amp = context.dtype == "bfloat16"
    return LocalSampler(scorer, encoder, context.spec.tokens_per_batch, amp=amp)


def _config(scorer: Scorer) -> Any:
    return scorer._base().config.get_text_config()
