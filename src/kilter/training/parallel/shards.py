"""Sharded weights and optimizer on disk: each process writes its rows, any number of processes reads them.

A file per process, in safetensors' format, with the first row of each piece in its header. torch's own
distributed checkpoints would do the same, but describe themselves in a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kilter.artifacts import write_by
from kilter.errors import UserError

SHARDS = "shards"
"""Folder of a divided checkpoint."""


def write_shards(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, rank: int) -> None:
    """Writes this process's rows of trained weights and moments to folder/shards; every rank must call it."""
    pieces: dict[str, Tensor] = {}
    first_rows: dict[str, int] = {}
    for name, value in _tensors(module, optimizer):
        rows, first = rows_of(value)
        # What is not divided is the same everywhere, and so is each copy of what is. A process may hold no
        # row of a small tensor.
        if rows.numel() and (_first_copy(value) if isinstance(value, DTensor) else rank == 0):
            pieces[name], first_rows[name] = rows.detach().cpu().contiguous(), first
    write_by(
        folder / SHARDS / f"rank-{rank}.safetensors",
        lambda partial: save_file(pieces, partial, metadata={"first_rows": json.dumps(first_rows)}),
    )


def read_shards(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Reads what any number of processes wrote: each takes the rows that are its own now.

    Raises:
        UserError: a row is missing, or the checkpoint is of another model.
    """
    shards = _Shards(folder / SHARDS)
    # An optimizer knows its parameters by number, a checkpoint by name.
    number = {p: i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    moments: dict[int, dict[str, Tensor]] = {}
    with torch.no_grad():
        for name, parameter in _trained(module):
            shards.fill(f"model.{name}", parameter)

            # Moments are divided as their weights are; the count of steps is one number.
            for key in shards.keys(f"optimizer.{name}."):
                like = shards.shape(f"optimizer.{name}.{key}") == parameter.shape
                value = torch.zeros_like(parameter) if like else torch.zeros(())
                shards.fill(f"optimizer.{name}.{key}", value)
                moments.setdefault(number[parameter], {})[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            yield name.removeprefix("module."), parameter


def _tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in _trained(module):
        yield f"model.{name}", parameter
        for key, value in optimizer.state[parameter].items():
            yield f"optimizer.{name}.{key}", value


def rows_of(value: Tensor) -> tuple[Tensor, int]:
    """The rows that this process holds, and the number of the first one.

    FSDP2 divides as torch.chunk does.
    """
    if not isinstance(value, DTensor):
        return value, 0
    # The last dimension of the mesh divides; one before it counts the copies.
    assert value.placements[-1].is_shard(0), "divided by rows"
    assert all(p.is_replicate() for p in value.placements[:-1]), "divided once"
    dim = value.device_mesh.ndim - 1
    each = -(-value.shape[0] // value.device_mesh.size(dim))
    return value.to_local(), each * value.device_mesh.get_local_rank(dim)


def put(target: Tensor, whole: Tensor) -> None:
    """Copies a whole tensor into one that may be divided: each process takes the rows that are its own."""
    rows, first = rows_of(target)
    rows.copy_(whole[first : first + rows.shape[0]] if rows.ndim else whole)


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state with whole moments, whoever holds their rows; every rank must call it."""
    found = optimizer.state_dict()
    moments = {
        n: {k: (v.full_tensor() if isinstance(v, DTensor) else v).cpu() for k, v in of_one.items()}
        for n, of_one in found["state"].items()
    }
    return {**found, "state": moments}


def take_whole(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The inverse of `whole_state`: moments are divided as their weights are."""
    moments: dict[int, dict[str, Tensor]] = {}
    with torch.no_grad():
        for n, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            for key, value in state["state"].get(n, {}).items():
                like = value.shape == parameter.shape
                own = torch.zeros_like(parameter) if like else torch.zeros_like(value)
                put(own, value)
                moments.setdefault(n, {})[key] = own
    optimizer.load_state_dict({**state, "state": moments})


def _first_copy(value: DTensor) -> bool:
    """Whether this process holds rows of the first copy of the model."""
    coordinate = value.device_mesh.get_coordinate()
    return coordinate is not None and not any(coordinate[:-1])


class _Shards:
    """The pieces of all files, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pieces: dict[str, list[tuple[int, Any]]] = {}
        for path in sorted(folder.glob("rank-*.safetensors")):
            file: Any = safe_open(path, "pt")
            for name, first in json.loads(file.metadata()["first_rows"]).items():
                self._pieces.setdefault(name, []).append((first, file))

    def keys(self, prefix: str) -> list[str]:
        """What follows the prefix in the names that have it."""
        return [name.removeprefix(prefix) for name in self._pieces if name.startswith(prefix)]

    def shape(self, name: str) -> torch.Size:
        """Shape of the whole tensor, whose rows are spread over the shards."""
        shapes = [file.get_slice(name).get_shape() for _, file in self._pieces[name]]
        return torch.Size([sum(s[0] for s in shapes), *shapes[0][1:]] if shapes[0] else [])

    def fill(self, name: str, target: Tensor) -> None:
        """Copies the rows that `target` holds here."""
        rows, start = rows_of(target)
        if name not in self._pieces or self.shape(name) != target.shape:
            raise UserError(
                "checkpoint",
                str(self.folder),
                f"does not hold the whole of {name}",
                "remove the checkpoints/ folder, and begin this run anew",
            )
        for first, file in self._pieces[name]:
            piece = file.get_slice(name)
            if target.ndim == 0:
                rows.copy_(file.get_tensor(name))
                continue
            low = max(start, first)
            high = min(start + rows.shape[0], first + piece.get_shape()[0])
            if low < high:
                rows[low - start : high - start].copy_(piece[low - first : high - first])
