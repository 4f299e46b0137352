"""Engines beside the learner: one of them has the GPU's memory at a time.

A batch takes these steps. The learner's moments move to the CPU. The engine takes memory for its weights,
gets the present ones, takes memory for its cache, answers, and gives all of it back. The moments return. An
engine that sleeps has dropped its weights. One that several GPUs share wakes when all their learners have
made room, and they return when it sleeps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from kilter.progress import NOBODY
from kilter.seams import Listener
from kilter.training.apart.rollouts import PooledSampler
from kilter.types import Request, Sample, SamplerFacts, Weights

CHECKED = 3
"""Wakes of an engine after which its weights are compared with the learner's."""


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
        meet: waits for all ranks that share an engine.
    """

    def __init__(
        self, inner: PooledSampler, moments: Moments, meet: Callable[[], Any] = lambda: None
    ) -> None:
        self.inner, self.moments, self._meet = inner, moments, meet
        self.version, self._wakes, self._verify = inner.version, 0, inner.verify
        inner.settle()
        inner.pool.ask_all("sleep")

    @property
    def facts(self) -> SamplerFacts:
        """An engine with its own arithmetic, and always with the newest weights."""
        context = self.inner.facts.context
        return SamplerFacts(version=self.version, context=context, continues=True, skips=True)

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Wakes the engines with the present weights, yields samples, and puts them to sleep."""
        with contextlib.ExitStack() as after:
            after.callback(self.moments.restore)
            self.moments.offload()
            self._meet()
            with contextlib.ExitStack() as asleep:
                asleep.callback(self.inner.pool.ask_all, "sleep")
                self._wake()
                yield from self.inner.run(requests, listener)
            self._meet()

    def _wake(self) -> None:
        """The cache comes last: weights on their way need some room too."""
        self.inner.pool.ask_all("wake", lambda number: ("weights",))
        self._wakes += 1
        if self._verify:
            self.inner.verify = 1 if self._wakes <= CHECKED else self._verify
        self.inner.sync(Weights(self.version))
        self.inner.settle()
        self.inner.pool.ask_all("wake", lambda number: ("kv_cache",))

    def sync(self, weights: Weights) -> int:
        """Notes the version; the weights themselves follow when the engines wake."""
        self.version = weights.version
        return self.version

    def close(self) -> None:
        """Ends the engines."""
        self.inner.close()
