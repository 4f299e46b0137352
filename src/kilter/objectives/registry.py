"""The registry of objectives and the one way to build one from a recipe."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kilter.errors import UserError
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
    """A method's name for people and folders; a mixture's is its parts', joined by +."""
    if isinstance(config, str):
        return config
    return "+".join(map(str, config["mix"])) if "mix" in config else str(config.get("name"))


def settings(config: Any) -> dict[str, Any]:
    """What a recipe says of a method, as a mapping with its `name` or its `mix`. Raises UserError."""
    if not isinstance(config, str | Mapping):
        raise UserError("method", config, "is not a method", METHOD_FIX)
    found = {"name": config} if isinstance(config, str) else dict(config)
    if "mix" not in found and not isinstance(found.get("name"), str):
        raise UserError("method", config, "has no name", METHOD_FIX)
    return found


def build_objective(config: str | Mapping[str, Any]) -> Objective:
    """`"dpo"`, `{"name": "dpo", "beta": 0.1}` or `{"mix": {"dpo": 1, "sft": 0.1}}` to an objective.

    An unknown field is an error naming the nearest. In a mixture a part may also be
    `{"weight": 0.1, "name": ..., ...}`.
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
            "put a method's fields into the mixture: {mix: {dpo: {weight: 1, beta: 0.05}}}",
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
