"""Linear layers in the layout that oneDNN wants, for the length of one rollout on a CPU.

A decode step multiplies a few dozen rows by every weight matrix; with weights in their ordinary layout the library
re-arranges them at each call. Doing that once per rollout is 1.3 to 1.8 times as fast on the machines measured
(docs/LOG.md), costs one pass over the weights, and is undone when the rollout ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def packed_linears(module: nn.Module, amp: bool, rows: int) -> Iterator[None]:
    """Within it, every plain nn.Linear of `module` computes with re-arranged weights: float32, or bfloat16 when `amp`.

    No gradient flows. Off the CPU, for sharded weights and where oneDNN lacks the type, nothing changes.
    """
    dtype = torch.bfloat16 if amp else torch.float32
    done: list[nn.Module] = []
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    if available and (not amp or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        for layer in module.modules():
            if type(layer) is nn.Linear and type(layer.weight.data) is Tensor and layer.weight.device.type == "cpu":
                layer.forward = _forward(layer, dtype, rows)  # type: ignore[method-assign, assignment]
                done.append(layer)
    try:
        yield
    finally:
        for layer in done:
            del layer.forward


def _forward(layer: nn.Linear, dtype: torch.dtype, rows: int) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype), rows)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)

    def forward(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, "none", [], "")
        return out

    return forward
