"""Functions given as feedback to a Python door: each gets a name that settings can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kilter.feedback.context import Context
from kilter.feedback.function import FunctionFeedback, check_form
from kilter.feedback.isolation import Target
from kilter.feedback.registry import feedback_sources

_functions: dict[str, Callable[..., Any]] = {}
"""Functions that no other process can import, by the name that this process knows them by."""


def named(spec: Any) -> Any:
    """The same feedback with every function as a name.

    Args:
        spec: a function, or what a recipe says of feedback with functions in place of names.
    """
    if isinstance(spec, list | tuple):
        return [named(item) for item in spec]
    if isinstance(spec, Mapping):
        return {(_name(k) if callable(k) else k): v for k, v in spec.items()}
    return _name(spec) if callable(spec) else spec


def _name(function: Callable[..., Any]) -> str:
    """`module:name` where other processes find the function, else a name that this process alone knows."""
    target = Target.of(function)
    if target is not None:
        return f"{target.where}:{target.name}"
    known = next((name for name, other in _functions.items() if other is function), None)
    return known or _register(function)


def _register(function: Callable[..., Any]) -> str:
    plain = getattr(function, "__name__", "function").strip("<>")
    name, count = plain, 1
    while name in feedback_sources.names():
        count += 1
        name = f"{plain}-{count}"
    check_form(function, name)

    def build(timeout: float = 30.0, context: Context | None = None) -> FunctionFeedback:
        return FunctionFeedback(function, name, timeout, context)

    feedback_sources.register(name)(build)
    _functions[name] = function
    return name
