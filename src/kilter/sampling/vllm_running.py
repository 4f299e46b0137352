"""vLLM's AsyncLLM on a thread of its own: it goes on answering while its weights are replaced."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from kilter.errors import RunFailed
from kilter.sampling.config import BESIDE, SamplerKind
from kilter.sampling.items import Item
from kilter.sampling.vllm_clients import (
    AGAIN,
    Answer,
    Answered,
    drawn_logps,
    ended,
    engine_settings,
    last_line,
    log_lengths,
    parameters,
    seed_of,
    start_failed,
)
from kilter.sampling.vllm_digests import ADDED
from kilter.sampling.vllm_ends import started_for

LOOK = 0.5
"""Seconds between two looks at the engine's processes."""


class EngineLostError(RunFailed):
    """The engine has ended, or does not take its weights. Another one can do what it was asked."""


def own_transfer(way: str, sleeps: bool, memory: float | None = None) -> dict[str, Any]:
    """Settings of an engine that takes weights by vLLM's own transfer, or shares its GPU with a learner.

    Args:
        way: of vLLM's own by which the weights come; "" is none.
        sleeps: whether it gives its memory back between two batches.
        memory: share of the GPU's memory that the user asked for; None: BESIDE.
    """
    found: dict[str, Any] = {}
    if way:
        # Handles of memory on a GPU are not plain values.
        os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
        found["weight_transfer_config"] = {"backend": way}
    if sleeps:
        # The learner's weights, gradients and activations stay.
        found |= {"enable_sleep_mode": True, "gpu_memory_utilization": memory or BESIDE}
    return found


