"""From settings to a sampler.

One of your own: `sampler: {name: my_file.py:MySampler, options: {...}}`. It is called with the options as
keywords, and with `context` where it takes one of that name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kilter.errors import UserError, nearest
from kilter.sampling.config import SamplerKind
from kilter.sampling.registry import samplers
from kilter.seams import Sampler


@dataclass(frozen=True)
class SamplerContext:
    """What a sampler may need of whoever opens it.

    Args:
        spec: the settings.
        policy: opens the weights and gives (Scorer, Encoder); an endpoint never asks.
        model: the model as the user named it; "" where there is only a policy in memory.
        dtype: of the products, "float32" or "bfloat16".
    """

    spec: SamplerKind
    policy: Callable[[], tuple[Any, Any]]
    model: str = ""
    dtype: str = "float32"


def check_sampler(spec: SamplerKind, where: str = "sampler") -> None:
    """Raises UserError where a sampler of the user's own cannot be read or does not take its options."""
    # The built-in ones have fields of their own, which the configuration has checked.
    if ":" in spec.name or spec.options:
        _options(spec, where)


def build(context: SamplerContext, where: str = "sampler") -> Sampler:
    """Opens the sampler that the settings name, with the options that it takes."""
    factory, options = _options(context.spec, where)
    if "context" in inspect.signature(factory).parameters:
        options = options | {"context": context}
    return factory(**options)


def _options(spec: SamplerKind, where: str) -> tuple[Callable[..., Sampler], dict[str, Any]]:
    """The factory and its options, every one known and none missing."""
    factory = samplers.get(spec.name, f"{where}.name")
    if not callable(factory):
        raise UserError(
            f"{where}.name",
            spec.name,
            f"is not a sampler, but {type(factory).__name__}.",
            "Name a class with run, sync and close, as kilter.seams.Sampler has them.",
        )
    taken = {n: p for n, p in inspect.signature(factory).parameters.items() if n != "context"}
    # A word too many or too few is found now, and not when the model is loaded.
    for name, value in spec.options.items():
        if name not in taken:
            fix = nearest(name, taken) if taken else "leave it out: the sampler takes no options"
            raise UserError(f"{where}.options.{name}", value, f"is not an option of {spec.name}", fix)
    for name, parameter in taken.items():
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and name not in spec.options:
            field = f"{where}.options.{name}"
            raise UserError(field, "(absent)", f"is required by {spec.name}", f"write {name}: ...")
    return factory, spec.options
