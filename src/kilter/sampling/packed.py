"""Linear layers in the layout that oneDNN wants, for the length of one rollout on a CPU.

A decode step multiplies a few dozen rows by every weight matrix, and the library re-arranges weights in
their ordinary layout at each call. Doing that once per rollout is 1.3 to 1.8 times as fast on the machines
measured (docs/LOG.md). It costs one pass over the weights, and is undone when the rollout ends. Projections
of one input (query, key and value; gate and up) become one product, which takes less time than its parts
(docs/LOG.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from kilter.models.products import Linear

SIBLINGS = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
"""Linear layers of one module that read the same tensor, as transformers names them."""


@contextlib.contextmanager
def packed_linears(module: nn.Module, amp: bool, rows: int) -> Iterator[None]:
    """Within it, every plain nn.Linear of `module` computes with re-arranged weights.

    The weights are float32, or bfloat16 when `amp`. No gradient flows. Off the CPU, for sharded weights
    and where oneDNN lacks the type, nothing changes.
    """
    # The layers stay where they are and only their `forward` is replaced: hooks and names see no difference.
    dtype = torch.bfloat16 if amp else torch.float32
    done: list[nn.Linear] = []
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    if available and (not amp or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        for together in _groups(module):
            packed = _Packed(together, dtype, rows)
            for place, layer in enumerate(together):
                layer.forward = partial(packed, place)  # type: ignore[method-assign]
            done += together
    try:
        yield
    finally:
        for linear in done:
            del linear.forward


def _groups(module: nn.Module) -> list[list[nn.Linear]]:
    """Every plain linear layer, those of one input together."""
    plain = {
        x
        for x in module.modules()
        if isinstance(x, nn.Linear)
        and type(x) in (nn.Linear, Linear)
        and type(x.weight.data) is Tensor
        and x.weight.device.type == "cpu"
        # A judge may read with the model of a rollout under way, which has taken the layer already.
        and "forward" not in vars(x)
    }
    # Layers join only where they read the same tensor and either all have a bias or none has.
    groups: list[list[nn.Linear]] = []
    for parent in module.modules():
        for names in SIBLINGS:
            layers = [
                x for name in names if isinstance(x := getattr(parent, name, None), nn.Linear) and x in plain
            ]
            if len(layers) == len(names) and len({(x.in_features, x.bias is None) for x in layers}) == 1:
                groups.append(layers)
                plain -= set(layers)
    return groups + [[x] for x in plain]


class _Packed:
    """One product for layers that are called in turn with the same input.

    The first call computes all, the others take their share.
    """

    def __init__(self, layers: list[nn.Linear], dtype: torch.dtype, rows: int) -> None:
        weight = (
            torch.cat([x.weight.detach().to(dtype) for x in layers])
            if len(layers) > 1
            else layers[0].weight.detach().to(dtype)
        )
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        self._bias = (
            None if layers[0].bias is None else torch.cat([x.bias.detach().to(dtype) for x in layers])
        )
        self._sizes = [x.out_features for x in layers]
        self._dtype = dtype
        self._input: tuple[Tensor, int] | None = None
        self._shares: tuple[Tensor, ...] = ()

    def __call__(self, place: int, x: Tensor) -> Tensor:
        # The same tensor may have been written to in between; an inference tensor does not count its writes.
        version = -1 if x.is_inference() else x._version
        if self._input is None or x is not self._input[0] or version != self._input[1]:
            self._input = x, version
            out: Tensor = torch.ops.mkldnn._linear_pointwise(
                x.to(self._dtype), self._weight, self._bias, "none", [], ""
            )
            self._shares = torch.split(out, self._sizes, -1)
        # The last layer lets the input go, or it would live until the next step.
        share = self._shares[place]
        if place == len(self._sizes) - 1:
            self._input, self._shares = None, ()
        return share
