"""What the process of a worker holds: its object, made where it lives, and what it says before that."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kilter.cluster.backend import Report, run
from kilter.launch.versions import versions
from kilter.progress import doing, under_way
from kilter.runtime import cpu_seconds


@dataclass(frozen=True)
class Hello:
    """What a fresh worker says of itself, before it loads anything."""

    where: str
    node: str
    address: str
    process: int
    log: str
    versions: Mapping[str, str]


class Held:
    """Holds a worker's object, which its first call makes, after its versions were compared.

    Args:
        role: of the worker.
        number: of the worker.
        node: that it runs on.
        address: of the node, where others reach it.
    """

    def __init__(self, role: str, number: int, node: str, address: str) -> None:
        self.node, self.address = node, address
        self.where = f"{role} {number} (node {self.address}, process {os.getpid()})"
        self.object: Any = None
        self._made: Report | None = None
        self.read, self._first, self._packed = threading.Event(), threading.Lock(), b""

    def hello(self) -> Hello:
        """Who and where this is. A worker's standard error goes to a file of its node."""
        log = os.path.realpath("/proc/self/fd/2")
        return Hello(self.where, self.node, self.address, os.getpid(), log, versions())

    def build(self, packed: bytes) -> None:
        """Reads the object's code, which workers do together. The first call makes the object.

        A learner that takes the worker over builds again, after what loads has loaded. Then the object stays,
        if it is to be the same and says that it can serve `again`; otherwise another one takes its place.

        Args:
            packed: what makes it and the arguments, still pickled. To read them imports much, and while the
                backend itself reads them no other lane can.
        """
        # Calls that come from here on wait, also while the old object loads.
        self.read.clear()
        try:
            with self._first:
                again = getattr(self.object, "again", None)
                if packed == self._packed and again is not None and again():
                    return
                old, self.object, self._packed, self._made = self.object, None, packed, None
                # What fails here either is missing, or fails again when the object is made.
                run(old, "close", (), self.where)
                with doing("the code that it needs"):
                    run(pickle, "loads", (packed,), self.where)
        finally:
            self.read.set()

    def _make(self) -> None:
        make, arguments = pickle.loads(self._packed)
        self.object = make(**arguments)

    def call(self, method: str, arguments: Sequence[Any]) -> Report:
        """One call, its errors as data. What goes wrong in making the object is the answer to every call."""
        self.read.wait()
        with self._first:
            made = self._made = self._made or run(self, "_make", (), self.where)
        return made if made.kind else run(self.object, method, arguments, self.where)

    def control(self, method: str, arguments: Sequence[Any]) -> Report:
        """The same beside the calls under way. Who still loads makes progress as long as it computes."""
        if self._made:
            return run(self.object, method, arguments, self.where)
        return Report((under_way(), cpu_seconds()))
