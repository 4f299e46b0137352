"""A rollout worker around vLLM: it goes on answering while its weights are replaced."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from kilter.cluster.backend import LostError
from kilter.cluster.weights import FETCH, Package, Taken, checksums
from kilter.errors import RunFailed
from kilter.models.folder import quiet_transformers
from kilter.progress import doing
from kilter.roles.open import OpenSpec, open_encoder, open_engine_weights
from kilter.runtime import all_cores, return_freed_memory
from kilter.sampling.config import SamplerKind
from kilter.sampling.vllm import sampled
from kilter.sampling.vllm_running import EngineLostError, RunningEngine, own_transfer
from kilter.sampling.vllm_weights import EngineFolder, Holdings, shared_folder
from kilter.training.apart.worker import Worker
from kilter.types import Request, Sample, SamplerFacts

AT_ONCE = 16
"""Calls that a worker does at once: batches under way, and new weights past them."""

PACE = 20e6
"""Bytes per second with which new weights are taken at least; slower is lost."""


class VllmWorker(Worker):
    """Answers prompts with an engine that follows the policy.

    Args:
        opening: the policy as the learner opened it.
        sampler: the settings.
        dtype: of weights and products.
        keep: answers under way go on when the weights change.
        gpus: that the engine shards the weights over.
        way: of vLLM's own by which the weights come, "nccl" or "ipc"; "" is none of them.
        sleeps: whether it gives its memory back between two batches.
        devices: the only GPUs that it may see, as CUDA_VISIBLE_DEVICES names them; "" is all of them.
    """

    def __init__(
        self,
        opening: OpenSpec,
        sampler: SamplerKind,
        dtype: str,
        keep: bool,
        gpus: int | None = None,
        way: str = "",
        sleeps: bool = False,
        devices: str = "",
    ) -> None:
        super().__init__()
        # Before anybody counts GPUs: beside the learner, the engine shares those of its team.
        if devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices
        self.encoder, self.spec, self.keep, self.way = open_encoder(opening), sampler, keep, way
        self.version, self.learners = -1, 1
        self._arrived, self._loads = threading.Condition(), threading.Lock()
        self._cleanup = contextlib.ExitStack()
        try:
            self._start(opening, shared_folder(self._cleanup), dtype, gpus, sleeps)
        except BaseException:
            # Nobody else knows of the engine's processes and weights.
            self.close()
            raise

    def _start(self, opening: OpenSpec, path: Path, dtype: str, gpus: int | None, sleeps: bool) -> None:
        # The engine begins with the weights that the policy began with, and gets the present ones by `load`.
        # It computes nothing here: to prove a forward would take longer than to read the weights.
        precision, own_head = getattr(torch, dtype), not torch.cuda.is_available()
        with doing("the weights that vLLM begins with"), all_cores(), quiet_transformers():
            model, files = open_engine_weights(opening, self.encoder, precision)
            self.folder = EngineFolder(path, model, precision, own_head, files)
        self.encoder.tokenizer.save_pretrained(str(path))
        del model
        return_freed_memory()
        options = own_transfer(self.way, sleeps, self.spec.memory)
        options["tensor_parallel_size"] = max(1, gpus or 1)
        # In an actor vLLM would ask Ray for the processes of several GPUs, which has given all of them to it.
        options["distributed_executor_backend"] = "mp" if (gpus or 1) > 1 else None
        with doing("the start of vLLM's engine"):
            self.client = RunningEngine(path, dtype, self.spec, self._tick, **options)
        self._cleanup.callback(self.client.close)
        # What the engine takes by itself, the learner compares.
        if not self.way:
            with doing("checksums of the engine's weights"):
                self.holdings = Holdings(self.folder.started, self.client.digests(), self.folder.embedding)
        self.folder.empty()

    def _tick(self) -> None:
        self.progress.count += 1

    def facts(self) -> SamplerFacts:
        """What the sampler is."""
        version = max(0, self.version)
        return SamplerFacts(version=version, context=self.client.context, continues=True, skips=True)

    def generate(self, requests: Sequence[Request], version: int) -> list[Sample]:
        """Every sample of the requests, in the order in which they ended.

        Args:
            requests: whole prompts.
            version: that the weights have at least; waits for it.
        """
        self._wait_for(version)
        run = lambda: list(sampled(self.client, self.encoder, requests, self.version))
        found: list[Sample] = _or_lost(run)
        return found

    def again(self) -> bool:
        """Unless a learner that is gone leads its transfer. It answers nothing before new weights come."""
        if self.way:
            return False
        with self._loads, self._arrived:
            self.version, self.learners = -1, self.learners + 1
            self._arrived.notify_all()
        return True

    def _wait_for(self, version: int) -> None:
        with self._arrived:
            asked = self.learners
            self._arrived.wait_for(lambda: self.version >= version or self.learners != asked)
            # Nobody reads what a learner that is gone has asked for.
            if self.learners != asked:
                raise RunFailed("The learner that asked is gone", "see the run's log: another has begun")

    def load(self, package: Package) -> Taken:
        """Takes new weights. A failure is the end of the engine, for nobody knows what it holds then."""
        learners = self.learners
        with self._loads:
            # Several may wait here, and not in their order.
            if package.version < self.version or self.learners != learners:
                return Taken(package.version)
            version, sums = TAKE.get(package.way, VllmWorker._read)(self, package)
            compared = None if self.way or not package.verify else self.holdings.compared
            with self._arrived:
                self.version = version
                self._arrived.notify_all()
            return Taken(version, sums, compared)

    def _read(self, package: Package) -> tuple[int, dict[str, str]]:
        """Reads the tensors itself, and lets the engine read them from its folder."""
        tensors = FETCH[package.way](package.place, self._tick)
        self.folder.put(tensors)
        limit = self.spec.timeout + package.bytes / PACE
        publish = lambda: self.client.publish(self.folder.path, package.version, self.keep, limit)
        version: int = _or_lost(publish)
        # Else every engine would keep a copy of them in shared memory until the next ones.
        self.folder.empty()
        # What cannot be compared as the engine holds it is compared as it was read.
        sums = checksums(tensors) if package.verify else {}
        if package.verify:
            for name in self.holdings.differing(tensors, self.digests()):
                sums[name] = "other bytes in the engine"
        return version, sums

    def _commit(self, package: Package) -> tuple[int, dict[str, str]]:
        """The engine has the tensors by vLLM's own transfer, and goes on with them."""
        version: int = _or_lost(lambda: self.client.commit(package.version))
        return version, self.digests() if package.verify else {}

    def digests(self) -> dict[str, str]:
        """SHA-256 of what the engine holds, by its own names."""
        found: dict[str, str] = _or_lost(self.client.digests)
        return found

    def transfer(self, step: str, info: Any) -> None:
        """A step of vLLM's own transfer, which the learner leads."""
        _or_lost(lambda: self.client.transfer(step, info))

    def hold(self, version: int) -> None:
        """Answers nothing until the weights on their way are committed; first waits for a version."""
        self._wait_for(version)
        _or_lost(lambda: self.client.hold(self.keep, self.spec.timeout))

    def sleep(self) -> None:
        """Gives the memory of the GPU back, and drops the weights."""
        _or_lost(self.client.sleep)

    def wake(self, tag: str) -> None:
        """Takes memory for "weights" or "kv_cache"."""
        _or_lost(lambda: self.client.wake(tag))

    def close(self) -> None:
        """Ends the engine."""
        self._cleanup.close()


def _or_lost(call: Callable[[], Any]) -> Any:
    """What the call returns; a dead engine is a lost worker."""
    try:
        return call()
    except EngineLostError as error:
        raise LostError(error.problem) from error


TAKE: dict[str, Callable[[VllmWorker, Package], tuple[int, dict[str, str]]]] = dict.fromkeys(
    ("nccl", "ipc"), VllmWorker._commit
)
"""Ways whose tensors an engine takes by itself; those of all others are read by its worker."""
