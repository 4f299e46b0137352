"""Which engine a run gets: one process, accelerate's, or DeepSpeed's."""

from __future__ import annotations

import os

from kilter.errors import UserError
from kilter.training.parallel.engine import AccelerateEngine, Engine


def make_engine(name: str, fsdp: bool, zero: int | None = None, max_grad_norm: float = 1.0) -> Engine:
    """ "auto" is accelerate when WORLD_SIZE says that there are several processes."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if zero is not None and several:
        from kilter.training.parallel.zero import ZeroEngine

        return ZeroEngine(zero, max_grad_norm)
    if name == "accelerate" or (name == "auto" and several):
        return AccelerateEngine(fsdp)
    if zero is not None:
        raise UserError(
            "zero",
            zero,
            "divides the optimizer over several processes, and there is one",
            "give --processes N",
        )
    if fsdp:
        raise UserError(
            "fsdp",
            True,
            "shards over several processes, and there is one",
            "give --processes N, or start with accelerate launch or torchrun",
        )
    return Engine()
