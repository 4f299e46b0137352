"""Pydantic's errors as one UserError: field, value, fix, with the nearest valid name for an unknown key."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from kilter.errors import UserError, nearest


class _UniqueKeys(yaml.SafeLoader):
    """YAML whose mappings may not name a key twice: the second would silently win."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    # Before <<: *anchor adds its keys, which may be overridden.
    for key in (k for k, _ in node.value if isinstance(k, yaml.ScalarNode)):
        # `yes` and `true` are written differently, and are one key.
        names: set[Any] = {key.value}
        if key.tag != "tag:yaml.org,2002:merge":
            names.add(("value", loader.construct_object(key)))
        if names & seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key.value!r} stands there twice", key.start_mark
            )
        seen |= names
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


class RepeatedKeyError(ValueError):
    """A key that one JSON object holds twice.

    Args:
        key: its name.
        values: all that it is given.
    """

    def __init__(self, key: str, values: list[Any]) -> None:
        super().__init__(f"the key {key!r} stands twice in one object")
        self.key, self.values = key, values


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object_pairs_hook of `json`, whose own readers keep the last of two values in silence.

    Raises:
        RepeatedKeyError: an object names a key twice.
    """
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        key = next(name for name in names if names.count(name) > 1)
        raise RepeatedKeyError(key, [value for name, value in pairs if name == key])
    return row


LARGEST = 1_000_000
"""Values in one file of settings, those behind an anchor counted wherever they are named."""


LONGEST = 1 << 24
"""Characters in one file of settings."""


def load_yaml(text: str) -> Any:
    """Plain data from YAML a person wrote.

    Raises:
        yaml.YAMLError: also where a key stands twice, a value cannot be read, or anchors make it endless.
    """
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"it is longer than {LONGEST:,} characters")
    try:
        loader = _UniqueKeys(text)
        node = loader.get_single_node()
        if node is None:
            return None
        # A few lines of anchors can stand for more values than any computer holds.
        if _values(node, {}) > LARGEST:
            raise yaml.YAMLError(f"its anchors stand for more than {LARGEST:,} values")
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply, or an anchor holds itself") from error
    except (ValueError, OverflowError) as error:  # a date that does not exist, a number of 5,000 digits
        raise yaml.YAMLError(str(error)) from error


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for, counted once per mention; infinite for one that holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        inner = node.value if isinstance(node.value, list) else ()
        parts = [n for item in inner for n in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_values(n, known) for n in parts)
    return known[id(node)]


class TookTooLong(BaseException):
    """Not an Exception, so that code which catches all of those is ended too."""


@contextlib.contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    """Ends code of a user's own that runs on. One long call into C is waited for; so is another thread.

    Raises:
        TookTooLong: the time is up.
    """

    def over(number: int, frame: object) -> None:
        raise TookTooLong(f"takes longer than {seconds:g} s")

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    handler = signal.signal(signal.SIGALRM, over)
    # Once more each second: the first one may be lost in a finalizer.
    before = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, handler)


NAME = re.compile(r"\w[\w.-]{0,99}")

TAKEN = {
    *("chain.json", "chain.sig.json"),
    *("model", "checkpoints", "pinned", "recipe.yaml", "report.html", "manifest.json", "evaluation.json"),
    *(
        "gate.json",
        "gate.xml",
        "audit.json",
        "audit.html",
        "flags.jsonl",
        "train.json",
        "feedback.json",
        "per_prompt.json",
        "metrics.jsonl",
    ),
    *("events.jsonl", "gold.jsonl", "groups.jsonl", "groups.tokens", "failures.jsonl", "scored.jsonl"),
    *("best.safetensors", "best.json", "reached.jsonl"),
    *("trained_prompts.txt", "uncertified_judges.txt", "reference.sqlite"),
    *("compare.json", "compare.md", "compare.html", "compare.csv"),
}
"""What Kilter writes into the folder of a run or stage: none of it names a run or a stage."""


def require_name(field: str, name: str, value: object = None) -> None:
    """Raises UserError for a name that could be a path, or that of a file which a run folder holds.

    Args:
        field: what bears the name.
        name: becomes a folder.
        value: what the user wrote, if that is more than the name.
    """
    shown = name if value is None else value
    if NAME.fullmatch(name) is None:
        raise UserError(
            field,
            shown,
            "is not a name: it becomes a folder",
            "use at most 100 letters, digits, `_`, `-` and `.`, and begin with a letter or digit",
        )
    if name.casefold() in TAKEN:
        raise UserError(
            field,
            shown,
            "is the name of a file that Kilter writes itself",
            f"choose another, such as my-{name}",
        )


def with_fix(error: UserError) -> PydanticCustomError:
    """The problem and its fix, raised by a validator that knows more than the model around it."""
    return PydanticCustomError("with_fix", "{problem}", {"problem": error.problem, "fix": error.fix})


class Settings(BaseModel):
    """Settings that a person writes: a number is not given as yes or no, which Python counts as 1 and 0."""

    ELSEWHERE: ClassVar[Mapping[str, str]] = {}
    """What people write here and nobody reads here: by its name, how to say it instead."""

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and _is_number(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("should be a number, not yes or no, true or false")
        return value


def _is_number(annotation: Any) -> bool:
    """Whether a setting is a number, or one of several, and never a switch."""
    members = typing.get_args(annotation) or (annotation,)
    kinds = [m if isinstance(m, type) else type(m) for m in members if m is not type(None)]
    return bool(kinds) and bool not in kinds and any(kind in (int, float) for kind in kinds)


_MEMBER = re.compile(r"(constrained-)?(str|int|float|bool|none)|(literal|list|dict|function-\w+)\[.*\]")


def as_user_error(error: ValidationError, where: str, model: type[BaseModel], skip: int = 0) -> UserError:
    """The first problem of `error`.

    Args:
        where: path of the validated object within the file.
        model: type of the validated object.
        skip: parts at the beginning of the problem's own path that lead to the object and that `where`
            replaces.
    """
    first = error.errors()[0]
    # Of a union pydantic names the member that failed, such as `constrained-int`: no key of the user's.
    location = [str(part) for part in first["loc"][skip:] if not _MEMBER.fullmatch(str(part))]
    field = ".".join([p for p in (where, *location) if p])
    kind, value = first["type"], first.get("input")
    if kind == "with_fix":
        return UserError(field, value, first["ctx"]["problem"], first["ctx"]["fix"])
    if kind == "extra_forbidden":
        there = _model_at(model, location[:-1])
        known = [] if there is None else [f.alias or name for name, f in there.model_fields.items()]
        fix = nearest(location[-1], known) if known else "remove it"
        if there is not None and issubclass(there, Settings):
            fix = there.ELSEWHERE.get(location[-1], fix)
        # Who writes a key where none is read has meant a secret, and messages go into logs.
        if location[-1].lower().endswith(("key", "header", "headers")):
            value = "(hidden)"
        return UserError(field, value, "is not a known key", fix)
    if kind == "invalid_key":
        return UserError(
            field, value, "is a key that is no text", "put it into quotation marks, or remove it"
        )
    if kind == "missing":
        return UserError(field, "(absent)", "is required", f"add {location[-1]}: ...")
    return UserError(field, value, complaint(error), _description(model, location))


def require_type(field: str, value: Any, hint: Any) -> None:
    """Raises UserError where an option is not what the signature of its reader says."""
    try:
        TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        expected = str(hint).replace("typing.", "").removeprefix("<class '").removesuffix("'>")
        raise UserError(field, value, complaint(error), f"give a value of type {expected}") from error


def complaint(error: ValidationError) -> str:
    """Pydantic's first problem as that of a UserError: "Input should be 1" becomes "should be 1"."""
    message = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return re.sub(r"^[A-Z]\w* should ", "should ", message)


