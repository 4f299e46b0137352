"""Kinds of stages by name; `my_file.py:MyStage` is a kind as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kilter.errors import UserError, nearest
from kilter.registry import Registry
from kilter.stages.kind import Stage, StageKind
from kilter.validation import as_user_error

kinds: Registry[type[StageKind[Any]]] = Registry("stage")

K = TypeVar("K", bound=type[StageKind[Any]])


def stage(name: str) -> Callable[[K], K]:
    """Decorator: registers a kind of stage under the key that a recipe gives it."""
    return kinds.register(name)  # type: ignore[return-value]


def kind_of(name: str, where: str = "") -> StageKind[Any]:
    """The kind of this name. Raises UserError with the nearest name for an unknown one."""
    field = f"{where}.{name}".lstrip(".")
    if ":" not in name and not name.endswith(".py") and name not in kinds.names():
        raise UserError(field, name, "is not a known kind of stage", nearest(name, kinds.names()))
    found = kinds.get(name)
    spec = getattr(found, "Spec", None)
    if not (isinstance(found, type) and issubclass(found, StageKind) and isinstance(spec, type)):
        raise UserError(
            field,
            name,
            "is not a kind of stage",
            "derive the class from kilter.stages.StageKind and give it a Spec",
        )
    # A recipe is refused before any work, and not when the turn of this stage comes.
    if missing := sorted(found.__abstractmethods__):
        raise UserError(field, name, f"has no method {missing[0]}", f"write {missing[0]} in the class")
    return found()


def make(kind: str, settings: Any, where: str = "") -> Stage:
    """A stage from plain data or a finished Spec. Raises UserError with field, value and fix.

    Args:
        kind: key of the stage's kind.
        settings: fields of the kind's Spec; None stands for none.
        where: the stage's place in a recipe, such as "stages.dpo"; without it, errors name fields alone.
    """
    maker, place = kind_of(kind, where), f"{where}.{kind}" if where else ""
    if isinstance(settings, BaseModel):
        return Stage(kind, maker, settings, place)
    try:
        return Stage(kind, maker, maker.Spec.model_validate({} if settings is None else settings), place)
    except ValidationError as error:
        raise as_user_error(error, place, maker.Spec) from error
