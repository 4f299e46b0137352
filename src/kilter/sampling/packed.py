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
    casts = _LastCast(dtype)
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    if available and (not amp or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        for layer in module.modules():
            if type(layer) is nn.Linear and type(layer.weight.data) is Tensor and layer.weight.device.type == "cpu":
                layer.forward = _forward(layer, dtype, rows, casts)  # type: ignore[method-assign, assignment]
                done.append(layer)
    try:
        yield
    finally:
        for layer in done:
            del layer.forward


class _LastCast:
    """Query, key and value projections (and gate and up) read the same input: it is cast once."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._source: Tensor | None = None
        self._cast: Tensor | None = None
        self._version = -1

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype == self.dtype:
            return x
        if x is not self._source or x._version != self._version or self._cast is None:
            self._source, self._version, self._cast = x, x._version, x.to(self.dtype)
        return self._cast


def _forward(layer: nn.Linear, dtype: torch.dtype, rows: int, cast: _LastCast) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype), rows)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)

    def forward(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(cast(x), weight, bias, "none", [], "")
        return out

    return forward
