"""The learner's ranks as processes that workers of the cluster hold: started, watched, ended together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil

from kilter.cluster.backend import HOST, LOST, Backend, Call, Handle, Report, raised

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL of ranks whose group has lost one."""

ASKED = 60.0
"""Seconds in which a host answers; it does nothing but look."""


Place = tuple[str, str, str]
"""(node, its interface, the GPUs that are a rank's)."""


def place_of(address: str) -> Place:
    """Where this process is, on a node that others reach at an address."""
    own = {a.address: name for name, found in psutil.net_if_addrs().items() for a in found}
    return address, own.get(address, ""), os.environ.get("CUDA_VISIBLE_DEVICES", "")


def store_at(address: str) -> Any:
    """A store of this process by which the ranks of a group find each other."""
    # Here, because a host that does not listen needs no torch.
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    limit = timedelta(seconds=ASKED)
    return TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=limit)


class Host:
    """Holds one rank: a process of its own, so that signals reach it and its end is seen."""

    def __init__(self) -> None:
        self.address = ""
        self.child: subprocess.Popen[bytes] | None = None
        self._said: list[bytes] = []

    def place(self, address: str) -> Place:
        """Where this rank is, by which ranks are sorted.

        Args:
            address: of the node, at which others reach it.
        """
        self.address = address
        return place_of(address)

    def listen(self) -> int:
        """Opens the store by which the ranks find each other; whoever listens says at which port."""
        self.store = store_at(self.address)
        return int(self.store.port)

    def begin(self, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
        """Starts the rank; its process id."""
        # The last argument is the process with which it dies.
        command = [sys.executable, *arguments, str(os.getpid())]
        self.child = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(self.child,), daemon=True).start()
        return self.child.pid

    def _read(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        with child.stdout:
            while part := os.read(child.stdout.fileno(), 65536):
                self._said.append(part)

    def look(self) -> tuple[int | None, bytes, int]:
        """(exit code, None while it runs; what it has printed since the last look; turns of its main thread).

        A thread that waits for the other ranks takes no turn, nor does a stopped process. One that asks its
        workers for answers does, and one that computes.
        """
        assert self.child is not None
        code, said, self._said = self.child.poll(), self._said, []
        turns = 0
        with contextlib.suppress(psutil.Error):
            turns = sum(psutil.Process(self.child.pid).num_ctx_switches())
        return code, b"".join(said), turns

    def stop(self, number: int) -> None:
        """Sends the rank a signal."""
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)


@dataclass(frozen=True)
class Ended:
    """How the ranks of a group ended.

    Args:
        codes: exit codes, by rank.
        lost: "" or which rank was killed or lost its machine, and how.
        whole: whether all hosts are there, so that the ranks can begin anew in them.
    """

    codes: tuple[int | None, ...]
    lost: str = ""
    whole: bool = True


