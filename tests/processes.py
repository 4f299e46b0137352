"""Real processes for tests: forks of one server that has imported torch and Kilter, which takes 0.1 s each."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch", "transformers", "accelerate", "kilter.training.trainer"])


def ranks(world: int, work: Callable[..., Any], *arguments: Any, limit: float = 150) -> None:
    """Runs `work(*arguments)` in as many processes of one group, as torchrun would start them.

    Raises what the first rank to fail said.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = SERVER.SimpleQueue()
    started = [
        SERVER.Process(target=_rank, args=(rank, world, port, said, work, arguments), daemon=True)
        for rank in range(world)
    ]
    for process in started:
        process.start()
    try:
        for process in started:
            process.join(limit)
        failures = [] if said.empty() else [said.get()]
        assert not failures, failures[0]
        assert [p.exitcode for p in started] == [0] * world
    finally:
        for process in started:
            process.kill()


def _rank(rank: int, world: int, port: int, said: Any, work: Callable[..., Any], arguments: Any) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    os.environ.update({name: str(value) for name, value in (names | where).items()})
    import torch

    torch.set_num_threads(1)
    try:
        work(*arguments)
    except BaseException:
        said.put(f"rank {rank}: {traceback.format_exc()}")
        raise
