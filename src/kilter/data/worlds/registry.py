"""Worlds by name: generated data whose truth is known. A world brings dials, prompts, a judge and labels.

`builtin:NAME` in data is a registered world; `builtin:my_file.py:NAME` is one of a user's own. A new one here
is a folder beside this file that registers its World, and its name in the list below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
)
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from kilter.errors import UserError, nearest
from kilter.registry import Registry
from kilter.seams import FeedbackSource
from kilter.types import Group, Prompt, Shape
from kilter.validation import as_user_error, with_fix

PREFIX = "builtin:"
"""How the path of a world begins."""


class Dials(BaseModel, ABC):
    """What can be set of a world. Derive from it, and add the world's own."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    n: int = Field(400, ge=2, description="number of prompts")
    view: str = Field("auto", description="what the prompts carry; auto gives each method what it needs")

    @abstractmethod
    def groups(self, shape: Shape, seed: int = 0) -> list[Group]:
        """n groups in the shape that a method needs. Same seed, same prompts in every shape."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What a world knows of a prompt before anybody answers.

    Args:
        safety: whether the request is harmful; "" is unknown.
        comply: whether it deserves help, so that a refusal is wrong; None is unknown.
        grant: what is right to decide: True grant, False decline; None is unknown.
        slices: names of the parts of the world that it belongs to, such as a kind of request.
    """

    safety: Literal["safe", "unsafe", ""] = ""
    comply: bool | None = None
    grant: bool | None = None
    slices: tuple[str, ...] = ()


def unknown(prompt: Prompt) -> Labels:
    """The labels of a world that has none."""
    return Labels()


@dataclass(frozen=True, slots=True)
class Critic:
    """Criticises, revises and compares answers to a world's prompts by rules, in place of a model.

    Args:
        reply: (prompt, step, id of the principle, answer) to what it says; steps are critique and revision.
        prefers: (prompt, first answer, second, id of the principle) to the probability that the first is
            better; None is unscored.
        needs: metadata of a prompt without which it has no reply.
        principles: ids of those that it tells apart. All others are one and the same to it.
    """

    reply: Callable[[Prompt, str, str, str], str]
    prefers: Callable[[Prompt, str, str, str], float | None]
    needs: tuple[str, ...] = ()
    principles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class World:
    """A world as the rest of Kilter sees it.

    Args:
        name: what stands behind `builtin:`, in words joined by hyphens.
        dials: what can be set of it; its `groups` makes the data.
        judge: scores any answer to a prompt of this world by the truth.
        labels: what is known of a prompt of this world.
        declines: whether an answer to a prompt says no; None: rules for any prompt read it.
        violates: whether an answer does harm; None: rules for any prompt read it.
        critics: scripted critics by name, such as one that follows a constitution.
    """

    name: str
    dials: type[Dials]
    judge: type[FeedbackSource]
    labels: Callable[[Prompt], Labels] = unknown
    declines: Callable[[Prompt, str], bool] | None = None
    violates: Callable[[Prompt, str], bool] | None = None
    critics: Mapping[str, Critic] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The judge's name among feedback sources, and the value of `world` in the metadata of a prompt."""
        return _source(self.name)

    def owns(self, prompt: Prompt) -> bool:
        """Whether a prompt comes from this world."""
        return bool(prompt.metadata.get("world") == self.source)


worlds: Registry[World] = Registry("world")
worlds.declare("kilter.data.worlds.support_desk", "support-desk")
worlds.declare("kilter.data.worlds.ordinary", "ordinary-questions")

suites: Registry[World] = Registry("suite")
"""Worlds that ask and have no answers to learn from: they stand in no list of what can be trained on."""
for _suite, _name in (
    ("harmful", "harmful-twins"),
    ("sycophancy", "sycophancy"),
    ("evasiveness", "evasiveness"),
    ("identity", "identity-flips"),
    ("cultural", "cultural-variants"),
):
    suites.declare(f"kilter.data.worlds.suites.{_suite}", _name)

DEFAULT = "support-desk"
"""Whose dials stand in the settings of data that comes from no world."""

_own: dict[str, World] = {}
"""Worlds of users' files that this process has been asked for, by their name."""


def _source(name: str) -> str:
    return name.replace("-", "_")


def is_world(path: str) -> bool:
    """Whether data of this path comes from a world."""
    return path.startswith(PREFIX)


def paths() -> list[str]:
    """The data paths of all worlds that can be trained on, such as builtin:support-desk."""
    return [f"{PREFIX}{name}" for name in worlds.names()]


def suite_paths() -> list[str]:
    """The data paths of all suites, such as builtin:sycophancy."""
    return [f"{PREFIX}{name}" for name in suites.names()]


def _shipped(name: str, field: str = "data.path") -> World | None:
    """The world or suite of this name that Kilter brings; None where it brings none."""
    return next((r.get(name, field) for r in (worlds, suites) if name in r.names()), None)


