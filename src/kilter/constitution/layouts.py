"""The two public JSON layouts of constitutions, read and written.

revisions   {id: {"prompt": [critique, ...], "edit_request": revision}}; the published lists of principles
pairs       {"constitutions": [{"critic": critique, "revision": revision}], "system_chat": [[turn]]}
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, field_validator

from kilter.constitution.document import Constitution
from kilter.errors import UserError
from kilter.feedback.judge.prompts import TURN
from kilter.screen import warn_once
from kilter.validation import as_user_error

Raw = dict[str, Any]


class _Open(BaseModel):
    """A part of a file that others publish: a key of their own is named, and does not stop the reading."""

    model_config = ConfigDict(extra="allow")


class Entry(_Open):
    """A published principle. Its critiques are alternatives."""

    prompt: str | list[str] = Field(description="what the critic is asked, or a list of such questions")
    edit_request: str = Field(min_length=1, description="what the reviser is asked")

    @field_validator("prompt")
    @classmethod
    def _asks(cls, value: str | list[str]) -> list[str]:
        found = [value] if isinstance(value, str) else value
        if not found or not all(v.strip() for v in found):
            raise ValueError("asks nothing: it needs a text, or a list of texts")
        return found


class Revisions(RootModel[dict[str, Entry]]):
    """The layout of revisions."""


class Pair(_Open):
    """A principle of the layout of pairs."""

    critic: str = Field(min_length=1, description="what the critic is asked")
    revision: str = Field(min_length=1, description="what the reviser is asked")


class Turn(_Open):
    """A turn of a dialogue."""

    role: str = Field(description="user, assistant or system")
    content: str = Field(description="its words")


class Pairs(_Open):
    """The layout of pairs."""

    constitutions: list[Pair] = Field(min_length=1, description="a list of {critic: ..., revision: ...}")
    system_chat: list[Annotated[list[Turn], Field(min_length=6)]] = Field(
        default_factory=list,
        description="a list of dialogues: any talk, answer, critic, critique, revision, answer",
    )


def imported(raw: Any, path: Path, field: str = "constitution") -> Raw:
    """Fields of a Constitution from either layout, told by its keys. Raises UserError."""
    keys: Raw = raw if isinstance(raw, dict) else {}
    if "principles" in keys:
        return keys
    if "constitutions" in keys:
        pairs = _checked(Pairs, raw, f"{field} {path.name}")
        turns = itertools.chain.from_iterable(pairs.system_chat)
        _name_unread(path, {"": [pairs], "constitutions[].": pairs.constitutions, "system_chat[][].": turns})
        return _document(path, _pairs(pairs, path))
    if any(isinstance(v, dict) and {"prompt", "edit_request"} & v.keys() for v in keys.values()):
        entries = _checked(Revisions, raw, f"{field} {path.name}").root
        _name_unread(path, {f"{name}.": [entry] for name, entry in entries.items()})
        return _document(path, _revisions(entries))
    raise UserError(
        field,
        str(path),
        "has neither of the two known layouts",
        'write {"NAME": {"prompt": ["..."], "edit_request": "..."}}, or '
        '{"constitutions": [{"critic": "...", "revision": "..."}]}',
    )


M = TypeVar("M", bound=BaseModel)


def _checked(layout: type[M], raw: Raw, where: str) -> M:
    try:
        return layout.model_validate(raw)
    except ValidationError as error:
        raise as_user_error(error, where, layout) from error


def _name_unread(path: Path, parts: Mapping[str, Iterable[_Open]]) -> None:
    """Says which keys of a file are not known. parts: by what stands before the keys of such a part."""
    keys = (f"{before}{key}" for before, found in parts.items() for p in found for key in p.model_extra or ())
    if unread := list(dict.fromkeys(keys)):
        warn_once(f"{path}: not read: {', '.join(unread)}")


def _document(path: Path, principles: list[Raw]) -> Raw:
    return {"version": 1, "name": path.stem, "principles": principles}


def _revisions(raw: Mapping[str, Entry]) -> list[Raw]:
    """Several critiques of one entry are alternatives: each becomes a principle of its own."""
    found: dict[str, Raw] = {}
    for name, entry in raw.items():
        for critique in entry.prompt:
            own = _free(name, found)
            found[own] = _principle(own, critique, entry.edit_request)
    return list(found.values())


def _free(name: str, taken: Collection[str]) -> str:
    """A principle's id from the name of its entry, with a number where it is taken."""
    first = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50] or "p"
    numbered = (f"{first}-{k}" for k in itertools.count(2))
    return next(n for n in itertools.chain([first], numbered) if n not in taken)


def _pairs(raw: Pairs, path: Path) -> list[Raw]:
    """Dialogues belong to the principle whose critique they ask; published files hold some of none."""
    found = [_principle(f"p{n}", p.critic, p.revision) for n, p in enumerate(raw.constitutions, 1)]
    lost = 0
    for dialogue in raw.system_chat:
        asked, shot = _dialogue([(t.role, t.content) for t in dialogue])
        owner = next((p for p in found if p["critique"].strip() == asked.strip()), None)
        lost += owner is None
        if owner is not None:
            owner["examples"]["bad"].append(shot)
    if lost:
        what = "1 dialogue asks" if lost == 1 else f"{lost} dialogues ask"
        warn_once(f"{path}: {what} for the critique of no principle here: left out")
    return found


def _dialogue(turns: Sequence[tuple[str, str]]) -> tuple[str, Raw]:
    """(what is asked of the critic, the example). Critique and revision stand last, behind any talk."""
    *conversation, (_, answer), (_, asked), (_, critique), _, (_, revision) = turns
    if len(conversation) == 1:
        prompt = conversation[0][1]
    else:
        prompt = "\n\n".join(TURN.format(role=role, content=text) for role, text in conversation)
    return asked, {"prompt": prompt, "answer": answer, "critique": critique, "revision": revision}


def _principle(name: str, critique: str, revision: str) -> Raw:
    # The layouts have no rule apart from its question, so the question stands for it.
    own = {"id": name, "text": critique, "critique": critique, "revision": revision}
    return own | {"source": "imported", "examples": {"bad": []}}


def to_revisions(document: Constitution) -> Raw:
    """The layout of the published lists."""
    return {
        p.id: {"prompt": [p.critique or p.rule], "edit_request": p.revision or p.rule}
        for p in document.principles
    }


def to_pairs(document: Constitution) -> Raw:
    """The layout of critic and revision, with the worked examples as dialogues."""
    chats: list[Sequence[Raw]] = []
    for principle in document.principles:
        critique, revision = principle.critique or principle.rule, principle.revision or principle.rule
        for shot in (s for s in principle.examples.bad if s.critique):
            words = (shot.prompt, shot.answer, critique, shot.critique, revision, shot.revision)
            roles = ("user", "assistant") * 3
            chats.append([{"role": r, "content": w} for r, w in zip(roles, words, strict=True)])
    rows = [{"critic": p.critique or p.rule, "revision": p.revision or p.rule} for p in document.principles]
    return {"constitutions": rows, "system_chat": chats}


WRITERS: Mapping[str, Callable[[Constitution], Raw]] = {
    "kilter": lambda document: document.model_dump(mode="json", exclude_defaults=True) | {"version": 1},
    "revisions": to_revisions,
    "pairs": to_pairs,
}
"""By the name of the layout."""
