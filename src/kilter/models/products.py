"""Float32 matrix products by the faster of the two libraries in PyTorch's x86 wheels.

PyTorch multiplies float32 matrices with MKL, which stops at AVX2 on a processor that is not Intel's. oneDNN
is in the same wheel, where PyTorch uses it for bfloat16. It takes AVX-512 wherever it finds it and is 2.2 to
2.4 times as fast there (docs/LOG.md), with the same float32 arithmetic. The processor and the shapes decide
which of them computes. A measurement never does, so that a resumed run repeats its numbers. Everywhere else
these functions are PyTorch's own.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 1 << 21
"""Multiplications below which a product is left to PyTorch, since the call itself would cost more."""


@cache
def onednn_multiplies_faster() -> bool:
    """Whether this is an AVX-512 processor on which MKL stops at AVX2, and the wheel has oneDNN."""
    if platform.machine() not in ("x86_64", "AMD64") or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False

    # MKL asks for the vendor, not for the instructions: on Intel's own processors it uses AVX-512 too.
    wheel_has_it: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return _maker() not in ("", "GenuineIntel") and wheel_has_it


def _maker() -> str:
    """The processor's vendor as Linux names it; "" where that is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")


def _faster(a: Tensor, b: Tensor) -> bool:
    """Whether a b, of [m, k] and [k, n], goes to oneDNN."""
    # A subclass of Tensor (quantised, sharded) brings its own product.
    plain = type(a) in (Tensor, nn.Parameter) and type(b) in (Tensor, nn.Parameter)
    return (
        plain
        and a.dtype == b.dtype == torch.float32
        and a.device.type == b.device.type == "cpu"
        and a.shape[0] * a.shape[1] * b.shape[1] >= SMALLEST
        and onednn_multiplies_faster()
    )


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a b for matrices [m, k] and [k, n], differentiable any number of times."""
    if not _faster(a, b):
        return a @ b

    # oneDNN's operation has no derivative of its own.
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        product: Tensor = _MatMul.apply(a, b)  # type: ignore[no-untyped-call]
        return product
    return _multiply(a, b)


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """oneDNN's a b; the operation is its linear layer, which takes the right matrix transposed."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
    return product


class _MatMul(torch.autograd.Function):
    """`matmul` with a backward that is made of itself."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return matmul(a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        da = matmul(grads[0], b.T) if ctx.needs_input_grad[0] else None
        db = matmul(a.T, grads[0]) if ctx.needs_input_grad[1] else None
        return da, db


class Linear(nn.Linear):
    """nn.Linear whose float32 products go through `matmul`."""

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b, [..., in] to [..., out]."""
        # Autocast wants bfloat16, for which PyTorch takes oneDNN by itself.
        if torch.is_autocast_enabled("cpu"):
            return F.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, input.shape[-1])
        if not _faster(rows, self.weight.T):
            return F.linear(input, self.weight, self.bias)
        y = matmul(rows, self.weight.T)
        y = y if self.bias is None else y + self.bias
        return y.view(*input.shape[:-1], y.shape[-1])


def take_over(module: nn.Module) -> int:
    """Gives every plain nn.Linear of `module` the class above where that is faster.

    Weights, names and the state dict stay as they are.

    Returns:
        How many layers changed their class.
    """
    if not onednn_multiplies_faster():
        return 0

    # Exactly nn.Linear: a subclass, such as an adapter's or a quantised layer, computes something else.
    plain = [x for x in module.modules() if type(x) is nn.Linear]
    for x in plain:
        x.__class__ = Linear
    return len(plain)