def refuse_idle(
    spec: BaseModel, where: str, idle: Iterable[tuple[str, str, str]], written: bool = False
) -> None:
    """Settings that a run would not read: a value given in vain is an error, not a silence.

    Args:
        spec: the settings.
        where: prefix of their names in errors.
        idle: (field, why, fix).
        written: a value that equals the default counts too where it was written out.
    """
    for name, why, fix in idle:
        value = getattr(spec, name)
        given = written and name in spec.model_fields_set and value is not None
        if given or value != type(spec).model_fields[name].get_default(call_default_factory=True):
            shown = value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value
            raise UserError(f"{where}{name}", shown, f"has no effect: {why}", fix)


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """The type of what stands at a path in a validated object; None where it is no model."""
    node: type[BaseModel] | None = model
    for part in path:
        node = None if node is None else _model_of(node, part)
    return node


def _model_of(model: type[BaseModel], part: str) -> type[BaseModel] | None:
    for name, field in model.model_fields.items():
        if part in (name, field.alias):
            return _first_model(field.annotation)
    return model  # list index, or the tag of a union


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _first_model(inner)
        if found is not None:
            return found
    return None


def _description(model: type[BaseModel], location: list[str]) -> str:
    there = _model_at(model, location[:-1])
    for name, field in {} if there is None else there.model_fields.items():
        if location and location[-1] in (name, field.alias) and field.description:
            return f"give a value that fits: {field.description}"
    return "see `kilter schema` for the values allowed"
