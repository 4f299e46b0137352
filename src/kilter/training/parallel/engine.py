"""One process or many: the few collective operations that the learner needs, and how the model is wrapped.

`processes: N` (launch.py), accelerate launch or torchrun start the processes; device, process group,
DDP and FSDP2 come from accelerate and torch. Losses are sums whose denominators already span all ranks,
so gradients must be SUMMED over ranks. DDP and FSDP average them; `loss_scale` undoes that.
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from kilter.errors import UserError
from kilter.roles.open import choose_device
from kilter.training.parallel.fsdp import Sharding, divide, fill
from kilter.training.parallel.shards import read_shards, write_shards
from kilter.training.parallel.teams import Team, runs, team_of

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long a team waits for its first rank. Long answers take their time, and others watch for stalls."""


class Engine:
    """A single process on one device."""

    rank: int = 0
    world: int = 1
    loss_scale: float = 1.0
    sharded: bool = False
    divides: bool = False
    """Whether `divide` shards weights, so that no rank need have all of them."""

    def __init__(self) -> None:
        self.device = choose_device()

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module on its device, wrapped as this engine shards it."""
        return module.to(self.device)

    def divide(self, module: nn.Module) -> None:
        """Shards a module of which the first rank has the numbers, in place; where `divides` says so."""

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks."""
        return value

    def max(self, value: int) -> int:
        """The maximum over all ranks."""
        return value

    def gather(self, value: T) -> list[T]:
        """One value of each rank, in order of rank."""
        return [value]

    def team(self, count: int) -> Team:
        """The ranks that share one of `count` workers with this one. Every rank must call it."""
        return team_of(
            self.rank, self.world, count, lambda own, value: self.gather(value)[own.start : own.stop]
        )

    def prepare(self, module: nn.Module, optimizer: Any) -> tuple[Any, Any]:
        """Module and optimizer as the engine steps them."""
        return module, optimizer

    def backward(self, module: nn.Module, value: Tensor) -> None:
        """Back-propagates a micro-batch."""
        value.backward()  # type: ignore[no-untyped-call]

    def update(
        self, modules: list[Any], optimizer: Any, limit: float, set_rates: Callable[[], None], finite: bool
    ) -> Tensor:
        """Clips each module by itself, sets the rates and steps, unless loss or gradient are not finite.

        Returns:
            The norm of the gradient before clipping.
        """
        # Clipped apart, reported together.
        norms = [self.grad_norm(m, limit) for m in modules]
        norm = norms[0] if len(norms) == 1 else torch.stack([n.float() for n in norms]).norm()
        # A step on NaN cannot be taken back.
        if finite and torch.isfinite(norm):
            set_rates()
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def checkpoint(self, module: nn.Module, optimizer: Any, folder: Path) -> dict[str, Any]:
        """Trained weights and optimizer as a state; every rank must call it.

        Divided ones are written to `folder` instead, each rank its own part.
        """
        return {"model": self.state(module), "optimizer": optimizer.state_dict()}

    def restore(self, module: nn.Module, optimizer: Any, state: dict[str, Any], folder: Path) -> None:
        """The inverse of `checkpoint`; shards that several processes wrote are put together."""
        if "model" not in state:
            read_shards(module, optimizer, folder)
            return
        target = {k.removeprefix("module."): v for k, v in module.named_parameters()}
        with torch.no_grad():
            for name, value in state["model"].items():
                target[name].copy_(value)
        optimizer.load_state_dict(state["optimizer"])

    def accumulate(self, module: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch: gradients are exchanged only in the last one."""
        return contextlib.nullcontext()

    def grad_norm(self, module: nn.Module, limit: float) -> Tensor:
        """Clips to `limit` (0: no clipping) and returns the norm before."""
        # A parameter that took no part has no norm.
        parameters = [p for p in module.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else float("inf"), foreach=True)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def state(self, module: nn.Module, wanted: bool = False) -> dict[str, Tensor]:
        """Trained parameters by name, whole, on the CPU (on rank 0, and on those that want them)."""
        return {k: v.detach().cpu() for k, v in module.named_parameters() if v.requires_grad}

    def barrier(self) -> None:
        """Waits for all ranks."""


def _leave_group() -> None:
    """Leaves the process group at exit. Its threads may abort the process after all the work is done."""
    if dist.is_initialized():
        dist.destroy_process_group()


class AccelerateEngine(Engine):
    """Several processes under `accelerate launch`: DDP, or FSDP2 when `fsdp` is set."""

    def __init__(self, fsdp: Sharding | None) -> None:
        from accelerate import PartialState

        self._state = PartialState(cpu=not torch.cuda.is_available())
        self.device = self._state.device
        self.rank, self.world = self._state.process_index, self._state.num_processes
        self.loss_scale = float(self.world)
        self.fsdp = fsdp
        self.sharded = self.divides = fsdp is not None and self.world > 1
        atexit.register(_leave_group)

    def wrap(self, module: nn.Module) -> nn.Module:
        """DDP wraps; FSDP2 shards each decoder layer and the rest in place."""
        # What is divided is where it belongs.
        if isinstance(module, FSDPModule):
            return module
        module.to(self.device)
        if self.world == 1:
            return module
        # Every process holds all weights; gradients are averaged by DDP, which `loss_scale` undoes.
        if self.fsdp is None:
            devices = [self.device.index] if self.device.type == "cuda" else None
            return nn.parallel.DistributedDataParallel(
                module, device_ids=devices, find_unused_parameters=False
            )
        divide(module, self.fsdp, self.device.type, self.world)
        return module

    def divide(self, module: nn.Module) -> None:
        """By FSDP2, layer by layer."""
        assert self.fsdp is not None, "nothing is divided without fsdp"
        # Names of what was there before: FSDP2 puts shards in its place.
        whole = module.state_dict() if self.is_main else {}
        buffers = self.gather({n: b.cpu() for n, b in module.named_buffers()} if self.is_main else {})[0]
        divide(module, self.fsdp, self.device.type, self.world)
        fill(module, whole, buffers)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks, by one all-reduce."""
        if self.world > 1:
            value = value.clone().to(self.device)
            dist.all_reduce(value)
        return value

    def max(self, value: int) -> int:
        """The maximum over all ranks, by one all-reduce."""
        if self.world == 1:
            return value
        t = torch.tensor(value, device=self.device)
        dist.all_reduce(t, op=dist.ReduceOp.MAX)
        return int(t)

    def gather(self, value: T) -> list[T]:
        """All-gather of small objects on the CPU.

        torch pickles them on their way from one process of this run to another; nothing of it reaches a file.
        """
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def team(self, count: int) -> Team:
        """Teams whose members meet on the CPU, without the other teams."""
        # One group after the other, and every rank takes part in the making of each.
        groups = {
            own: dist.new_group(list(own), timeout=PATIENCE, backend="gloo") if len(own) > 1 else None
            for own in runs(self.world, count)
        }

        def gather(own: range, value: Any) -> list[Any]:
            found = [value] * len(own)
            if len(own) > 1:
                dist.all_gather_object(found, value, group=groups[own])
            return found

        return team_of(self.rank, self.world, count, gather)

    def accumulate(self, module: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
        """no_sync for DDP, deferred reduce-scatter for FSDP2."""
        if self.world == 1:
            return contextlib.nullcontext()
        if self.fsdp is not None:
            module.set_requires_gradient_sync(last)  # type: ignore[operator]
            return contextlib.nullcontext()
        return contextlib.nullcontext() if last else module.no_sync()  # type: ignore[operator]

    def state(self, module: nn.Module, wanted: bool = False) -> dict[str, Tensor]:
        """Gathers shards; every rank must call it."""
        out = {}
        for name, p in module.named_parameters():
            if p.requires_grad:
                whole = p.full_tensor() if hasattr(p, "full_tensor") else p
                if wanted or self.is_main:
                    out[name.removeprefix("module.")] = whole.detach().cpu()
        return out

    def checkpoint(self, module: nn.Module, optimizer: Any, folder: Path) -> dict[str, Any]:
        """Under FSDP2 as shards, each process its own."""
        if not self.sharded:
            return super().checkpoint(module, optimizer, folder)
        self.barrier()  # the folder is there
        write_shards(module, optimizer, folder, self.rank)
        self.barrier()  # the checkpoint is whole when every process has written
        return {}

    def restore(self, module: nn.Module, optimizer: Any, state: dict[str, Any], folder: Path) -> None:
        """Shards are cut anew for this number of processes."""
        if self.sharded and "model" in state:
            raise UserError(
                "fsdp",
                True,
                "cannot take up a checkpoint of whole weights",
                "finish this run without fsdp, or begin a new one",
            )
        super().restore(module, optimizer, state, folder)

    def barrier(self) -> None:
        """Waits for all ranks."""
        self._state.wait_for_everyone()
