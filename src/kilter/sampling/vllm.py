"""vLLM as a sampler, in process or as a server: the same protocol, weights pushed after every update.

Weights travel through vLLM's own reload (`reload_weights` over collective_rpc). The learner writes them to
shared memory, every worker reads them in place, and the prefix cache is reset. Sampled log-probs are vLLM's
processed ones, at the sampling temperature. They differ a little from the learner's: that is measured
(mismatch KL) and corrected (truncated importance sampling) by the objectives.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from kilter.data.encode import Encoder
from kilter.errors import UserError
from kilter.models.folder import quiet_transformers
from kilter.models.forward import Scorer
from kilter.progress import NOBODY
from kilter.sampling.build import SamplerContext
from kilter.sampling.choices import from_scorer
from kilter.sampling.config import SamplerKind
from kilter.sampling.items import Item, admitted, made
from kilter.sampling.params import check_params
from kilter.sampling.registry import samplers
from kilter.sampling.text import answer_text, first_cut
from kilter.sampling.vllm_clients import Answer, Client, Generates, InProcess, Server
from kilter.sampling.vllm_weights import given, merged_state, shared_folder, tied, untie
from kilter.seams import Listener
from kilter.types import Choice, Prompt, Request, Sample, SamplerFacts, Weights


def sampled(
    client: Generates,
    encoder: Encoder,
    requests: Sequence[Request],
    version: int,
    listener: Listener = NOBODY,
) -> Iterator[Sample]:
    """Samples of the requests, as an engine finishes them.

    Args:
        client: the engine.
        encoder: of the policy.
        requests: what is asked.
        version: updates that the weights have seen, where the engine does not say it of every token.
        listener: told what has ended.
    """
    for params in {r.params for r in requests}:
        check_params(params)
    begin, tokens, done = time.perf_counter(), 0, 0
    items, failed = admitted(requests, lambda request: _ids(request, encoder, client.context))
    yield from failed
    parts = [part for item in items for part in runs(item)]
    for item, found in client.generate(parts, sorted(encoder.stop_ids)):
        # Either the answers, or one reason for all samples of this item.
        if isinstance(found, str):
            samples = [Sample(item.request, i, None, found) for i in item.numbers]
        else:
            # A greedy answer stands for all; a server that gives too few leaves the rest without one.
            answers = zip(item.numbers, found * max(1, len(item.numbers) // max(1, len(found))), strict=False)
            samples = [_sample(item, i, encoder, answer, version) for i, answer in answers]
        done, tokens = done + len(samples), tokens + sum(s.usage.tokens for s in samples)
        listener.finished(done, tokens / max(time.perf_counter() - begin, 1e-9))
        yield from samples


def runs(item: Item) -> list[Item]:
    """The item in parts of consecutive numbers: vLLM seeds a sample by its place behind the first."""
    found: list[list[int]] = []
    for number in item.numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return [replace(item, numbers=tuple(numbers)) for numbers in found]


def _ids(request: Request, encoder: Encoder, context: int | None) -> tuple[int, ...]:
    """Prompt and prefix as tokens. Raises UserError where the engine has no room for them."""
    ids = (request.prompt_ids or encoder.prompt(request.prompt)) + request.prefix_ids
    # The engine in process would refuse the whole batch for one of these.
    if context is not None and len(ids) >= context:
        raise UserError(
            "prompt",
            f"{len(ids)} tokens",
            f"fills the {context} positions of the engine, so that no answer fits",
            "shorten the prompt, or serve a longer context",
        )
    return ids


def _sample(item: Item, index: int, encoder: Encoder, answer: Answer, version: int) -> Sample:
    # vLLM leaves the stop string in the text, because its tokens were drawn and count.
    cut = first_cut(answer_text(encoder, (), answer.tokens), item.request.params.stop)
    return made(
        item,
        index,
        encoder,
        answer.tokens,
        answer.logps,
        answer.reason,
        version,
        cut,
        versions=answer.versions,
    )


class VllmSampler:
    """Sampler over a vLLM engine that follows `scorer`'s weights.

    Raises:
        RunFailed: the engine died or stalled; with the cause.
    """

    def __init__(self, scorer: Scorer, encoder: Encoder, spec: SamplerKind, dtype: str) -> None:
        self.scorer, self.encoder, self.spec, self.version = scorer, encoder, spec, 0
        self._dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self._cleanup = contextlib.ExitStack()
        self._folder = shared_folder(self._cleanup)
        try:
            self.client = self._connect(dtype)
        except BaseException:
            # Shared memory outlives the process, so a failed start must not leave weights in it.
            self.close()
            raise

    def _connect(self, dtype: str) -> Client:
        """The engine, with the present weights in it."""
        server = None
        if self.spec.url is not None:
            server = Server(self.spec.url, self.spec.timeout, tied(self.scorer.model))
            self._cleanup.callback(server.close)
        self._own_head = not torch.cuda.is_available() if server is None else server.on_cpu
        self._write()
        self.encoder.tokenizer.save_pretrained(str(self._folder))
        if server is None:
            engine = InProcess(self._folder, dtype, self.spec)
            self._cleanup.callback(engine.close)
            return engine
        # A server was started with weights of its own.
        server.reload(self._folder, self.spec.timeout)
        return server

    @property
    def facts(self) -> SamplerFacts:
        """A copy of the learner's weights in an engine with its own arithmetic."""
        context = self.client.context
        return SamplerFacts(version=self.version, context=context, continues=True, chooses=True, skips=True)

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice]:
        """Asks the learner's own model: vLLM tells log-probs only of tokens that it drew."""
        amp = self._dtype == torch.bfloat16
        return from_scorer(self.scorer, self.encoder, prompts, options, self.facts.context, amp=amp)

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Yields samples as vLLM finishes them. Text comes whole, not in pieces."""
        yield from sampled(self.client, self.encoder, requests, self.version, listener)

    def sync(self, weights: Weights) -> int:
        """Pushes the policy's present weights."""
        self.scorer = weights.model or self.scorer
        self._write()
        self.client.reload(self._folder, self.spec.timeout)
        self.version = weights.version
        return self.version

    def _write(self) -> None:
        with quiet_transformers():
            base, state = merged_state(self.scorer.model, self._dtype)
            # One file and no index: vLLM reads what an index names, and would miss a head of its own.
            with given(self._folder):
                base.save_pretrained(str(self._folder), state_dict=state, max_shard_size="1000GB")
        if self._own_head:
            untie(base, state, self._folder)

    def close(self) -> None:
        """Removes the weights from shared memory and hangs up."""
        self._cleanup.close()

    def __del__(self) -> None:
        # When the interpreter is on its way out, modules are gone before objects.
        if contextlib is not None:
            self.close()


@samplers.register("vllm")
def open_vllm(context: SamplerContext) -> VllmSampler:
    """An engine of its own, or a running server, with the weights in memory pushed to it."""
    scorer, encoder = context.policy()
    return VllmSampler(scorer, encoder, context.spec, context.dtype)
