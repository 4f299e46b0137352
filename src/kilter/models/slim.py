"""Layers that keep less for the backward: the model's own numbers, up to rounding, in less memory.

    RMSNorm   y = w x / sqrt(mean(x^2) + eps)    keeps x and one number per row
    SwiGLU    h = silu(g) u                      keeps g and u

Written out, autograd would also keep x / rms and y's factors of the one, and silu(g) of the other.

`slim` gives every such layer of a transformers model a class of its own, after comparing the two on random
input. Weights, names and the state dict stay as they are. A layer that computes something else (Gemma's 1 +
w, GeGLU, a clamped gate) stays untouched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _RMSNorm(torch.autograd.Function):
    """RMSNorm of x [..., D] with weight [D] (Zhang and Sennrich 2019, arXiv:1910.07467).

    It is computed in float32 or wider, and returned in the wider type of x and weight.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.eps = eps
        return _normed(x, weight, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        # Differentiated again, the scale must be a function of x.
        if torch.is_grad_enabled():
            scale = _inverse_rms(x, ctx.eps)

        # Autocast would compute these products in bfloat16.
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
        # Differentiated again: PyTorch's own backward of silu has no derivative.
        if torch.is_grad_enabled():
            s = gate.sigmoid()
            return grads[0] * up * s * (1 + gate * (1 - s)), grads[0] * gate * s
        return torch.ops.aten.silu_backward(grads[0] * up, gate), grads[0] * F.silu(gate)


class _SlimNorm:
    """Mixed into the model's own norm class."""

    def forward(self, x: Tensor) -> Tensor:
        """x over its root mean square, times the weight."""
        weight, eps = self.weight, _eps(self)  # type: ignore[attr-defined]
        # Without gradients nothing is kept, and a custom function would only add its own cost.
        if not torch.is_grad_enabled():
            return _normed(x, weight, _inverse_rms(x, eps))
        y: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return y


class _SlimGated:
    """Mixed into the model's own feed-forward class."""

    def forward(self, x: Tensor) -> Tensor:
        """down(silu(gate x) up x)."""
        gate, up = self.gate_proj(x), self.up_proj(x)  # type: ignore[attr-defined]
        if torch.is_grad_enabled():
            inner: Tensor = _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]
        else:
            inner = F.silu(gate) * up
        y: Tensor = self.down_proj(inner)  # type: ignore[attr-defined]
        return y


def _eps(norm: Any) -> float:
    return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)


@cache
def _derived(mixin: type, own: type) -> type:
    """The model's class with one method replaced.

    It keeps its name, which wrapping policies and reports go by.
    """
    return type(own.__name__, (mixin, own), {"__module__": own.__module__, "__doc__": own.__doc__})


def slim(model: nn.Module, known: Collection[str] | None = None) -> int:
    """Replaces the forward of every RMSNorm and SwiGLU that computes what its slim form computes.

    Compared on random input of three magnitudes, to 1e-5 of the largest value (1e-2 below float32).

    Args:
        model: of transformers.
        known: names of the layers that computed the same elsewhere, for a model without numbers.

    Returns:
        How many layers changed their class.
    """
    count = 0
    layers: Iterator[tuple[str, Any]] = model.named_modules()
    for name, layer in layers:
        # Every model file of transformers has classes of its own for these, so they are found by name and
        # parts.
        mixin: type | None = None
        weighted = isinstance(getattr(layer, "weight", None), nn.Parameter)
        if type(layer).__name__.endswith("RMSNorm") and weighted:
            mixin = _SlimNorm
        elif all(hasattr(layer, n) for n in ("gate_proj", "up_proj", "down_proj", "act_fn")):
            mixin = _SlimGated
        if mixin is None or isinstance(layer, mixin):
            continue
        if _same(layer, mixin) if known is None else name in known:
            layer.__class__ = _derived(mixin, type(layer))  # type: ignore[arg-type]
            count += 1
    return count


def slimmed(model: nn.Module) -> list[str]:
    """Names of the layers that have their slim form."""
    return [name for name, layer in model.named_modules() if isinstance(layer, _SlimNorm | _SlimGated)]


@torch.no_grad()
def _same(layer: Any, mixin: type) -> bool:
    """Whether the layer, while it trains, makes of one tensor what the slim form makes of it."""
    first = next(layer.parameters())
    if first.is_meta or not first.is_floating_point() or len(signature(type(layer).forward).parameters) != 2:
        return False

    # The layer's own dropout would be lost, so it counts. An adapter's is inside the projections, and stays.
    modes = {m: m.training for m in layer.modules()}
    try:
        for m in modes:
            m.training = m is layer

        # Small gate weights keep the activation's input near 0, where GELU and SiLU are alike. So it is
        # compared alone.
        if mixin is _SlimGated:
            grid = torch.linspace(-40, 40, 1001, device=first.device)
            if not torch.allclose(layer.act_fn(grid), F.silu(grid), atol=1e-6):
                return False
            width, types = layer.gate_proj.in_features, [first.dtype]
        else:
            # Under autocast a norm may read either type.
            width, types = layer.weight.shape[-1], [first.dtype, torch.bfloat16]

        # A clamp shows itself on large input only.
        sizes = torch.tensor([1.0, 30.0, 1000.0])[:, None, None]
        x = (torch.randn(3, 2, width, generator=torch.Generator().manual_seed(0)) * sizes).to(first.device)
        slim_form: Any = mixin.forward  # type: ignore[attr-defined]
        answers = [(layer(z), slim_form(layer, z)) for z in map(x.to, types)]
        return all(_agree(*pair) for both in answers for pair in zip(*both, strict=True))
    # This is code of any model: another signature, another layout of weights, an assertion.
    except Exception:
        return False
    finally:
        for m, was in modes.items():
            m.training = was


def _agree(own: Tensor, ours: Tensor) -> bool:
    """Whether two answers of a layer are equal up to rounding."""
    if own.dtype != ours.dtype or own.shape != ours.shape:
        return False

    # A layer that answers 0, such as a down projection that starts there, agrees with everything and proves
    # nothing.
    largest = float(own.abs().max())
    tolerance = 1e-2 if own.dtype in (torch.bfloat16, torch.float16) else 1e-5
    return largest > 0 and float((own - ours).abs().max()) <= tolerance * largest
