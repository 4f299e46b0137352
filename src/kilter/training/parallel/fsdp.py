"""How FSDP2 divides a model: which processes share a copy of it, and in which precision weights travel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Sharding:
    """Settings of FSDP2.

    Args:
        shard: processes that hold one copy together; neighbours by rank, as those of a node are.
        bfloat16: whether layers are gathered in bfloat16, which halves what travels.
    """

    shard: int
    bfloat16: bool = False


def divide(module: nn.Module, how: Sharding, device: str, world: int) -> None:
    """Shards each decoder layer, and then all that is left, in place.

    A layer moves to its device when its turn comes, so that the device never holds a whole model.

    Args:
        module: policy, or policy and critic. What has no numbers yet gets memory for some.
        how: the settings; `how.shard` divides `world`.
        device: type of the device.
        world: processes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Each row of the mesh holds a copy. Gradients are summed within a row, then between the rows.
    if how.shard == world:
        mesh = init_device_mesh(device, (world,))
    else:
        size = (world // how.shard, how.shard)
        mesh = init_device_mesh(device, size, mesh_dim_names=("replicate", "shard"))

    # Activations stay as autocast has them: it would round the same weights to bfloat16 itself.
    policy = MixedPrecisionPolicy()
    if how.bfloat16:
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for child in module.modules():
        if isinstance(child, nn.ModuleList):
            for layer in child:
                _give_memory(layer)
                fully_shard(layer, mesh=mesh, mp_policy=policy)

    # Embeddings, final norm and head belong to the root: gathered once per forward and kept for the fused
    # head's backward. They are gathered whole: a table in bfloat16 would round the states of every layer.
    _give_memory(module)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)


@torch.no_grad()
def _give_memory(module: nn.Module) -> None:
    """Parameters and buffers without numbers get memory on the CPU; one that stands twice stays one."""
    seen: dict[int, tuple[Tensor, nn.Parameter]] = {}
    for part in module.modules():
        for name, p in part.named_parameters(recurse=False, remove_duplicate=False):
            if p.is_meta:
                made = nn.Parameter(torch.empty_like(p, device="cpu"), p.requires_grad)
                setattr(part, name, seen.setdefault(id(p), (p, made))[1])
        for name, b in part.named_buffers(recurse=False, remove_duplicate=False):
            if b.is_meta:
                part.register_buffer(
                    name, torch.empty_like(b, device="cpu"), name not in part._non_persistent_buffers_set
                )


@torch.no_grad()
def fill(module: nn.Module, whole: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Gives every rank its shards of the first one's numbers.

    Args:
        module: divided.
        whole: of the module before that, by name; on the first rank alone.
        buffers: of the module, on every rank.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(module, dict(whole), options=options)
    # Those that are computed from the configuration stand in no state.
    for name, own in module.named_buffers():
        own.copy_(buffers[name])