class RunningEngine:
    """A Client whose methods may be called from several threads, and while others are under way.

    Args:
        folder: of the model.
        dtype: of the products.
        spec: of the sampler.
        tick: called with each piece of an answer.
        options: further settings of the engine.
    """

    def __init__(
        self, folder: Path, dtype: str, spec: SamplerKind, tick: Callable[[], None], **options: Any
    ) -> None:
        settings = engine_settings(folder, dtype, spec, share=0.85) | options
        settings["worker_extension_cls"] = ADDED
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.timeout, self._tick, self._numbers = spec.timeout, tick, itertools.count()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()

        # The engine lives in the loop. Its processes are those that come while it starts.
        async def start() -> Any:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**settings))

        before, log = set(multiprocessing.active_children()), log_lengths()
        try:
            with started_for(folder):
                self.engine = asyncio.run_coroutine_threadsafe(start(), self._loop).result()
        except Exception as error:
            raise start_failed(error, log) from error
        self._processes = set(multiprocessing.active_children()) - before
        self.context: int | None = self.engine.model_config.max_model_len

    def generate(self, items: Sequence[Item], stop_ids: Sequence[int]) -> Answered:
        """Yields each item when it is done."""
        done: queue.Queue[tuple[Item, list[Answer] | BaseException]] = queue.Queue()

        async def ask(item: Item) -> None:
            try:
                done.put((item, await self._answers(item, stop_ids)))
            except Exception as error:
                done.put((item, error))

        asked = [asyncio.run_coroutine_threadsafe(ask(item), self._loop) for item in items]
        try:
            for _ in items:
                item, found = self._watched(lambda: done.get(timeout=LOOK), "sampling")
                if isinstance(found, BaseException):
                    # An engine that refuses a request lives on.
                    kind = EngineLostError if self.engine.errored else RunFailed
                    raise kind(f"vLLM failed while sampling ({last_line(found)})", AGAIN) from found
                yield item, found
        finally:
            # After a failure, or when nobody wants the rest.
            for task in asked:
                task.cancel()

    async def _answers(self, item: Item, stop_ids: Sequence[int]) -> list[Answer]:
        """All answers to one item, put together from their pieces."""
        from vllm import SamplingParams as Params
        from vllm.sampling_params import RequestOutputKind

        # Pieces rather than whole answers: whoever waits sees that there is progress.
        wanted = parameters(item, stop_ids)
        params = Params(**wanted, seed=seed_of(item), output_kind=RequestOutputKind.DELTA)
        found = [Answer([], [], "stop") for _ in range(wanted["n"])]
        prompt = {"prompt_token_ids": list(item.ids)}
        async for output in self.engine.generate(prompt, params, request_id=f"kilter-{next(self._numbers)}"):
            self._tick()
            for piece in output.outputs:
                answer = found[piece.index]
                answer.tokens.extend(piece.token_ids)
                answer.logps.extend(drawn_logps(piece))
                # The last piece says how it ended, and whose weights drew what.
                if piece.finish_reason is not None:
                    spans = tuple((s.start, s.end, _number(s.version)) for s in piece.weight_versions or ())
                    found[piece.index] = answer._replace(reason=ended(piece.finish_reason), versions=spans)
        return found

    def publish(self, folder: Path, version: int, keep: bool, seconds: float) -> int:
        """Takes the weights in a folder, and forgets what it has computed with the old ones.

        Args:
            folder: of the model.
            version: of the weights.
            keep: answers under way go on with the new weights; else they end with the old ones.
            seconds: without an end after which the engine counts as lost; answers under way may take longer.

        Returns:
            The version that the engine says it has.

        Raises:
            EngineLostError: it did not take them. It must not be asked any more.
        """
        self.hold(keep, seconds)
        reload = self.engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self.control(reload, "taking new weights", seconds)
        return self.commit(version)

    def hold(self, keep: bool, seconds: float) -> None:
        """Answers nothing until `commit`. The caches are emptied: answers under way are read anew."""
        pause = self.engine.pause_generation(mode="keep" if keep else "wait", clear_cache=True)
        self.control(pause, "pausing", seconds if keep else None)

    def commit(self, version: int) -> int:
        """Goes on with weights that have arrived; the version that the engine then says it has."""

        async def resume() -> str:
            await self.engine.update_weight_version(str(version))
            await self.engine.resume_generation()
            return str(await self.engine.get_weight_version())

        return _number(self.control(resume(), "resuming", self.timeout))

    def transfer(self, step: str, info: Any) -> None:
        """A step of vLLM's own transfer: init, start, update, finish."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest as Init
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest as Update

        steps = {
            "init": lambda: self.engine.init_weight_transfer_engine(Init(init_info=info)),
            "start": self.engine.start_weight_update,
            "update": lambda: self.engine.update_weights(Update(update_info=info)),
            "finish": self.engine.finish_weight_update,
        }
        # However long they take: whoever sends them sees no end either, and is watched.
        self.control(steps[step](), "taking new weights", None)

    def sleep(self) -> None:
        """Gives its memory back. The weights are dropped: each wake is followed by new ones."""
        self.control(self.engine.sleep(level=2), "going to sleep", self.timeout)

    def wake(self, tag: str) -> None:
        """Takes back the memory of "weights" or of "kv_cache"; it answers when it has both."""
        self.control(self.engine.wake_up([tag]), "waking up", self.timeout)

    def digests(self) -> dict[str, str]:
        """SHA-256 of each tensor that the engine holds, by its own names; of one worker's share each."""
        found = self.control(self.engine.collective_rpc("kilter_digests"), "reading its weights", None)
        return {name: digest for worker in found for name, digest in worker.items()}

    def control(self, call: Coroutine[Any, Any, Any], what: str, seconds: float | None) -> Any:
        """Makes a call in the engine's loop, and watches the engine meanwhile."""
        future = asyncio.run_coroutine_threadsafe(call, self._loop)

        def ask() -> Any:
            try:
                return future.result(timeout=LOOK)
            except TimeoutError:
                raise queue.Empty from None

        try:
            return self._watched(ask, what, seconds)
        except RunFailed:
            raise
        except Exception as error:
            raise EngineLostError(f"vLLM failed while {what} ({last_line(error)})", AGAIN) from error

    def _watched(self, ask: Callable[[], Any], what: str, seconds: float | None = None) -> Any:
        """Asks until there is an answer: vLLM's own wait for a killed engine takes 20 s, or has no end."""
        begin = time.monotonic()
        while True:
            try:
                return ask()
            except queue.Empty:
                for process in self._processes:
                    if not process.is_alive():
                        problem = f"The vLLM engine ended with code {process.exitcode} while {what}"
                        raise EngineLostError(problem, AGAIN) from None
                if seconds is not None and time.monotonic() - begin > seconds:
                    problem = f"vLLM took longer than {seconds:g} s {what}"
                    raise EngineLostError(problem, f"raise sampler.timeout, or {AGAIN}") from None

    def close(self) -> None:
        """Ends the engine's processes."""
        self._loop.call_soon_threadsafe(self.engine.shutdown)
        for process in self._processes:
            process.join(10)


def _number(version: str) -> int:
    """Of the updates that weights have seen; what an engine was started with has seen none."""
    return int(version) if version.isdigit() else 0
