"""constitution.yaml: principles that answers are criticised, revised and compared by. Strict."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, field_validator, model_validator

from kilter.data.worlds.registry import labels_of
from kilter.feedback.judge.prompts import TEMPLATE_MARKS
from kilter.types import Prompt

LONGEST = 2000
"""Characters of a principle. What a critic has to weigh does not fit a page."""

ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")

DELIMITERS = re.compile(
    r"<\|[^|\n]{0,40}\|>|<<<|>>>|\[\[|\]\]|\[/?INST\]|\[(?:BEGIN|END)\b|</?(?:s|think|start_of_turn"
    r"|end_of_turn|answer|principle|prompt|critique|revision|verdict|conversation)\b[^>\n]{0,40}>"
    r"|\bVERDICT [^\s=]{1,40} = |^=== [^\n]{1,60} (?:begins|ends) ===",
    re.I | re.M,
)
"""What marks parts of a question, ours or a chat template's: in a principle it would end the part early."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _plain(text: str) -> str:
    """The text, which holds something and no delimiter. Raises ValueError."""
    if found := DELIMITERS.search(text) or TEMPLATE_MARKS.search(text):
        raise ValueError(f"holds the delimiter {found[0]!r}, which ends a part of the critic's question")
    if text and not text.strip():
        raise ValueError("holds nothing but white space")
    return text


class Shot(_Strict):
    """A worked example. Where critique and revision are empty, the critic finds nothing to object to."""

    prompt: str = Field(min_length=1, max_length=LONGEST, description="what the user wrote")
    answer: str = Field(min_length=1, max_length=LONGEST, description="what was answered")
    critique: str = Field("", max_length=LONGEST, description="what is wrong with the answer")
    revision: str = Field("", max_length=LONGEST, description="the better answer")

    _checked = field_validator("prompt", "answer", "critique", "revision")(_plain)

    @model_validator(mode="after")
    def _both(self) -> Shot:
        if bool(self.critique) != bool(self.revision):
            raise ValueError("has a critique without a revision, or a revision without a critique")
        return self


class Examples(_Strict):
    """Worked examples of a principle."""

    good: list[Shot] = Field(default_factory=list, description="answers that keep it")
    bad: list[Shot] = Field(default_factory=list, description="answers that break it, each with its revision")


class Scope(_Strict):
    """The prompts that a principle is about. An empty scope holds all of them."""

    prompts: str | None = Field(None, max_length=500, description="regular expression on the user's words")
    labels: list[str] = Field(
        default_factory=list, description="safe, unsafe, or names of the world's parts, such as advice"
    )

    @field_validator("prompts")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is not a regular expression ({error})") from error
        return value

    def holds(self, prompt: Prompt) -> bool:
        """Whether a prompt lies in it: by its words, and by one of its labels."""
        if self.prompts is not None and re.search(self.prompts, asked(prompt), re.I) is None:
            return False
        if not self.labels:
            return True
        known = labels_of(prompt)
        safety = known.safety or str(prompt.metadata.get("safety", ""))
        return bool({safety, *known.slices} & set(self.labels))


class Above(_Strict):
    """A priority by names: it outranks these principles."""

    above: list[str] = Field(min_length=1, description="ids of the principles that it outranks")


