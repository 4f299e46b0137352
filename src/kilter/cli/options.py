"""From the fields of a configuration to options of the command line, and from what was typed back to fields.

A field's name, type, default, range, words and heading stand in its pydantic model alone. A field `sampler`
that holds a model becomes `--sampler VALUE`, short for its first field, and an option for each of its fields,
such as `--sampler.temperature 0.7`. Lists are repeatable, mappings are YAML. The model itself checks ranges.
"""

from __future__ import annotations

import inspect
import keyword
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.models import OptionInfo

from kilter.cli import complete
from kilter.errors import UserError
from kilter.options import group_of
from kilter.refs import Ref

Kind = Literal["switch", "integer", "number", "text", "list", "pairs", "model", "yaml"]

TYPES: dict[Kind, Any] = {
    "switch": bool,
    "integer": int,
    "number": float,
    "text": str,
    "list": list[str],
    "pairs": list[str],
    "model": str,
    "yaml": str,
}
"""What the parser makes of each kind; YAML and nested models are read when all options are known."""

PLAIN: dict[Any, Kind] = {bool: "switch", int: "integer", float: "number", str: "text"}
WORDS: dict[Any, str] = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}
NAMED = {
    "model": "MODEL",
    "stage": "STAGE",
    "file": "FILE",
    "feedback": "SOURCE",
    "method": "METHOD",
    "data": "DATA",
    "sampler": "NAME",
}
"""How a value is shown, by what it refers to or by the name of the option."""

CHOICES_SHOWN = 24
"""Characters of a|b|c that still stand beside an option; longer lists are part of the description."""


@dataclass(frozen=True)
class Option:
    """One option: where its value goes, as recipes write it, and the field that says everything else."""

    path: tuple[str, ...]
    field: FieldInfo
    group: str
    hidden: bool = False

    @property
    def name(self) -> str:
        """The parameter of the function that gets the value."""
        joined = "__".join(self.path)
        return f"{joined}_" if keyword.iskeyword(joined) else joined

    @property
    def flag(self) -> str:
        """The option as a user types it, such as --sampler.max-new-tokens."""
        return "--" + ".".join(self.path).replace("_", "-")

    @property
    def negative(self) -> str:
        """The other name of a switch, such as --no-shuffle."""
        return "--" + ".".join((*self.path[:-1], f"no_{self.path[-1]}")).replace("_", "-")

    @property
    def kind(self) -> Kind:
        """The kind of value, which decides how the option reads it."""
        return _kind(self.field.annotation)

    @property
    def model(self) -> type[BaseModel] | None:
        """The nested configuration that the option sets; None if its value is plain, or turns it on."""
        return None if self.kind == "switch" else _model(self.field.annotation)

    @property
    def choices(self) -> tuple[str, ...]:
        """The only values, if they can be listed; of a nested configuration those of its first field."""
        kinds = members(self.shown.annotation)
        values = [v for m in kinds if typing.get_origin(m) is Literal for v in typing.get_args(m)]
        return tuple(map(str, values)) if all(typing.get_origin(m) is Literal for m in kinds) else ()

    @property
    def shown(self) -> FieldInfo:
        """The field that its value sets: of a nested configuration the first."""
        return self.field if self.model is None else first_field(self.model)[1]


def options_of(
    spec: type[BaseModel], skip: Sequence[str] = (), prefix: tuple[str, ...] = (), group: str | None = None
) -> Iterator[Option]:
    """The options of every field, nested ones after the field that holds them.

    Args:
        spec: the configuration.
        skip: fields of it that have no option.
        prefix: where the configuration stands in a larger one.
        group: heading of all options; None takes each field's own.
    """
    first = first_field(spec)[0] if prefix and not _is_switch(spec) else ""
    for name, field in spec.model_fields.items():
        if name in skip:
            continue
        path, heading = (*prefix, field.alias or name), group or group_of(field.json_schema_extra)
        # The first field of a nested configuration is what its short form sets: listed once, accepted twice.
        yield Option(path, field, heading, hidden=(field.alias or name) == first)
        # Several configurations may stand there, such as the dials of each world: a name is listed once.
        known: set[tuple[str, ...]] = set()
        for nested in _models(field.annotation):
            for option in options_of(nested, prefix=path, group=heading):
                if option.path not in known:
                    known.add(option.path)
                    yield option


def first_field(spec: type[BaseModel]) -> tuple[str, FieldInfo]:
    """(name, field) that the short form of a nested configuration sets."""
    name, field = next(iter(spec.model_fields.items()))
    return field.alias or name, field


