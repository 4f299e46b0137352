"""The process: settings that help every run on a CPU, cores, peak memory, and what is to end with it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed blocks for reuse instead of returning them to the system.

    A training step allocates and frees the same large tensors again and again; by default glibc maps each
    anew and the kernel zeroes every page. Keeping them made a bfloat16 step 1.3x as fast on 2 cores at about
    the same peak memory (docs/LOG.md). A threshold of -1 never trims: the largest that can be named, 2 GiB,
    is below what one step frees. False where the C library is another one; nothing changes then.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)) and bool(libc.mallopt(M_TRIM_THRESHOLD, -1))
    except (OSError, AttributeError):
        return False


def return_freed_memory() -> None:
    """Gives the system what `keep_freed_memory` has kept, such as a model's that was needed once."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def core_count() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(call: Callable[[T], R], items: Iterable[T], most: int = 8) -> list[R]:
    """What a call that leaves Python alone, such as a hash, gives for each item: several at a time."""
    with ThreadPoolExecutor(min(most, core_count())) as pool:
        return list(pool.map(call, items))


def cpu_seconds() -> int:
    """Seconds of computing by this process and those that it started, such as an engine's."""
    import psutil

    total = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:2])
    return int(total)


@contextlib.contextmanager
def all_cores(most: int = 8) -> Iterator[None]:
    """torch computes on more cores than its process was given: for work that is done once, and waited for."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(before, min(most, core_count())))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory_gb() -> float:
    """Peak memory of this process: on the GPU where there is one, else resident."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


@contextlib.contextmanager
def keeping(number: signal.Signals) -> Iterator[None]:
    """A signal does afterwards what it did before, whatever a library says to it, also below Python."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        # Only the main thread may; elsewhere a run ends as its host wants.
        with contextlib.suppress(ValueError):
            signal.signal(number, before)


@contextlib.contextmanager
def in_groups_of_their_own(module: Any, name: str) -> Iterator[None]:
    """What a library starts meanwhile is out of reach of a signal to this process's group, as of `timeout`.

    Args:
        module: of the library.
        name: in the module, of the Popen that starts its processes.
    """
    popen = getattr(module, name)
    setattr(module, name, partial(popen, process_group=0))
    try:
        yield
    finally:
        setattr(module, name, popen)


class Guard:
    """Has a shell command run when this process ends, however it ends: also by a kill.

    It is not this process's child: Ray kills an actor's children with it.

    Args:
        command: for sh.
    """

    def __init__(self, command: str) -> None:
        # Its input ends when this process does. A session of its own: Ctrl-C is not for it.
        waits = f"exec 3<&0; {{ read line <&3 || {{ {command}; }} >/dev/null; }} &"
        self._shell = subprocess.Popen(
            ["sh", "-c", waits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._shell.wait()

    def fire(self) -> None:
        """Runs the command now, and waits for it."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.close()
        self._shell.stdout.read()
        self._shell.stdout.close()

    def dismiss(self) -> None:
        """The command is not run: nothing is left to do."""
        assert self._shell.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # somebody has killed it
            self._shell.stdin.write(b"\n")
            self._shell.stdin.flush()
        self.fire()


def kill_users_of(folder: str) -> str:
    """Shell command for a Guard: kills all other processes that have a file of the folder open."""
    holds = f"ls -l /proc/$p/fd | grep -qF {shlex.quote(folder)}/"
    # This one, if it has not quite ended, does so by itself.
    others = f"ls /proc | grep '^[0-9]' | grep -vx {os.getpid()}"
    return f"sleep 1; for p in $({others}); do {holds} && kill -9 $p; done"
