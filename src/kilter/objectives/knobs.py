"""The settings of a method: default, meaning and range stand once, in the field itself.

    beta: float = knob(0.1, "inverse strength of the pull to the reference", "(0, inf)", "0.01 to 0.5")

From that one line come the check of a value, the message when it is wrong, `kilter methods NAME` and the
method's page.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from typing import Any

from kilter.errors import UserError, nearest

_INTERVAL = re.compile(r"^([\[(])(-?[\d.]+|-inf), ?(-?[\d.]+|inf)([\])])$")


def knob(default: Any, meaning: str, interval: str = "", usual: str = "") -> Any:
    """A dataclass field that says of itself what it means.

    Args:
        interval: such as "(0, inf)" or "[0, 0.5)".
        usual: the values that people use, in words.
    """
    assert not interval or _INTERVAL.match(interval), interval
    return dataclasses.field(
        default=default, metadata={"meaning": meaning, "interval": interval, "usual": usual}
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Knob:
    """A field as a reader sees it. `choices` is empty where any value of the type in the interval will do."""

    name: str
    default: Any
    kind: str
    meaning: str
    interval: str
    usual: str
    choices: tuple[Any, ...]

    @property
    def nullable(self) -> bool:
        """Whether null is a value."""
        return self.kind.endswith("or null")


def knobs(method: Any) -> list[Knob]:
    """The fields of a method (class or object), in order."""
    cls = method if isinstance(method, type) else type(method)
    hints = typing.get_type_hints(cls)
    out = []
    for f in dataclasses.fields(cls):
        literal = typing.get_origin(hints[f.name]) is typing.Literal
        kind = "choice" if literal else str(f.type).replace(" | None", ", or null")
        choices = typing.get_args(hints[f.name]) if literal else ()
        default = None if f.default is dataclasses.MISSING else f.default
        told = _told(cls, f.name)
        out.append(
            Knob(
                f.name,
                default,
                kind,
                told.get("meaning", ""),
                told.get("interval", ""),
                told.get("usual", ""),
                choices,
            )
        )
    return out


def _told(cls: type, name: str) -> Mapping[str, Any]:
    """What the class says of a field, or its nearest ancestor, since a member may change a default alone."""
    for ancestor in cls.__mro__:
        for f in ancestor.__dict__.get("__dataclass_fields__", {}).values():
            if f.name == name and f.metadata:
                return f.metadata  # type: ignore[no-any-return]
    return {}


def inside(value: float, interval: str) -> bool:
    """Whether a number lies in an interval such as "[0, 1)"."""
    match = _INTERVAL.match(interval)
    assert match is not None
    left, low, high, right = match.groups()
    above = value >= float(low) if left == "[" else value > float(low)
    below = value <= float(high) if right == "]" else value < float(high)
    return above and below and not math.isnan(value)


def check(method: Any) -> None:
    """Raises UserError at the first field whose value lies outside its range or is none of its choices."""
    for k in knobs(method):
        check_value(k, getattr(method, k.name), f"{name_of(method)}.{k.name}")


def check_options(name: str, options: Mapping[str, Any], fields: Mapping[str, tuple[Any, bool]]) -> None:
    """Raises UserError for an option that is not a field, or for text where a number belongs.

    Args:
        name: of the method.
        options: its settings.
        fields: (default, whether null is a value) by name.
    """
    for key, value in options.items():
        if key not in fields:
            fix = nearest(key, fields, none="leave it out: the method has no fields")
            raise UserError(f"{name}.{key}", value, "is not a field of this method", fix)
        default, nullable = fields[key]
        if value is None and nullable:
            continue
        if isinstance(default, float) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UserError(
                f"{name}.{key}", value, "is not a number", f"give a number, the default is {default}"
            )


def check_value(k: Knob, value: Any, where: str) -> None:
    """Raises UserError for a value that lies outside the field's range or is none of its choices."""
    usual = k.usual or f"the default is {k.default}"
    if k.choices and value not in k.choices:
        raise UserError(where, value, "is not one of its choices", nearest(str(value), map(str, k.choices)))
    if k.kind == "bool" and not isinstance(value, bool):
        raise UserError(where, value, "is neither true nor false", f"write true or false; {usual}")
    if k.interval and value is not None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(where, value, "is not a number", f"give a number; {usual}")
        if not inside(value, k.interval):
            raise UserError(
                where,
                value,
                f"must lie in {k.interval}",
                f"give a value in this range; usual is {k.usual}, the default is {k.default}",
            )


def name_of(method: Any) -> str:
    """The registered name of a method, or its class's."""
    cls = method if isinstance(method, type) else type(method)
    return str(cls.__dict__.get("name") or cls.__name__)