class Group:
    """The ranks of a learner.

    Args:
        backend: places their hosts.
        size: ranks.
        stall: seconds without an answer after which a host is lost; without a turn of any rank, all are.
        stopped: whether somebody asked the run to stop.
    """

    def __init__(self, backend: Backend, size: int, stall: float, stopped: Callable[[], bool]) -> None:
        self.backend, self.stall, self.stopped = backend, stall, stopped
        self.hosts = list(backend.start("learner", range(size), Host, {}))

    def run(self, arguments: Sequence[str], given: Mapping[str, str], attempt: int) -> Ended:
        """Starts all ranks and waits for their end; one that fails ends all. May be called again."""
        try:
            places = [self._asked(host, "place", host.address) for host in self.hosts]
            # Neighbours in rank are neighbours in place, whatever order the places came in.
            order = sorted(range(len(self.hosts)), key=lambda n: places[n])
            self.hosts, places = [self.hosts[n] for n in order], [places[n] for n in order]
            port = self._asked(self.hosts[0], "listen")
            for rank, host in enumerate(self.hosts):
                names = environment(rank, places, port, attempt)
                self._asked(host, "begin", arguments, {**given, **names, HOST: host.name})
            return self._watched()
        except _HostLost as error:
            self._signal(signal.SIGKILL)
            return Ended((), str(error), whole=False)

    def close(self) -> None:
        """Ends the hosts, and with them what they hold."""
        for host in self.hosts:
            host.kill()

    def _watched(self) -> Ended:
        told, ended_at, stuck = False, None, ""
        codes, turns = self._look()
        seen_turns, since = turns, self.backend.now()
        while None in codes:
            now = self.backend.now()
            # When one hangs the others wait for it, and none can know which one it is.
            if turns != seen_turns:
                seen_turns, since = turns, now
            elif now - since > self.stall and not stuck:
                stuck = (
                    f"no rank made progress for {self.stall:g} s: {', '.join(h.where for h in self.hosts)}"
                )
                told = self._signal(signal.SIGKILL)
            # A process that waits for a dead disk does not even hear that.
            if stuck and now - since > self.stall + GRACE:
                break
            # Each rank saves at the end of its step, then all end.
            if self.stopped() and not told:
                told = self._signal(signal.SIGTERM)
            if ended_at is None and any(code not in (None, 0) for code in codes):
                # Those who only heard of it end by themselves within a moment.
                ended_at, first = now, codes
            if ended_at is not None and now - ended_at > 1.0 and not told:
                first, told = codes, self._signal(signal.SIGTERM)
            # Who was asked to stop may take its time to save.
            if ended_at is not None and now - ended_at > GRACE and not self.stopped():
                self._signal(signal.SIGKILL)
            time.sleep(0.2)
            codes, turns = self._look()
        if stuck:
            return Ended(codes, stuck, whole=None not in codes)
        seen = first if ended_at is not None else codes
        # Who has not begun its steps when it is asked to stop has nothing to save, and ends of it.
        asked = -signal.SIGTERM if self.stopped() else None
        killed = [(r, code) for r, code in enumerate(seen) if code is not None and code < 0 and code != asked]
        how = "".join(f"rank {r} on {self.hosts[r].where} got {_name(-c)}" for r, c in killed[:1])
        return Ended(codes, how)

    def _look(self) -> tuple[tuple[int | None, ...], list[int]]:
        """(exit codes so far, turns of each rank); what ranks print is printed here."""
        looks = [self._asked(host, "look") for host in self.hosts]
        for _, said, _ in looks:
            sys.stderr.write(said.decode(errors="replace"))
        sys.stderr.flush()
        return tuple(code for code, _, _ in looks), [turns for _, _, turns in looks]

    def _signal(self, number: int) -> bool:
        for host in self.hosts:
            host.control("stop", number)
        return True

    def _asked(self, host: Handle, method: str, *arguments: Any) -> Any:
        """A host's answer. It has a lane of its own, so that it always has one."""
        call: Call = host.call(method, *arguments)
        end = self.backend.now() + max(self.stall, ASKED)
        while not call.done():
            self.backend.wait([call], 1.0)
            if self.backend.now() > end:
                raise _HostLost(f"{host.where} did not answer")
        report: Report = call.report()
        if report.kind == LOST:
            raise _HostLost(f"{host.where} is lost: {' '.join(map(str, report.arguments))}")
        if report.kind:
            raise raised(report)
        return report.value


class _HostLost(Exception):  # noqa: N818
    """A host is gone, and its rank with it."""


def _name(number: int) -> str:
    return signal.Signals(number).name + (" (often: out of memory)" if number == signal.SIGKILL else "")


def environment(rank: int, places: Sequence[Place], port: int, attempt: int = 0) -> dict[str, str]:
    """What torch reads to join a group, whose first rank holds the store."""
    node, interface, gpus = places[rank]
    mates = [n for n, place in enumerate(places) if place[0] == node]
    # Who sees one GPU alone counts it as the first.
    local = 0 if gpus else mates.index(rank)
    several = {p[0] for p in places} != {node}
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(places)),
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(len(mates)),
        "MASTER_ADDR": places[0][0],
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
        "PYTHONUNBUFFERED": "1",
    } | ({"GLOO_SOCKET_IFNAME": interface} if several and interface else {})