def parameters(
    options: Sequence[Option],
    own: Sequence[inspect.Parameter] = (),
    first: Sequence[str] = (),
    aliases: Mapping[str, Sequence[str]] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> list[inspect.Parameter]:
    """Keyword parameters for typer.

    Args:
        options: fields of configurations.
        own: parameters of the command itself.
        first: names that come first under their heading.
        aliases: further flags by name.
        defaults: what a command sets where nothing is typed, in place of the field's own default.
    """
    aliases, defaults = aliases or {}, defaults or {}
    order = {name: i for i, name in enumerate(first)}
    found = [*own]
    for option in options:
        needed = option.field.is_required() and len(option.path) == 1
        own_default = defaults.get(option.name, ... if needed else None)
        info = _info(option, aliases.get(option.name, ()), defaults.get(option.name))
        kind = TYPES[option.kind]
        found.append(parameter(option.name, kind if needed else kind | None, info, own_default))
    # The rest keeps its order; fields of nested configurations stand below all others.
    return sorted(found, key=lambda p: (order.get(p.name, len(order)), "__" in p.name))


def parameter(name: str, annotation: Any, info: Any, default: Any = None) -> inspect.Parameter:
    """One keyword parameter as typer reads it."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[annotation, info], default=default
    )


def takes(*given: inspect.Parameter) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: the parameters that typer shows and passes to a function of **values."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        function.__signature__ = inspect.Signature(list(given))  # type: ignore[attr-defined]
        return function

    return add


def name_types(function: Callable[..., None]) -> None:
    """Gives every option of a command that takes a value, and says nothing else, its flag and a metavar."""
    # Annotations are text until somebody reads them. typer has to find the very objects that change here.
    signature = inspect.signature(function, eval_str=True)
    function.__signature__ = signature  # type: ignore[attr-defined]
    for name, declared in signature.parameters.items():
        for info in getattr(declared.annotation, "__metadata__", ()):
            if not isinstance(info, OptionInfo) or members(declared.annotation) == [bool]:
                continue
            if info.default is ...:  # no flag was named, and typer 0.27 may take the metavar for one
                info.param_decls = (f"--{name.replace('_', '-')}",)
            if info.metavar is None:
                info.metavar = words(declared.annotation)


def collect(options: Sequence[Option], values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that was typed: nested mappings with what was given and nothing else."""
    found: dict[str, Any] = {}
    for option in options:
        value = values.get(option.name)
        if value is None or value == []:
            continue
        node = found
        for key in option.path[:-1]:
            # A switch comes before the fields that say more; switched off, it leaves nothing to say.
            if node.get(key) is False:
                raise UserError(
                    option.flag,
                    value,
                    f"sets a part of {key}, which is switched off",
                    "leave out one of both",
                )
            if not isinstance(node.get(key, True), dict | bool):
                raise UserError(
                    option.flag,
                    value,
                    f"sets a part of {key}, which is {node[key]!r}",
                    "leave out one of both",
                )
            node[key] = node[key] if isinstance(node.get(key), dict) else {}
            node = node[key]
        value = _read(option, value)
        if option.model is not None and isinstance(value, dict):
            node.setdefault(option.path[-1], {}).update(value)
        else:
            node[option.path[-1]] = value
    return found


def _read(option: Option, value: Any) -> Any:
    """What a person typed, as the configuration wants it."""
    from kilter.recipe import scalar

    if isinstance(value, str) and not value.strip():
        raise UserError(option.flag, value, "is empty", "give it a value, or leave the option out")
    if option.kind == "yaml":
        found = scalar(value, option.flag)
        # Several configurations may stand there and nothing else: a plain value is their first field.
        kinds = members(option.field.annotation)
        if isinstance(found, dict) or option.model is None or _models(option.field.annotation) != kinds:
            return found
        return {first_field(option.model)[0]: found}
    if option.kind == "pairs":
        return pairs_of(value, option.flag)
    if option.kind == "list":
        return (
            value
            if words(option.field.annotation) == "TEXT"
            else [scalar(item, option.flag) for item in value]
        )
    if option.model is None:
        return value
    # A name or a path is text, whatever YAML makes of its characters (*.jsonl).
    plain = option.shown.annotation is str and value.lstrip()[:1] not in ("{", "[")
    found = value if plain else scalar(value, option.flag)
    return found if isinstance(found, dict) else {first_field(option.model)[0]: found}


def pairs_of(values: Sequence[str], flag: str) -> dict[str, str]:
    """NAME=COLUMN, repeatable, or a mapping in YAML. Raises UserError for anything else."""
    from kilter.recipe import scalar

    found: dict[str, str] = {}
    for item in values:
        if item.lstrip().startswith("{"):
            typed = {str(k): str(v) for k, v in dict(scalar(item, flag)).items()}
        else:
            name, sign, column = item.partition("=")
            if not sign or not name or not column:
                raise UserError(flag, item, "is not NAME=COLUMN", "write --map prompt=question")
            typed = {name: column}
        # The later of two would win in silence.
        if twice := found.keys() & typed.keys():
            raise UserError(flag, item, f"names {min(twice)!r} a second time", "name it once")
        found |= typed
    return found


def _info(option: Option, aliases: Sequence[str], default: Any) -> Any:
    """typer's description of an option."""
    return typer.Option(
        f"{option.flag}/{option.negative}" if option.kind == "switch" else option.flag,
        *aliases,
        help=describe(option, default),
        metavar=metavar(option),
        rich_help_panel=option.group,
        show_default=False,
        hidden=option.hidden,
        autocompletion=_completion(option),
    )


def describe(option: Option, default: Any = None) -> str:
    """What a value means: the description of its field, its choices where they are many, and its default."""
    said = option.field.description
    text = ": ".join(filter(None, [said, option.shown.description if option.model is not None else ""]))
    ref = reference(option.shown)
    choices = option.choices or (() if ref is None else ref.words)
    many = len("|".join(choices)) > CHOICES_SHOWN
    if many and not all(choice in text for choice in choices):
        text += f"; one of {', '.join(choices)}{', or a file' if ref is not None else ''}"
    if option.kind in ("list", "pairs"):
        text += "; repeatable"
    if default is None:
        default = option.shown.get_default(call_default_factory=False)
    if default is True:
        return f"{text} (default {'on' if option.kind == 'switch' else 'true'})"
    optional = option.model is not None and option.field.default is None
    if isinstance(default, int | float | str) and not isinstance(default, bool) and not optional:
        return f"{text} (default {default})"
    return text


def metavar(option: Option) -> str | None:
    """What stands for the value: choices, what it refers to, its type; both names of a switch that is on."""
    if option.kind == "pairs":
        return "NAME=COLUMN"
    if option.kind == "switch":
        both = ".".join((*option.path[:-1], f"[no-]{option.path[-1]}")).replace("_", "-")
        return f"--{both}" if option.field.default is True else None
    listed = "|".join(option.choices)
    if listed:
        return listed if len(listed) <= CHOICES_SHOWN else "NAME"
    if (ref := reference(option.shown)) is not None:
        listed = "|".join((*ref.words, NAMED[ref.to]))
        return listed if len(listed) <= CHOICES_SHOWN else f"NAME|{NAMED[ref.to]}"
    return NAMED.get(option.name) or words(option.shown.annotation)


def words(annotation: Any) -> str:
    """What a value of this type is called in a list of options, such as INT|auto."""
    found: dict[str, None] = {}
    for member in members(annotation):
        if typing.get_origin(member) is Literal:
            found |= dict.fromkeys(map(str, typing.get_args(member)))
        elif typing.get_origin(member) is list:
            found[words(typing.get_args(member)[0])] = None
        else:
            found[WORDS.get(member, "YAML")] = None
    return "|".join(found)


def _completion(option: Option) -> Callable[[str], list[Any]] | None:
    """Where the shell finds words for the value."""
    if option.choices:
        return complete.among(option.choices)
    ref = reference(option.shown)
    return complete.SOURCES.get(option.name if ref is None else ref.to)


def reference(field: FieldInfo) -> Ref | None:
    """The reference that a field, or each item of it, is."""
    marks = [*field.metadata, *(m for a in _unions(field.annotation) for m in getattr(a, "__metadata__", ()))]
    return next((m for m in marks if isinstance(m, Ref)), None)


def _unions(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, the items of a list, or the annotation itself."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, list):
        return tuple(b for a in typing.get_args(annotation) for b in _unions(a))
    return (annotation,)


def members(annotation: Any) -> list[Any]:
    """The types that a value may have, None left out and markers taken off."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [m for a in typing.get_args(annotation) for m in members(a)]
    return [] if annotation is type(None) else [annotation]


def _kind(annotation: Any) -> Kind:
    """How a value of this type is read."""
    kinds = members(annotation)
    if all(typing.get_origin(m) is Literal for m in kinds):
        return "text" if all(isinstance(v, str) for m in kinds for v in typing.get_args(m)) else "yaml"
    if len(kinds) != 1:
        return "yaml"
    only = kinds[0]
    if typing.get_origin(only) is list:
        return "list"
    if typing.get_origin(only) is dict and typing.get_args(only) == (str, str):
        return "pairs"
    if isinstance(only, type) and issubclass(only, BaseModel):
        return "switch" if _is_switch(only) else "model"
    return PLAIN.get(only, "yaml")


def _is_switch(spec: type[BaseModel]) -> bool:
    """Whether a nested configuration says that it may be turned on as a whole, with its defaults."""
    extra = spec.model_config.get("json_schema_extra")
    return isinstance(extra, dict) and bool(extra.get("switch"))


def _model(annotation: Any) -> type[BaseModel] | None:
    """The nested configuration that a field holds, the first of several."""
    return next(iter(_models(annotation)), None)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The nested configurations that a field may hold."""
    return [m for m in members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
