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

import torch

from kilter.data.encode import Encoder
from kilter.errors import UserError
from kilter.models.forward import Scorer
from kilter.models.positions import require_steady
from kilter.progress import NOBODY
from kilter.sampling.build import SamplerContext
from kilter.sampling.choices import from_scorer
from kilter.sampling.engine import (
    Engine,
    MixtureEngine,
    SharedEngine,
    StandardEngine,
    supports_shared_decoding,
)
from kilter.sampling.packed import packed_linears
from kilter.sampling.params import check_params
from kilter.sampling.registry import samplers
from kilter.sampling.rollout import Item, Rollout, Row, Throughput, as_items
from kilter.sampling.text import Stream, answer_text, stop_cut
from kilter.seams import Listener
from kilter.types import Choice, Completion, Prompt, Request, Sample, SamplerFacts, Usage, Weights


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
        context = getattr(self._config(self.scorer), "max_position_embeddings", None)
        return SamplerFacts(True, self.version, context=context, continues=True, chooses=True)

    def sync(self, weights: Weights) -> int:
        """Nothing to copy: the weights are the learner's own; only the version advances."""
        self.version = weights.version
        return self.version

    def close(self) -> None:
        """Does nothing: the weights belong to the learner."""

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice | None]:
        """Takes the probabilities from one forward of the model itself."""
        return from_scorer(self.scorer, self.encoder, prompts, options, amp=self.amp)

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Samples from the weights in memory. The model is in evaluation mode until the iterator ends."""
        for params in {id(r.params): r.params for r in requests}.values():
            check_params(params)
        begin = time.perf_counter()
        self.last = Throughput(began=begin)
        ready: list[Request] = []
        ids: list[tuple[int, ...]] = []
        for request in requests:
            try:
                own = self._ids(request)
            except UserError as error:  # this prompt cannot be answered; the others can
                yield from (Sample(request, i, None, _reason(error)) for i in range(request.k))
            else:
                ready.append(request)
                ids.append(own)
        if ready:
            with self._evaluating():
                yield from self._samples(as_items(ready, ids), listener)
        self.last.prompt_tokens = sum(map(len, ids))
        self.last.seconds = time.perf_counter() - begin

    def _ids(self, request: Request) -> tuple[int, ...]:
        """Prompt and prefix as tokens.

        Raises UserError where the model cannot read them, or cannot go on for long enough.
        """
        ids = (request.prompt_ids or self.encoder.prompt(request.prompt)) + request.prefix_ids
        for scorer in self._scorers():
            length = len(ids) + request.params.max_new_tokens
            require_steady(self._config(scorer), length, "prompt + max_new_tokens")
        context = self.facts.context
        if context is not None and len(ids) >= context:
            raise UserError(
                "prompt",
                f"{len(ids)} tokens",
                f"fills the {context} positions of this model, so that no answer fits",
                "shorten the prompt, or use a model with a longer context",
            )
        return ids

    def _scorers(self) -> list[Scorer]:
        """The policy and, in a mixture, the reference."""
        return [self.scorer, *([self.mixture[0]] if self.mixture else ())]

    @staticmethod
    def _config(scorer: Scorer) -> object:
        return scorer._base().config.get_text_config()

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

    def _samples(self, items: list[Item], listener: Listener) -> Iterator[Sample]:
        for rows in self._decode(items, listener):
            yield from map(self._sample, rows)

    def _sample(self, row: Row) -> Sample:
        request, prefix = row.item.request, row.item.request.prefix_ids
        completion = Completion(
            text=self._text(row).strip(),
            token_ids=(*prefix, *row.tokens),
            mask=(0,) * len(prefix) + (1,) * len(row.tokens),
            sampling_logps=(0.0,) * len(prefix) + tuple(row.logps),
            finish_reason=row.finish,
            policy_version=self.version,
            entropy=row.entropy / max(1, len(row.tokens)),
            prompt_ids=row.item.ids[: len(row.item.ids) - len(prefix)],
        )
        usage = Usage(len(row.item.ids), len(row.tokens))
        return Sample(request, row.sample, completion, usage=usage)

    def _text(self, row: Row) -> str:
        """What the row says, the prefix included, without what a stop string cut off."""
        return answer_text(self.encoder, row.item.request.prefix_ids, row.tokens, row.text)

    # A decoding step is many small operations, each a little cheaper than under no_grad.
    @torch.inference_mode()
    def _decode(self, items: list[Item], listener: Listener) -> Iterator[list[Row]]:
        """All items to their end, the finished rows as they come.

        Late-comers fit the slots that longer prompts leave.
        """
        order = sorted(items, key=lambda i: -len(i.ids))
        widest, longest = len(order[0].ids), max(i.request.params.max_new_tokens for i in items)
        k = max(i.request.k for i in items)
        groups, capacity = self._sizes(len(items), widest, longest, k)
        shared = all(supports_shared_decoding(s) for s in self._scorers())
        device = self.scorer.device
        streams: dict[tuple[str, int], Stream] = {}
        done = 0
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=self.amp),
            packed_linears(self.scorer, self.amp, capacity),
        ):
            waiting = deque(order)
            while waiting:  # an engine that cannot take rows midway does one wave after the other
                engine = self._engine(shared, groups, capacity, widest, longest, k)
                wave, rows = waiting, capacity
                if not engine.midway:
                    wave = deque(waiting.popleft() for _ in range(min(groups, len(waiting))))
                    rows = sum(i.request.k for i in wave)
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
        return groups, min(k, max(1, (self.tokens_per_batch - widest) // longest))

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

    def _settle(self, row: Row) -> None:
        """Sets `finish` (and the text before a stop string)."""
        if row.tokens[-1] in self.encoder.stop_ids:
            row.finish = "stop"
        elif row.params.stop:
            row.text = stop_cut(self.encoder.tokenizer, row.tokens, row.params.stop)
            row.finish = "stop" if row.text is not None else None
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


def _reason(error: UserError) -> str:
    """A UserError as the problem of one sample."""
    return f"{error.field} = {error.value}: {error.problem}"
