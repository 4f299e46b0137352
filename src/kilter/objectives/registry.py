"""The registry of objectives and the one way to build one from a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from kilter.errors import UserError, nearest
from kilter.registry import Registry
from kilter.types import Objective

objectives: Registry[Callable[..., Objective]] = Registry("method")


def build_objective(config: str | Mapping[str, Any]) -> Objective:
    """`"dpo"` or `{"name": "dpo", "beta": 0.1}` to an objective; an unknown field is an error naming the nearest."""
    options = {"name": config} if isinstance(config, str) else dict(config)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError("method", config, "has no name", "write method: dpo, or method: {name: dpo, beta: 0.1}")
    factory = objectives.get(name)
    known: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(factory)} if dataclasses.is_dataclass(factory) else {}
    for key, value in options.items():
        if key not in known:
            raise UserError(f"{name}.{key}", value, "is not a field of this method", nearest(key, known))
        default = known[key].default
        if value is None and "None" in str(known[key].type):
            continue
        if isinstance(default, float) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UserError(f"{name}.{key}", value, "is not a number", f"give a number, the default is {default}")
    return factory(**options)
