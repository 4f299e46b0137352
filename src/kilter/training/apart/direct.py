"""Weights straight from the learner's GPUs into engines: apart by nccl, or beside it on the same ones.

Beside, one of them has the memory at a time. A batch then takes these steps: the learner's moments move to
the CPU, the engine takes memory for its weights, gets the present ones, takes memory for its cache, answers,
gives all of it back, and the moments return. An engine that sleeps has dropped its weights.

An engine that is lost ends the run: its group cannot be joined again, nor its memory be had.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from kilter.cluster.pool import Pool
from kilter.cluster.weights import Package, WeightStream
from kilter.progress import NOBODY
from kilter.sampling import vllm_transfer
from kilter.sampling.vllm_weights import Holdings, MergedWeights
from kilter.seams import Listener
from kilter.training.apart.rollouts import PooledSampler
from kilter.types import Request, Sample, SamplerFacts, Weights

CHECKED = 3
"""Wakes of an engine after which its weights are compared with the learner's."""


def ask_all(pool: Pool, method: str, arguments: Callable[[int], tuple[Any, ...]] = lambda n: ()) -> list[Any]:
    """Calls a method of every worker, its arguments made from the worker's number, and waits for all."""
    return [pool.result(request) for request in pool.each(method, arguments)]


class DirectTransport:
    """vLLM's own transfer. A package says only that the tensors are there.

    Args:
        pool: of VllmWorkers.
        weights: of the policy; each rank of the learner sends its shards of them.
        way: "nccl" or "ipc".
        reach: where the engines are.
        holds: engines are told to answer nothing meanwhile; those that sleep need not be.
    """

    def __init__(
        self, pool: Pool, weights: MergedWeights, way: str, reach: vllm_transfer.Reach, holds: bool = True
    ) -> None:
        self.pool, self.weights, self.way, self.holds = pool, weights, way, holds
        self._last = -1
        # What an engine has now is what the policy began with: it shows which tensors can be compared.
        self._holdings = Holdings(weights.on_cpu(), ask_all(pool, "digests")[0], weights.embedding)
        ask = lambda step, info: ask_all(pool, "transfer", lambda number: (step, info(number)))
        self._transfer = vllm_transfer.connect(way, weights, ask, reach)

    def send(self, weights: WeightStream) -> Package:
        """Every rank of the learner must call it: it gathers shards."""
        if self.holds:
            # Not before the last weights are committed, which would let the engines go on.
            last, self._last = self._last, weights.version
            ask_all(self.pool, "hold", lambda number: (last,))
        self._transfer.send_weights()
        return Package(weights.version, self.way, None, {}, 0)

    def checksums(self, weights: WeightStream) -> Mapping[str, str]:
        """By the engine's own names, of what it holds byte for byte."""
        return self._holdings.expected(self.weights.on_cpu())


class Moments:
    """What an optimizer keeps of each weight. It is needed only while the optimizer steps."""

    def __init__(self) -> None:
        self.optimizer: torch.optim.Optimizer | None = None
        """Set where the learner has one."""
        self._homes: list[tuple[dict[str, Any], str, torch.device]] = []

    def offload(self) -> None:
        """Moves them to the CPU, and gives the memory back to the device."""
        for state in self.optimizer.state.values() if self.optimizer is not None else ():
            for name, value in state.items():
                if torch.is_tensor(value) and value.device.type != "cpu":
                    self._homes.append((state, name, value.device))
                    state[name] = value.to("cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def restore(self) -> None:
        """Moves them back."""
        for state, name, device in self._homes:
            state[name] = state[name].to(device)
        self._homes = []


class BesideSampler:
    """Sampler over engines that sleep while the learner learns.

    Args:
        inner: over the same engines, awake; its transport holds nobody.
        moments: of the learner's optimizer.
    """

    def __init__(self, inner: PooledSampler, moments: Moments) -> None:
        self.inner, self.moments = inner, moments
        self.version, self._wakes, self._verify = inner.version, 0, inner.verify
        inner.settle()
        ask_all(inner.pool, "sleep")

    @property
    def facts(self) -> SamplerFacts:
        """An engine with its own arithmetic, and always with the newest weights."""
        context = self.inner.facts.context
        return SamplerFacts(version=self.version, context=context, continues=True)

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Wakes the engines with the present weights, yields samples, and puts them to sleep."""
        with contextlib.ExitStack() as after:
            after.callback(self.moments.restore)
            self.moments.offload()
            after.callback(ask_all, self.inner.pool, "sleep")
            self._wake()
            yield from self.inner.run(requests, listener)

    def _wake(self) -> None:
        """The cache comes last: weights on their way need some room too."""
        ask_all(self.inner.pool, "wake", lambda number: ("weights",))
        self._wakes += 1
        if self._verify:
            self.inner.verify = 1 if self._wakes <= CHECKED else self._verify
        self.inner.sync(Weights(self.version))
        self.inner.settle()
        ask_all(self.inner.pool, "wake", lambda number: ("kv_cache",))

    def sync(self, weights: Weights) -> int:
        """Notes the version; the weights themselves follow when the engines wake."""
        self.version = weights.version
        return self.version

    def close(self) -> None:
        """Ends the engines."""
        self.inner.close()
