"""Layers that keep less for the backward: the numbers of the model's own, up to rounding, in less memory between the two passes.

    RMSNorm   y = w x / sqrt(mean(x^2) + eps)    keeps x and one number per row (written out, autograd keeps x, x / rms and y's factors)
    SwiGLU    h = silu(g) u                      keeps g and u (written out, also silu(g))

`slim` gives every such layer of a transformers model a class of its own, after comparing the two on random input. Weights,
names and the state dict stay as they are; a layer that computes something else (Gemma's 1 + w, GeGLU, a clamped gate) stays untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _RMSNorm(torch.autograd.Function):
    """x [..., D], weight [D] -> [..., D] in the wider type of the two, computed in float32 or wider (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.eps = eps
        return _normed(x, weight, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # differentiated again: the scale must be a function of x
            scale = _inverse_rms(x, ctx.eps)
        with torch.autocast(x.device.type, enabled=False):
            grad, wide = grads[0].to(scale.dtype), x.to(scale.dtype)
            product = grad * wide
            along = (product @ weight.to(scale.dtype))[..., None] * scale.pow(3) / -x.shape[-1]
            dx = torch.addcmul(grad * weight * scale, wide, along)
            dw = None
            if ctx.needs_input_grad[1]:
                dw = (scale.reshape(1, -1) @ product.reshape(-1, x.shape[-1]))[0].to(weight.dtype)
        return dx.to(x.dtype), dw, None


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps), [..., 1], float32 or wider."""
    norm: Tensor = torch.linalg.vector_norm(
        x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)
    )
    return (norm.square() / x.shape[-1] + eps).rsqrt()


def _normed(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    y: Tensor = (x * scale).to(x.dtype) * weight
    return y


class _SwiGLU(torch.autograd.Function):
    """silu(gate) up, elementwise (Shazeer 2020, arXiv:2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        if torch.is_grad_enabled():  # differentiated again: PyTorch's own backward of silu is not
            s = gate.sigmoid()
            return grads[0] * up * s * (1 + gate * (1 - s)), grads[0] * gate * s
        return torch.ops.aten.silu_backward(grads[0] * up, gate), grads[0] * F.silu(gate)


class _SlimNorm:
    """Mixed into the model's own norm class."""

    def forward(self, x: Tensor) -> Tensor:
        """The norm of x."""
        weight, eps = self.weight, _eps(self)  # type: ignore[attr-defined]
        if not torch.is_grad_enabled():
            return _normed(x, weight, _inverse_rms(x, eps))
        y: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return y


class _SlimGated:
    """Mixed into the model's own feed-forward class."""

    def forward(self, x: Tensor) -> Tensor:
        """down(silu(gate x) up x)."""
        gate, up = self.gate_proj(x), self.up_proj(x)  # type: ignore[attr-defined]
        inner = _SwiGLU.apply(gate, up) if torch.is_grad_enabled() else F.silu(gate) * up  # type: ignore[no-untyped-call]
        y: Tensor = self.down_proj(inner)  # type: ignore[attr-defined]
        return y


def _eps(norm: Any) -> float:
    return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)


@cache
def _derived(mixin: type, own: type) -> type:
    """The model's class with one method replaced; it keeps its name, which wrapping policies and reports go by."""
    return type(own.__name__, (mixin, own), {"__module__": own.__module__, "__doc__": own.__doc__})


def slim(model: nn.Module) -> int:
    """Replaces the forward of every RMSNorm and SwiGLU that computes what its slim form computes; returns how many.

    Compared on random input of three magnitudes, to 1e-5 of the largest value (1e-2 below float32): a clamp shows itself on large ones.
    """
    count = 0
    layers: Iterator[Any] = model.modules()
    for layer in layers:
        mixin: type | None = None
        if type(layer).__name__.endswith("RMSNorm") and isinstance(
            getattr(layer, "weight", None), nn.Parameter
        ):
            mixin = _SlimNorm
        elif all(hasattr(layer, n) for n in ("gate_proj", "up_proj", "down_proj", "act_fn")):
            mixin = _SlimGated
        if mixin is not None and not isinstance(layer, mixin) and _same(layer, mixin):
            layer.__class__ = _derived(mixin, type(layer))  # type: ignore[arg-type]
            count += 1
    return count


@torch.no_grad()
def _same(layer: Any, mixin: type) -> bool:
    """Whether the layer takes one tensor and makes of it what the slim form makes, while it trains (dropout of its own is no part of that)."""
    first = next(layer.parameters())
    if first.is_meta or not first.is_floating_point() or len(signature(type(layer).forward).parameters) != 2:
        return False
    modes = {m: m.training for m in layer.modules()}
    try:
        for m in modes:
            m.training = m is layer  # an adapter's dropout is inside the projections, and stays
        if mixin is _SlimGated:
            grid = torch.linspace(-40, 40, 1001, device=first.device)
            if not torch.allclose(layer.act_fn(grid), F.silu(grid), atol=1e-6):
                return False
            width, types = layer.gate_proj.in_features, [first.dtype]
        else:
            width, types = (
                layer.weight.shape[-1],
                [first.dtype, torch.bfloat16],
            )  # under autocast a norm may read either
        sizes = torch.tensor([1.0, 30.0, 1000.0])[:, None, None]
        x = (torch.randn(3, 2, width, generator=torch.Generator().manual_seed(0)) * sizes).to(first.device)
        answers = [(layer(z), mixin.forward(layer, z)) for z in map(x.to, types)]  # type: ignore[attr-defined]
        return all(_agree(*pair) for both in answers for pair in zip(*both, strict=True))
    except Exception:  # code of any model: another signature, another layout of weights, an assertion
        return False
    finally:
        for m, was in modes.items():
            m.training = was


def _agree(own: Tensor, ours: Tensor) -> bool:
    """A layer that answers 0 (a down projection that starts there) agrees with everything, and so proves nothing."""
    if own.dtype != ours.dtype or own.shape != ours.shape:
        return False
    largest = float(own.abs().max())
    return (
        largest > 0
        and float((own - ours).abs().max())
        <= (1e-2 if own.dtype in (torch.bfloat16, torch.float16) else 1e-5) * largest
    )
