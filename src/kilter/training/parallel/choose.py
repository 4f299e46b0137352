"""Which engine a run gets: one process, accelerate's, or DeepSpeed's."""

from __future__ import annotations

import os

from kilter.errors import UserError
from kilter.training.config import FsdpSpec
from kilter.training.parallel.engine import AccelerateEngine, Engine
from kilter.training.parallel.fsdp import Sharding


def make_engine(
    name: str,
    fsdp: FsdpSpec | None,
    zero: int | None = None,
    max_grad_norm: float = 1.0,
    dtype: str = "float32",
) -> Engine:
    """ "auto" is accelerate when WORLD_SIZE says that there are several processes."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if zero is not None and world > 1:
        from kilter.training.parallel.zero import ZeroEngine

        return ZeroEngine(zero, max_grad_norm)
    if name == "accelerate" or (name == "auto" and world > 1):
        return AccelerateEngine(None if fsdp is None else _sharding(fsdp, dtype, world))
    if zero is not None:
        raise UserError(
            "zero",
            zero,
            "divides the optimizer over several processes, and there is one",
            "give --processes N",
        )
    if fsdp is not None:
        raise UserError(
            "fsdp",
            True,
            "shards over several processes, and there is one",
            "give --processes N, or start with accelerate launch or torchrun",
        )
    return Engine()


def make_group(fsdp: FsdpSpec | None, dtype: str, world: int) -> Engine:
    """The engine of a group that this process has been told of, and that is not the learner's.

    With `fsdp` all of its processes share one copy; else each has its own.
    """
    if fsdp is None:
        return AccelerateEngine(None)
    return AccelerateEngine(Sharding(world, dtype == "bfloat16" and fsdp.gathers != "float32"))


def _sharding(fsdp: FsdpSpec, dtype: str, world: int) -> Sharding:
    """Raises UserError where the processes do not divide into groups that share a copy."""
    if (found := fsdp.uneven(world)) is not None:
        raise UserError("fsdp.shard", fsdp.shard, *found)
    return Sharding(fsdp.shard or world, dtype == "bfloat16" and fsdp.gathers != "float32")