def find(path: str, field: str = "data.path") -> World:
    """The world of `builtin:NAME`.

    Args:
        path: of the data.
        field: that names it, for messages.

    Raises:
        UserError: with the nearest name for an unknown one.
    """
    name = path.removeprefix(PREFIX)
    if ":" not in name and name not in (*worlds.names(), *suites.names()):
        raise UserError(field, path, "names no built-in data", nearest(path, [*paths(), *suite_paths()]))
    world = _shipped(name, field) or worlds.get(name, field)
    if not isinstance(world, World):
        raise UserError(
            field,
            path,
            "does not name a world",
            "Name an object of kilter.data.worlds.registry.World.",
        )
    if missing := sorted(world.dials.__abstractmethods__):
        raise UserError(
            field, path, f"names a world whose dials have no method {missing[0]}.", "Write it in the class."
        )
    if ":" not in name:
        return world

    # A prompt carries its world's name, so a user's world must not be taken for another one.
    if world.source in map(_source, (*worlds.names(), *suites.names())):
        raise UserError(
            field, path, f"names a world {world.name!r}, which is taken.", "Give it another name."
        )
    _own[world.name] = world
    return world


def sources() -> dict[str, str]:
    """The names of the worlds whose judges are known, by the names of the judges."""
    return {_source(name): name for name in (*worlds.names(), *_own)}


def by_source(source: str) -> World:
    """The world or suite with the judge of this name."""
    name = _owners()[source]
    return _own[name] if name in _own else _shipped(name) or worlds.get(name)


def _owners() -> dict[str, str]:
    """The names of all worlds and suites that prompts may come from, by the names of their judges."""
    return sources() | {_source(name): name for name in suites.names()}


def world_of(prompt: Prompt) -> World | None:
    """The world or suite that a prompt comes from, None for one of the user's."""
    source = prompt.metadata.get("world")
    return by_source(source) if isinstance(source, str) and source in _owners() else None


def critic_of(path: str, name: str, field: str = "critic") -> Critic:
    """A scripted critic of the world of `builtin:NAME`. Raises UserError for an unknown one."""
    world = find(path, f"{field}.world")
    if name not in world.critics:
        fix = nearest(name, world.critics) if world.critics else "Name a world that has critics."
        raise UserError(f"{field}.critic", name, f"is not a critic of {world.name}", fix)
    return world.critics[name]


def labels_of(prompt: Prompt) -> Labels:
    """What the prompt's world knows of it; nothing of a prompt of the user's."""
    world = world_of(prompt)
    return Labels() if world is None else world.labels(prompt)


def known_labels() -> set[str]:
    """What prompts of the worlds and suites that Kilter brings are labelled by, safe and unsafe included."""
    own = [r.get(name, "data.path") for r in (worlds, suites) for name in r.names()]
    parts = (w.labels(g.prompt).slices for w in own for g in w.dials().groups("prompts"))
    return {"safe", "unsafe"}.union(*parts)


class DialsOfPath:
    """Marks the field of a data set's settings that holds the dials of the world at its `path`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The dials that the path asks for, written out with all of their fields."""
        return core_schema.with_info_wrap_validator_function(
            lambda value, _, info: _dials(value, info.data.get("path", "")),
            handler(source),
            serialization=core_schema.simple_ser_schema("any"),
        )


def check_path(path: str) -> str:
    """The path as it stands. Raises what pydantic reports where a world of a user's own cannot be had."""
    try:
        if is_world(path) and ":" in path.removeprefix(PREFIX):
            find(path)
    except UserError as error:
        raise with_fix(error) from error
    return path


def _dials(value: Any, path: str) -> Dials:
    """The dials as the world of `path` has them.

    An unknown name is for `find` to report when the data is read.
    """
    name = path.removeprefix(PREFIX)
    named = is_world(path) and (":" in name or name in (*worlds.names(), *suites.names()))
    dials = find(path).dials if named else worlds.get(DEFAULT).dials
    plain = value.model_dump() if isinstance(value, BaseModel) else value
    if not isinstance(plain, Mapping):
        known = ", ".join(dials.model_fields)
        fix = f"write dials with their values, such as {{n: 100}}; {dials.__name__} has {known}"
        raise with_fix(UserError("world", plain, "should be a mapping of dials", fix))
    try:
        found = dials.model_validate(plain)
        # Settings that were written out hold all dials of no world, as they stand by default. A person who
        # writes some of them wants a world, whatever their values.
        written = bool(plain) and plain.keys() != dials.model_fields.keys()
        if path and not is_world(path) and (written or found != dials()):
            fix = f"leave them out, or name a world: {', '.join(paths())}"
            problem = f"are dials of a world, and {path} is none"
            raise with_fix(UserError("world", plain, problem, fix))
        return found
    except ValidationError as error:
        # The message is made here, for whoever reads the whole settings does not know this world's dials.
        first = error.errors()[0]
        kind = with_fix(as_user_error(error, "", dials))
        line = InitErrorDetails(type=kind, loc=first["loc"], input=first["input"])
        raise ValidationError.from_exception_data("world", [line]) from error
