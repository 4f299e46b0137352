"""The two public JSON layouts of constitutions, read and written.

revisions   {id: {"prompt": [critique, ...], "edit_request": revision}}; the published lists of principles
pairs       {"constitutions": [{"critic": critique, "revision": revision}], "system_chat": [[turn]]}
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kilter.constitution.document import Constitution
from kilter.errors import UserError
from kilter.feedback.judge.prompts import TURN

log = logging.getLogger("kilter")

Raw = dict[str, Any]


def imported(raw: Any, path: Path, field: str = "constitution") -> Raw:
    """Fields of a Constitution from either layout, told by its keys. Raises UserError."""
    if isinstance(raw, dict) and "principles" in raw:
        return raw
    try:
        if isinstance(raw, dict) and "constitutions" in raw:
            return _document(path, _pairs(raw, path))
        if isinstance(raw, dict) and raw and all(_is_revision(v) for v in raw.values()):
            return _document(path, _revisions(raw))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            field, str(path), f"is damaged ({type(error).__name__}: {error})", "correct that entry"
        ) from error
    raise UserError(
        field,
        str(path),
        "has neither of the two known layouts",
        'write {"NAME": {"prompt": ["..."], "edit_request": "..."}}, or '
        '{"constitutions": [{"critic": "...", "revision": "..."}]}',
    )


def _is_revision(value: Any) -> bool:
    return isinstance(value, dict) and "prompt" in value and "edit_request" in value


def _document(path: Path, principles: list[Raw]) -> Raw:
    return {"version": 1, "name": path.stem, "principles": principles}


def _revisions(raw: Mapping[str, Raw]) -> list[Raw]:
    """Several critiques of one entry are alternatives: each becomes a principle of its own."""
    found: list[Raw] = []
    for name, entry in raw.items():
        critiques = [entry["prompt"]] if isinstance(entry["prompt"], str) else entry["prompt"]
        for n, critique in enumerate(critiques):
            own = _id(name) if n == 0 else f"{_id(name)}-{n + 1}"
            found.append(_principle(own, critique, entry["edit_request"]))
    return found


def _pairs(raw: Mapping[str, Any], path: Path) -> list[Raw]:
    """Dialogues belong to the principle whose critique they ask; published files hold some of none."""
    found = [_principle(f"p{n}", p["critic"], p["revision"]) for n, p in enumerate(raw["constitutions"], 1)]
    lost = 0
    for dialogue in raw.get("system_chat", ()):
        asked, shot = _dialogue([(str(t["role"]), str(t["content"])) for t in dialogue])
        owner = next((p for p in found if p["critique"].strip() == asked.strip()), None)
        lost += owner is None
        if owner is not None:
            owner["examples"]["bad"].append(shot)
    if lost:
        log.warning("%s: %d dialogues ask for the critique of no principle here: left out", path, lost)
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


def _id(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-")[:50] or "p"


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
