"""Typed references: what a string in a configuration names.

From them follow order, hashes, checks, plan and schema.

A field of a stage, of anything nested in it, or a parameter of a feedback source is annotated with one of
them:

    start: BaseRef      model: ModelRef      probes: list[DataRef]      template: TemplateRef
        gold: FeedbackRef
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel

S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Ref:
    """What a string names.

    to: a model (a stage that makes one, builtin:NAME, a folder, a .gguf file, a Hub id), a data set
    (`$name`), a stage, a
        file, or a description of feedback that holds references of its own.
    default: what None stands for. base: the recipe's model; start: the model that the stage itself begins
    from; last:
        the last earlier stage that makes `makes`.
    makes: what the named stage must make.
    words: values that name no file. named: whether any other bare word is a name that the model knows.
    jinja: whether it is a chat template. fix: what an error about this reference advises.
    """

    to: Literal["model", "data", "stage", "file", "feedback"]
    default: Literal["", "base", "start", "last"] = ""
    makes: str = ""
    words: tuple[str, ...] = ()
    named: bool = False
    jinja: bool = False
    fix: str = ""

    def is_file(self, value: Any) -> bool:
        """Whether this value names a file, and so has to exist and to be hashed."""
        if self.to != "file" or value in self.words:
            return False
        return not (self.named and looks_like_stage(str(value)))


ModelRef = Annotated[str, Ref("model")]
"""A stage that makes a model, or a model."""

BaseRef = Annotated[str | None, Ref("model", default="base")]
"""A model; None is the recipe's own."""

ReferenceRef = Annotated[str | None, Ref("model", default="start")]
"""A model; None is the one that training begins from."""

DataRef = Annotated[str, Ref("data")]
"""$name of a data set of the recipe, or of an earlier stage that makes data."""

StageRef = Annotated[str, Ref("stage")]
"""An earlier stage, whatever it makes."""

EvaluationRef = Annotated[str | None, Ref("stage", default="last", makes="evaluation")]
"""An earlier stage that evaluates; None is the last one."""

CertificateRef = Annotated[str | None, Ref("stage", makes="certificate")]
"""An earlier stage that audits a judge; None is none."""

FileRef = Annotated[str, Ref("file", fix="give the path of a file that exists")]
"""A file whose content is part of the configuration."""

POLICIES = tuple(sorted(p.stem for p in (Path(__file__).parent / "release/gate/policies").glob("*.yaml")))
"""Release policies that come with Kilter; docs/gate.md explains each."""

PolicyRef = Annotated[
    str,
    Ref(
        "file",
        words=POLICIES,
        fix=f"give a YAML file with conditions: [...], or one of {', '.join(POLICIES)}",
    ),
]
"""The name of a shipped release policy, or a file with one."""

TEMPLATE_WORDS = ("auto", "model", "chatml", "llama3", "gemma", "mistral", "zephyr", "plain")
"""Chat templates that are no file: the model's own, and those of data/templates.py."""

TemplateRef = Annotated[
    str,
    Ref(
        "file",
        words=TEMPLATE_WORDS,
        named=True,
        jinja=True,
        fix="use auto, model, a name such as chatml, or the path of a .jinja file",
    ),
]
"""auto, model, the name of a chat template (the model may have several of its own), or a file with one."""

FeedbackRef = Annotated[Any, Ref("feedback")]
"""Who scores answers, as a recipe writes it; the sources' own parameters say which of them are references."""


def looks_like_stage(name: str) -> bool:
    """A bare word is a stage; anything with a colon, slash or dot is a model."""
    return not any(c in name for c in ":/.~")


@dataclass(frozen=True, slots=True)
class Found:
    """One reference: where it stands, what it may name, and what stands there; None where it was left out."""

    field: str
    ref: Ref
    value: Any


Change = Callable[[Found], Any]
"""What a reference becomes."""


def replaced(spec: S, change: Change, path: str = "") -> S:
    """The same configuration with every reference as `change` says; nested models and lists included."""
    updates = {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        new = walk(
            value, field.annotation, f"{path}.{field.alias or name}".lstrip("."), change, field.metadata
        )
        if new is not value:
            updates[name] = new
    return spec.model_copy(update=updates) if updates else spec


def walk(value: Any, annotation: Any, path: str, change: Change, metadata: Sequence[Any] = ()) -> Any:
    """The value with its references changed.

    Only strings that the annotation marks count, wherever they are nested.
    """
    ref = next((m for m in metadata if isinstance(m, Ref)), None)
    if ref is not None:
        return change(Found(path, ref, value))
    if isinstance(value, BaseModel):
        return replaced(value, change, path)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return walk(value, arguments[0], path, change, arguments[1:])
    if origin in (typing.Union, types.UnionType):
        return _member(value, arguments, path, change)
    if isinstance(value, list) and origin is list:
        items = [walk(v, arguments[0], path, change) for v in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if isinstance(value, dict) and origin is dict:
        new = {k: walk(v, arguments[1], f"{path}.{k}", change) for k, v in value.items()}
        return value if all(new[k] is value[k] for k in value) else new
    return value


def _member(value: Any, members: Sequence[Any], path: str, change: Change) -> Any:
    """Follows the member of a union that this value belongs to, told by its outermost type alone."""
    for member in members:
        inner = typing.get_args(member)[0] if typing.get_origin(member) is Annotated else member
        outer = typing.get_origin(inner) or inner
        if isinstance(outer, type) and isinstance(value, outer):
            return walk(value, member, path, change)
    return value
