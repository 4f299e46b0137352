"""Every reference of a stage's configuration, those inside feedback included."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

from kilter import refs
from kilter.refs import Change, Found

S = TypeVar("S", bound=BaseModel)


def references(spec: BaseModel) -> list[Found]:
    """Every model, data set, stage and file that a configuration names, in the order of its fields."""
    found: list[Found] = []

    def note(item: Found) -> Any:
        found.append(item)
        return item.value

    replaced(spec, note)
    return found


def replaced(spec: S, change: Change) -> S:
    """The same configuration with every reference as `change` says."""

    def inner(item: Found) -> Any:
        if item.ref.to != "feedback":
            return change(item)
        if item.value is None:
            return None
        # Only a recipe that names feedback has to know the sources, whose modules are heavy.
        from kilter.feedback.registry import with_references

        return with_references(item.value, change, item.field)

    return refs.replaced(spec, inner)
