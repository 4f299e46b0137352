"""The registry of objectives and the one way to build one from a recipe."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilter.errors import UserError, nearest
from kilter.objectives.knobs import check_options
from kilter.registry import Registry
from kilter.types import Group

if TYPE_CHECKING:
    from kilter.batch import Objective

objectives: Registry[Callable[..., Objective]] = Registry("method")

METHOD_FIX = "write method: dpo, or method: {name: dpo, beta: 0.1}"


def method(name: str) -> Callable[[type[Any]], type[Any]]:
    """Registers a frozen dataclass as an objective and writes its name on it, for messages."""

    def add(cls: type[Any]) -> type[Any]:
        cls.name = name
        objectives.register(name)(cls)
        return cls

    return add


def method_name(config: str | Mapping[str, Any]) -> str:
    """A method's name, as `--method` takes it: a mixture's is dpo+sft:0.1. A weight of 1 is not said."""
    found = unfolded({"name": config} if isinstance(config, str) else config)
    if not isinstance(found.get("mix"), Mapping):
        return str(found.get("name"))
    weights = {k: v.get("weight", 1) if isinstance(v, Mapping) else v for k, v in found["mix"].items()}
    return "+".join(str(k) if w == 1 else f"{k}:{w}".replace("e+", "e") for k, w in weights.items())


_WEIGHT = re.compile(r"-?(\d+|\d*\.\d+|\d+\.)(e-?\d+)?")
"""What stands behind a method's name and a colon, where it is not a class in a file."""


def unfolded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A method with its `mix`, where its name is that of a mixture, such as dpo+sft:0.5; else as it is.

    Fields of a part may stand beside the name: {name: dpo+sft, mix: {dpo: {beta: 0.05}}}.
    """
    name, mix = config.get("name"), config.get("mix", {})
    if not isinstance(name, str) or "+" not in name or not isinstance(mix, Mapping):
        return dict(config)
    # A path may hold a plus, and so may a name that somebody registered.
    if name in objectives.names() or Path(name.rpartition(":")[0]).is_file():
        return dict(config)
    parts: dict[str, Any] = {}
    for part in name.split("+"):
        method, colon, weight = part.rpartition(":")
        known = bool(colon) and _WEIGHT.fullmatch(weight) is not None
        if not known and method in objectives.names():
            problem = f"gives {method} the weight {weight!r}, which is not a number"
            raise UserError("method", name, problem, "write dpo:1+sft:0.5")
        key = method if known else part
        if not key or key in parts:
            problem = "names a method twice" if key else "lacks a method beside a +"
            raise UserError("method", name, problem, "write dpo+sft, or dpo:1+sft:0.5 with weights")
        parts[key] = 1 if not known else int(weight) if weight.isdecimal() else float(weight)
    for key, fields in mix.items():
        if key not in parts:
            raise UserError("method.mix", key, f"is not a part of {name}", nearest(str(key), list(parts)))
        own = dict(fields) if isinstance(fields, Mapping) else {"weight": fields}
        parts[key] = {"weight": parts[key]} | own
    return {k: v for k, v in config.items() if k != "name"} | {"mix": parts}


def settings(config: Any) -> dict[str, Any]:
    """What a recipe says of a method, as a mapping with its `name` or its `mix`. Raises UserError."""
    if not isinstance(config, str | Mapping):
        raise UserError("method", config, "is not a method", METHOD_FIX)
    found = unfolded({"name": config} if isinstance(config, str) else config)
    if "mix" not in found and not isinstance(found.get("name"), str):
        raise UserError("method", config, "has no name", METHOD_FIX)
    return found


def build_objective(config: str | Mapping[str, Any]) -> Objective:
    """`"dpo"`, `{"name": "dpo", "beta": 0.1}` or `{"mix": {"dpo": 1, "sft": 0.1}}` to an objective.

    "dpo+sft:0.1" is the mixture in short. An unknown field is an error naming the nearest. In a mixture
    a part may also be `{"weight": 0.1, "name": ..., ...}`.
    """
    options = settings(config)
    if "mix" in options:
        return _mixture(options)
    name = options.pop("name")
    factory = objectives.get(name)
    if not callable(factory):
        raise UserError(
            "method",
            name,
            f"is not a method, but {type(factory).__name__}.",
            "Name a frozen dataclass, as in docs/new-method.md.",
        )
    fields: tuple[dataclasses.Field[Any], ...] = (
        dataclasses.fields(factory) if dataclasses.is_dataclass(factory) else ()
    )
    check_options(name, options, {f.name: (f.default, "None" in str(f.type)) for f in fields})
    try:
        built = factory(**options)
    except UserError:
        raise
    except Exception as error:  # a class or function of the user's that is something else
        raise UserError(
            "method",
            name,
            f"cannot be built ({type(error).__name__}: {error})",
            "name a frozen dataclass, as docs/new-method.md shows",
        ) from error
    if not all(hasattr(built, part) for part in ("needs", "prepare", "loss")):
        raise UserError(
            "method",
            name,
            "is not a method: it lacks needs, prepare or loss",
            "name a frozen dataclass with all three, as docs/new-method.md shows",
        )
    return built


def fitted(objective: Objective, groups: Sequence[Group]) -> tuple[Objective, str]:
    """The method with the settings that it takes from the data, and a line for people.

    Both are as they were, and empty, where it takes none.
    """
    from kilter.batch import Fitted

    return objective.fit(groups) if isinstance(objective, Fitted) else (objective, "")


def _mixture(options: Mapping[str, Any]) -> Objective:
    # Its members bring tensors, which no other part of this file needs.
    from kilter.objectives.mixture import Mixture

    return Mixture(tuple((w, str(c["name"]), build_objective(c)) for w, c in mixture_parts(options)))


def mixture_parts(options: Mapping[str, Any]) -> list[tuple[float, dict[str, Any]]]:
    """(weight, configuration of a method) of every part of a mixture. Raises UserError for another shape."""
    parts = options["mix"]
    if beside := sorted(set(options) - {"mix", "name"}):
        raise UserError(
            "method",
            beside,
            "stands beside mix",
            "put a method's fields into the mixture: {mix: {dpo: {weight: 1, beta: 0.05}}}, "
            "or --set mix.dpo.beta=0.05",
        )
    if not isinstance(parts, Mapping) or not parts:
        raise UserError(
            "method.mix",
            parts,
            "is not a mapping of methods to weights",
            "write method: {mix: {dpo: 1, sft: 0.1}}",
        )
    found = []
    for key, value in parts.items():
        config = dict(value) if isinstance(value, Mapping) else {"weight": value}
        weight = config.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UserError(
                f"method.mix.{key}",
                weight,
                "is not a finite weight above 0",
                "give a number above 0, or leave the method out",
            )
        found.append((float(weight), {"name": str(key)} | config))
    return found