class Principle(_Strict):
    """One rule, in words that a critic, a reviser and a judge are given."""

    id: str = Field(description="short name, by which it is drawn: small letters, digits, - and _")
    text: str = Field(min_length=1, description="the rule itself, one or two sentences")
    critique: str = Field("", max_length=LONGEST, description="what the critic is asked; default: from text")
    revision: str = Field("", max_length=LONGEST, description="what the reviser is asked; default: from text")
    compare: str = Field("", max_length=LONGEST, description="what a judge is asked; default: from text")
    priority: StrictInt | Above = Field(
        1, description="1 decides before 2, and so on; or {above: [ids]}. Equal ones are weighed"
    )
    weight: float = Field(
        1.0, gt=0, le=1000, description="how often it is drawn, and its weight among equals"
    )
    scope: Scope = Field(default_factory=Scope, description="the prompts that it is about; default: all")
    exceptions: list[str] = Field(default_factory=list, description="cases in which it does not hold")
    source: str = Field("", max_length=500, description="where it comes from")
    examples: Examples = Field(default_factory=Examples, description="worked examples, shown to the critic")

    @field_validator("id")
    @classmethod
    def _name(cls, value: str) -> str:
        if ID.fullmatch(value) is None:
            raise ValueError("is not a name: use small letters, digits, - and _")
        return value

    @field_validator("text")
    @classmethod
    def _short(cls, value: str) -> str:
        if len(value) > LONGEST:
            raise ValueError(f"has {len(value)} characters, and a principle has at most {LONGEST}")
        return _plain(value)

    _checked = field_validator("critique", "revision", "compare")(_plain)

    @field_validator("exceptions")
    @classmethod
    def _each(cls, value: list[str]) -> list[str]:
        if long := [v for v in value if len(v) > LONGEST]:
            raise ValueError(f"has {len(long[0])} characters, and an exception has at most {LONGEST}")
        return [_plain(v) for v in value]

    @property
    def question(self) -> str:
        """What alone counts when two answers are compared."""
        return self.compare or self.rule

    @property
    def rule(self) -> str:
        """The text with its exceptions."""
        return " ".join([self.text.strip(), *(f"Except: {e.strip()}" for e in self.exceptions)])


class Constitution(_Strict):
    """The whole document."""

    version: Literal[1] = Field(description="of this format")
    name: str = Field(min_length=1, max_length=100, description="what people call it")
    licence: str = Field("", max_length=200, description="under which its words may be used")
    principles: list[Principle] = Field(
        description="at least one; ids are distinct, and priorities run in no circle"
    )

    @field_validator("principles")
    @classmethod
    def _some(cls, value: list[Principle]) -> list[Principle]:
        if not value:
            raise ValueError("is empty: a constitution has at least one principle")
        ids = [p.id for p in value]
        if twice := next((i for i in ids if ids.count(i) > 1), ""):
            raise ValueError(f"holds two principles with the id {twice!r}")
        tiers(value)
        return value

    @cached_property
    def tiers(self) -> Mapping[str, int]:
        """Rank by id: principles of a lower one decide before those of a higher one."""
        return tiers(self.principles)

    @property
    def fingerprint(self) -> str:
        """Hash of everything in it."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def about(self, prompt: Prompt) -> list[Principle]:
        """The principles whose scope holds a prompt."""
        return [p for p in self.principles if p.scope.holds(prompt)]

    def principle(self, name: str) -> Principle | None:
        """The principle of this id."""
        return next((p for p in self.principles if p.id == name), None)

    def without(self, name: str) -> Constitution:
        """The same constitution without one principle, whose places in priorities fall away."""
        kept = []
        for principle in self.principles:
            rank = principle.priority
            if isinstance(rank, Above):
                others = [i for i in rank.above if i != name]
                rank = Above(above=others) if others else self.tiers[principle.id]
            kept.append(principle.model_copy(update={"priority": rank}))
        rest = [p for p in kept if p.id != name]
        return Constitution(version=1, name=self.name, licence=self.licence, principles=rest)


def tiers(principles: Sequence[Principle]) -> dict[str, int]:
    """Rank by id. Raises ValueError where a priority names nobody, itself, one twice, or runs in a circle."""
    known = {p.id: p.priority for p in principles}
    found: dict[str, int] = {}

    def rank(name: str, way: tuple[str, ...]) -> int:
        if name in way:
            raise ValueError(f"has priorities that run in a circle: {' above '.join([*way, name])}")
        priority = known[name]
        if name not in found:
            found[name] = priority if isinstance(priority, int) else _below(name, priority, way)
        return found[name]

    def _below(name: str, priority: Above, way: tuple[str, ...]) -> int:
        for other in priority.above:
            if other not in known:
                raise ValueError(f"has a priority of {name!r} above {other!r}, which is not a principle")
            if priority.above.count(other) > 1:
                raise ValueError(f"has a priority of {name!r} that names {other!r} twice")
        return min(rank(other, (*way, name)) for other in priority.above) - 1

    for name in known:
        rank(name, ())
    return found


def asked(prompt: Prompt) -> str:
    """The user's last words."""
    if prompt.text is not None:
        return prompt.text
    return next((m["content"] for m in reversed(prompt.messages) if m["role"] == "user"), "")
