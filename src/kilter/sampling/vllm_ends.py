"""The end of an engine: its processes, the memory that they share, and its weights.

A guard runs this file by itself when the engine's owner is gone. So it needs nothing but Python.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

MARK = "KILTER_ENGINE"
"""Variable of an engine's processes: the folder that it reads."""

SHARES = "shared-memory.txt"
"""File of the folder that names the memory which the engine's processes share."""

OWN = re.compile(r"/dev/shm/(?:psm_\w+|vllm_dist_\S+|sem\.loky-\d+-\w+)")
"""Files that vLLM's processes make for each other. They outlive one that is killed."""

MET = re.compile(r"vllm_dist_[0-9a-f]+")

LONGEST = 60
"""Characters of a folder in which the system still takes the name of a socket."""

PATIENCE = 10.0
"""Seconds in which killed processes end: a busy GPU holds them for a while."""


@contextlib.contextmanager
def started_for(folder: Path) -> Iterator[None]:
    """Processes that start meanwhile carry the folder's name: by it `end` finds them and theirs."""
    # A fork would have this process's environment, and a title writes over it if nobody forbids that.
    given = {MARK: str(folder), "VLLM_WORKER_MULTIPROC_METHOD": "spawn", "SPT_NOENV": "1"}
    # Sockets by which they talk would stay in the common folder of temporary files.
    given |= {"VLLM_RPC_BASE_PATH": str(folder)} if len(str(folder)) <= LONGEST else {}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    # Of one that dies nobody can ask it any more.
    (folder / SHARES).write_text("\n".join(sorted(_shared(_started_for(folder)))))


def _started_for(folder: Path, owner: int | None = None) -> list[Path]:
    """The places in /proc of an engine's processes, without a process that only owns them."""
    wanted, found = f"{MARK}={folder}".encode(), list[Path]()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # Python's tracker of shared memory serves the owner too, and ends by itself.
            marked = wanted in (place / "environ").read_bytes().split(b"\0")
            if (
                marked
                and int(place.name) != owner
                and b"multiprocessing.resource_tracker" not in _command(place)
            ):
                found.append(place)
    return found


def _command(place: Path) -> bytes:
    return (place / "cmdline").read_bytes()


def _shared(places: Iterable[Path]) -> set[str]:
    found = set[str]()
    for place in places:
        with contextlib.suppress(OSError):
            found.update(OWN.findall((place / "maps").read_text()))
        # joblib's semaphores, which vLLM's libraries make, name their maker; the map of one names nobody.
        found.update(map(str, Path("/dev/shm").glob(f"sem.loky-{place.name}-*")))
    return found


def end(folder: Path, owner: int) -> None:
    """Kills an engine's processes, and removes the memory that they shared and its folder.

    Args:
        folder: of the engine.
        owner: the process that started it, which may live on.
    """
    shared, limit = set[str](), time.monotonic() + PATIENCE
    with contextlib.suppress(OSError):
        shared.update(OWN.findall((folder / SHARES).read_text()))
    # Again until none is left: one may have started another meanwhile.
    while (places := _started_for(folder, owner)) and time.monotonic() < limit:
        shared |= _shared(places)
        for place in places:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(place.name), signal.SIGKILL)
        time.sleep(0.05)
    # By a file of this name the processes of a divided engine found each other.
    met = {f"{tempfile.gettempdir()}/{found[0]}" for name in shared if (found := MET.search(name))}
    for name in shared | met:
        with contextlib.suppress(OSError):
            os.unlink(name)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    end(Path(sys.argv[1]), int(sys.argv[2]))
