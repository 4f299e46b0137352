"""From settings to a sampler.

One of your own: `sampler: {name: my_file.py:MySampler, options: {...}}`. It is called with the options as
keywords, and with `context` where it takes one of that name.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from kilter.errors import UserError, nearest
from kilter.sampling.config import AT_HAND, FOLLOWS, NAMES_MODEL, PACKAGES, READS, SamplerKind, idle_fields
from kilter.sampling.registry import samplers
from kilter.seams import Sampler
from kilter.validation import refuse_idle, require_type


@dataclass(frozen=True)
class SamplerContext:
    """What a sampler may need of whoever opens it.

    Args:
        spec: the settings.
        policy: opens the weights and gives (Scorer, Encoder); an endpoint never asks.
        model: the model as the user named it; "" where there is only a policy in memory.
        dtype: of the products, "float32" or "bfloat16".
        where: the field of the settings, for messages; `build` says it.
    """

    spec: SamplerKind
    policy: Callable[[], tuple[Any, Any]]
    model: str = ""
    dtype: str = "float32"
    where: str = "sampler"


def check_sampler(spec: SamplerKind, where: str = "sampler") -> None:
    """Raises UserError where a sampler of the user's own cannot be read or does not take its options."""
    # The built-in ones have fields of their own, which the configuration has checked.
    if spec.options or "options" in READS.get(spec.name, {"options"}):
        _options(spec, where)


def check_who_answers(model: str | None, spec: SamplerKind, where: str) -> None:
    """Raises UserError unless these two together say who answers, and each setting is read.

    Args:
        model: weights that are named beside the sampler; None where there are none.
        spec: the sampler.
        where: the field that holds `model` and `sampler`, for messages.
    """
    sampler = f"{where}.sampler"
    refuse_idle(spec, f"{sampler}.", idle_fields(spec))
    check_sampler(spec, sampler)

    # One of the user's own may open weights, and need not.
    if spec.name not in READS:
        return
    if spec.name in FOLLOWS and model is None:
        fix = "name a stage, a folder or builtin:NAME, or a sampler that is an endpoint"
        raise UserError(f"{where}.model", "(absent)", "is required by this sampler", fix)
    field = NAMES_MODEL.get(spec.name)
    if spec.name not in FOLLOWS and model is not None:
        fix = "leave model out" if field is None else f"name who answers as sampler.{field}, and leave it out"
        raise UserError(f"{where}.model", model, f"has no effect: sampler {spec.name} opens no model", fix)
    if field is not None and getattr(spec, field) is None:
        fix = f"give {SamplerKind.model_fields[field].description}"
        raise UserError(f"{sampler}.{field}", "(absent)", f"is required by {spec.name}", fix)

    # What costs nothing to open is opened now, for it knows best which values it can use.
    if spec.name in AT_HAND:
        build(SamplerContext(spec, _no_weights), sampler).close()


def refuse_unready(spec: SamplerKind, where: str, models: Iterable[str] = ()) -> None:
    """Raises UserError for a sampler whose library, script or key is not there. It opens no weights.

    Args:
        spec: the sampler.
        where: its field, for messages.
        models: who answers, for samplers that open no weights.
    """
    package = PACKAGES.get(spec.name)
    there = package is None or package in sys.modules or importlib.util.find_spec(package) is not None
    if not there and spec.url is None:
        fix = "run: make setup-vllm, or use sampler: {name: local}"
        raise UserError(f"{where}.name", spec.name, "is not installed", fix)
    for model in models if spec.name in NAMES_MODEL else ():
        build(SamplerContext(spec, _no_weights, model), where).close()


def _no_weights() -> tuple[Any, Any]:
    raise AssertionError("a sampler at hand asks for no weights")


def build(context: SamplerContext, where: str = "sampler") -> Sampler:
    """Opens the sampler that the settings name, with the options that it takes."""
    factory, options = _options(context.spec, where)
    if "context" in inspect.signature(factory).parameters:
        options = options | {"context": replace(context, where=where)}
    made = factory(**options)
    lacks = [name for name in ("facts", "run", "close") if not hasattr(made, name)]
    if lacks:
        fix = "give it facts, run, sync and close, as docs/samplers.md shows"
        raise UserError(f"{where}.name", context.spec.name, f"has no {lacks[0]}", fix)
    return made


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
    signature = getattr(factory, "__init__") if isinstance(factory, type) else factory  # noqa: B009
    hints = typing.get_type_hints(signature) if inspect.isroutine(signature) else {}
    known = inspect.signature(factory).parameters.items()
    taken = {n: p for n, p in known if n != "context" and p.kind is not p.VAR_POSITIONAL}
    # A word too many or too few is found now, and not when the model is loaded.
    for name, value in spec.options.items():
        if name not in taken:
            fix = nearest(name, taken) if taken else "leave it out: the sampler takes no options"
            raise UserError(f"{where}.options.{name}", value, f"is not an option of {spec.name}", fix)
        if name in hints:
            require_type(f"{where}.options.{name}", value, hints[name])
    for name, parameter in taken.items():
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and name not in spec.options:
            field = f"{where}.options.{name}"
            raise UserError(field, "(absent)", f"is required by {spec.name}", f"write {name}: ...")
    return factory, spec.options
