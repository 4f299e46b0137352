"""Continuous batching: finished rows leave, and waiting ones take their place."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from kilter.sampling.choose import choose
from kilter.sampling.engine import Engine
from kilter.sampling.items import Item
from kilter.sampling.params import request_seed
from kilter.types import SamplingParams


@dataclass
class Row:
    """One sample in flight. `draws`: its uniform numbers, one per new token."""

    item: Item
    sample: int
    draws: Tensor
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    entropy: float = 0.0
    text: str | None = None
    finish: Literal["stop", "length"] | None = None

    @property
    def params(self) -> SamplingParams:
        """Sampling parameters of the row's request."""
        return self.item.request.params


@dataclass
class Throughput:
    """What the last call did, or the one under way has done so far."""

    prompt_tokens: int = 0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    began: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens per second, prefill included."""
        return self.tokens / max(self.seconds, 1e-9)


@dataclass
class _Started:
    """A prompt that was prefilled and still has samples to start. `logits`: those of its first new token."""

    handle: int
    item: Item
    begun: int
    logits: Tensor


class Rollout:
    """One engine and the items that wait for it.

    Args:
        engine: where the rows decode.
        waiting: what is left to start; several rollouts may share it.
        capacity: rows in flight at most.
        slots: prompts in flight at most.
        settle: sets `finish` of a row after each new token.
        told: where throughput is counted.
    """

    def __init__(
        self,
        engine: Engine,
        waiting: deque[Item],
        capacity: int,
        slots: int,
        settle: Callable[[Row], None],
        device: torch.device,
        told: Throughput,
    ) -> None:
        self.engine, self.waiting, self.capacity, self.slots = engine, waiting, capacity, slots
        self.settle, self.device, self.told = settle, device, told
        self.rows: list[Row] = []
        self._started: deque[_Started] = deque()
        self._logits: Tensor | None = None

    def steps(self) -> Iterator[list[Row]]:
        """Decodes to the end. After every step: the rows that it finished, in the order of the batch."""
        while self.waiting or self._started or self.rows:
            room = self.capacity - len(self.rows)
            self._prefill(room)
            self._attach(room)
            picked, finished, alive = self._choose()
            # Finished rows are handed on before the others decode: nobody waits a step longer than needed.
            yield finished
            self._advance(picked, alive)

    def _prefill(self, room: int) -> None:
        """Takes waiting prompts in while there is a slot for them and, counting all their samples, room."""
        started = len({id(r.item) for r in self.rows} | {id(s.item) for s in self._started})
        claimed = sum(len(s.item.numbers) - s.begun for s in self._started)
        # A prompt comes in with room for its first sample, even if its last ones must wait.
        fresh: list[Item] = []
        while self.waiting and started + len(fresh) < self.slots and claimed < room:
            claimed += len(self.waiting[0].numbers)
            fresh.append(self.waiting.popleft())
        if fresh:
            handles, logits = self.engine.prefill([i.ids for i in fresh])
            self._started += [
                _Started(h, i, 0, row) for h, i, row in zip(handles, fresh, logits, strict=True)
            ]

    def _attach(self, room: int) -> None:
        """Starts samples of prefilled prompts, all of one prompt before those of the next."""
        joined: list[int] = []
        logits: list[Tensor] = []
        while self._started and len(joined) < room:
            start = self._started.popleft()
            number = start.item.numbers[start.begun]
            self.rows.append(Row(start.item, number, draws(start.item, number)))
            joined.append(start.handle)
            logits.append(start.logits)
            if start.begun + 1 < len(start.item.numbers):
                start.begun += 1
                self._started.appendleft(start)
        if not joined:
            return
        self.engine.attach(joined)
        # A prompt whose samples have all begun gives its slot up when the last of them ends.
        for handle in {h for h in joined if h not in {s.handle for s in self._started}}:
            self.engine.release(handle)
        self._logits = torch.cat([*([] if self._logits is None else [self._logits]), torch.stack(logits)])

    def _choose(self) -> tuple[Tensor, list[Row], list[int]]:
        """A token for every row: (the tokens, the rows that this finished, the places of the others)."""
        assert self._logits is not None
        draws_R = torch.stack([r.draws[len(r.tokens)] for r in self.rows]).to(self.device)
        picked_R, logps_R, entropy_R = choose(self._logits, draws_R, [r.params for r in self.rows])
        # One transfer for all rows: to ask the device row by row would be to wait for it each time.
        chosen = zip(self.rows, picked_R.tolist(), logps_R.tolist(), entropy_R.tolist(), strict=True)
        finished, alive = [], []
        for place, (row, token, logp, entropy) in enumerate(chosen):
            row.tokens.append(token)
            row.logps.append(logp)
            row.entropy += entropy
            self.settle(row)
            if row.finish is None:
                alive.append(place)
            else:
                finished.append(row)
        self.told.tokens += len(self.rows)
        self.told.seconds = time.perf_counter() - self.told.began
        return picked_R, finished, alive

    def _advance(self, picked_R: Tensor, alive: list[int]) -> None:
        """Finished rows leave the engine, the others decode their new token."""
        if len(alive) < len(self.rows):
            alive = fill_holes(alive)
            self.engine.keep(alive)
            self.rows = [self.rows[i] for i in alive]
        # Without rows there is nothing to decode; the next prompts bring logits of their own.
        self._logits = None
        if self.rows:
            self._logits = self.engine.decode(picked_R[torch.tensor(alive, device=self.device)])
        self.told.steps += 1


def fill_holes(alive: list[int]) -> list[int]:
    """The order in which the fewest rows move: survivors stay, the last ones fill the holes."""
    # Each move copies a row of the cache, so that a plain shift to the left would copy nearly all of them.
    order: list[Any] = [None] * len(alive)
    movers = [i for i in alive if i >= len(alive)]
    for i in alive:
        if i < len(alive):
            order[i] = i
    return [movers.pop() if i is None else i for i in order]


def draws(item: Item, sample: int) -> Tensor:
    """The uniform numbers of one sample: a function of (seed, ids, sample index) alone.

    The rest of the batch does not matter.
    """
    # A function of (seed, ids, sample index) alone, so that the rest of the batch does not matter.
    params = item.request.params
    generator = torch.Generator().manual_seed(request_seed(params, item.ids, item.first + sample))
    return torch.rand(params.max_new_tokens, generator=generator)
