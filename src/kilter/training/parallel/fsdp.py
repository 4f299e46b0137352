"""How FSDP2 divides a model: which processes share a copy of it, and in which precision weights travel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


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

    Args:
        module: policy, or policy and critic.
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
                fully_shard(layer, mesh=mesh, mp_policy=policy)

    # Embeddings, final norm and head belong to the root: gathered once per forward and kept for the fused
    # head's backward. They are gathered whole: a table in bfloat16 would round the states of every layer.
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
