"""Weights from a learner to workers on other machines, over TCP by torch's gloo.

A worker asks for a version and meets the learner in a group of two. So a worker that is lost breaks nobody
else's group, and its successor asks as all others do. The learner sends from a copy, in threads, while it
goes on. A wait ends when no bucket has come for too long, however long the whole takes.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]

from kilter.cluster.weights import FETCH, Package, Transport, WeightStream, package_of
from kilter.errors import RunFailed

BUCKET = 25 << 20
"""Bytes of a message. Both sides cut one buffer into them, so that none is copied."""

FOREVER, ASKS, STOP = timedelta(days=1000), "asks", "stop"

Part = tuple[str, torch.dtype, tuple[int, ...], int]
"""Name, dtype, shape and first byte of a tensor."""


@dataclass(frozen=True)
class Meeting:
    """Where a worker finds a version.

    Args:
        host: of the learner, where the worker's machine reaches it.
        port: of the version's store.
        parts: its tensors.
        bytes: of all of them.
        limit: seconds without a bucket after which either side gives up.
        bucket: bytes of a message.
    """

    host: str
    port: int
    parts: tuple[Part, ...]
    bytes: int
    limit: float
    bucket: int


class Offer:
    """A copy of one version's tensors, for whoever asks.

    Args:
        tensors: by name, in the order in which they are sent.
        host: address of this machine that the workers can reach.
        limit: seconds without a bucket after which either side gives up.
    """

    def __init__(self, tensors: Sequence[tuple[str, Tensor]], host: str, limit: float) -> None:
        parts: list[Part] = []
        end = 0
        for name, t in tensors:
            parts.append((name, t.dtype, tuple(t.shape), end))
            # A tensor can be read where it lies if it begins at a multiple of its elements' size.
            end += -(-t.numel() * t.element_size() // 16) * 16
        self.flat = torch.empty(end, dtype=torch.uint8)
        for own, (_, t) in zip(_tensors(parts, self.flat).values(), tensors, strict=True):
            own.copy_(t)

        # One for each version, so that what workers leave in it goes when the version does.
        self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=FOREVER)
        self.meeting = Meeting(host, int(self._store.port), tuple(parts), end, limit, BUCKET)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Takes no more workers. Those that are being served get all of it."""
        self._store.queue_push(ASKS, STOP)

    def _serve(self) -> None:
        asks = TCPStore(self.meeting.host, self.meeting.port, is_master=False, timeout=FOREVER)
        while (name := asks.queue_pop(ASKS).decode()) != STOP:
            threading.Thread(target=self._give, args=(name,), daemon=True).start()

    def _give(self, name: str) -> None:
        # The pool hears by itself of a worker that is lost, and says so.
        with contextlib.suppress(RuntimeError):
            pair = _pair(_store(self.meeting), name, self.meeting, self.meeting.host, 0)
            for bucket in torch.split(self.flat, self.meeting.bucket):
                pair.send([bucket], 1, 0).wait()


class GlooTransport(Transport):
    """Over TCP, to receivers that share nothing with the learner.

    Args:
        host: address of this machine that they can reach.
        limit: seconds without a bucket after which a receiver, or the learner, gives up.
        kept: versions that a receiver may still have to fetch.
    """

    def __init__(self, host: str, limit: float, kept: int = 2) -> None:
        self.host, self.limit, self.kept = host, limit, kept
        self._offers: list[Offer] = []

    def send(self, weights: WeightStream) -> Package:
        """Copies the tensors: the learner goes on while receivers fetch them."""
        self._offers.append(Offer(list(weights), self.host, self.limit))
        for old in self._offers[: -self.kept]:
            old.close()
        del self._offers[: -self.kept]
        return package_of(weights, "gloo", self._offers[-1].meeting)

    def close(self) -> None:
        """Offers nothing any more."""
        for offer in self._offers:
            offer.close()
        self._offers = []


def take(meeting: Meeting, tick: Callable[[], None]) -> dict[str, Tensor]:
    """The tensors of an Offer.

    Args:
        meeting: where they are.
        tick: called with each bucket.

    Raises:
        RunFailed: the learner cannot be reached, or its bytes ceased to come.
    """
    flat, came, name = torch.empty(meeting.bytes, dtype=torch.uint8), 0, uuid.uuid4().hex
    try:
        store, own = _store(meeting), _route(meeting)
        store.queue_push(ASKS, name)
        pair = _pair(store, name, meeting, own, 1)
        for bucket in torch.split(flat, meeting.bucket):
            pair.recv([bucket], 0, 0).wait()
            came += len(bucket)
            tick()
    except (RuntimeError, OSError) as error:
        raise RunFailed(
            f"The weights did not arrive: {came} of {meeting.bytes} bytes came from {meeting.host}, "
            f"and nothing more for {meeting.limit:g} s ({str(error).splitlines()[0]})",
            "look at the network between the two machines, or set cluster.weights: object",
        ) from error
    return _tensors(meeting.parts, flat)


FETCH["gloo"] = take


def _tensors(parts: Sequence[Part], flat: Tensor) -> dict[str, Tensor]:
    """Views of a flat buffer of bytes."""
    found = {}
    for name, dtype, shape, start in parts:
        size = torch.Size(shape).numel() * dtype.itemsize
        found[name] = flat[start : start + size].view(dtype).view(shape)
    return found


def _store(meeting: Meeting) -> TCPStore:
    return TCPStore(meeting.host, meeting.port, is_master=False, timeout=timedelta(seconds=meeting.limit))


def _pair(store: TCPStore, name: str, meeting: Meeting, host: str, rank: int) -> Any:
    """A group of the learner and one worker, beside whatever groups either of them has."""
    # The types of torch know less of this class than there is.
    kind: Any = ProcessGroupGloo
    options = kind._Options()
    options._timeout, options._threads = timedelta(seconds=meeting.limit), 1
    options._devices = [kind.create_device(hostname=host)]
    return kind(PrefixStore(name, store), rank, 2, options)


def _route(meeting: Meeting) -> str:
    """The address of this machine from which the learner is reached. Nothing is sent to find it."""
    family, kind, protocol, _, to = socket.getaddrinfo(meeting.host, meeting.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(to)
        return str(probe.getsockname()[0])
