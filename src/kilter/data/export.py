"""Groups to rows of other tools: TRL's data set formats, ShareGPT's, and Kilter's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kilter.artifacts import append_lines, write_by
from kilter.data import store
from kilter.data.dataset import DataSpec, load
from kilter.data.formats.registry import IDS
from kilter.data.lineage import UNCERTIFIED, uncertified
from kilter.data.row import name as name_of
from kilter.errors import UserError
from kilter.types import PLAIN, Completion, Feedback, Group, Message, Prompt, Shape

Export = Callable[[Group], dict[str, Any]]
"""From a group to a row. Raises UserError for a group that the format cannot hold."""

FROM = {"user": "human", "assistant": "gpt", "tool": "observation"}
"""ShareGPT's names of roles."""


def to_trl(group: Group) -> dict[str, Any]:
    """A row as TRL's trainers read it: text, prompt, completion beside it, unpaired, preference, stepwise."""
    if group.prompt.text == "" and _kind(group) == "demonstration" and not group.completions[0].turns:
        return {"text": group.completions[0].text} | _beside(group.prompt, ("tools", []))
    plain = _is_plain(group.prompt) and all(not c.turns for c in group.completions)
    asked: Any = _text(group.prompt) if plain else _turns(group.prompt.messages)
    said = [c.text if plain else _turns(turns_of(c)) for c in group.completions]
    row = {"prompt": asked} | SIDES[_kind(group)](said, group.feedback, "completion") | _margin(group)
    return row | _beside(group.prompt, ("tools", list(group.prompt.tools)))


def to_sharegpt(group: Group) -> dict[str, Any]:
    """A row as LLaMA-Factory reads it: conversations, and chosen and rejected beside them."""
    messages = group.prompt.messages or (Message(role="user", content=group.prompt.text or ""),)
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    asked = [_share(m) for m in messages[bool(system) :]]
    kind = _kind(group)
    if kind in NOT_SHARED or not (group.prompt.messages or group.prompt.text):
        what = NOT_SHARED.get(kind, "a text without a prompt")
        raise UserError(
            "--to",
            "sharegpt",
            f"has no format for {what}",
            "keep such rows in Kilter's format, or in TRL's: --to kilter, --to trl",
        )
    said = [[_share(m) for m in turns_of(c)] for c in group.completions]
    if kind in ("demonstration", "label", "score"):
        row = {"conversations": [*asked, *said[0]]} | SIDES[kind](said, group.feedback, "")
        row.pop("", None)
    else:
        row = {"conversations": asked} | SIDES[kind](
            [s[0] if len(s) == 1 else s for s in said], group.feedback, ""
        )
    head = {"system": system} if system else {}
    return (
        row | head | _margin(group) | _beside(group.prompt, ("tools", json.dumps(list(group.prompt.tools))))
    )


KEEP = "keep such rows in Kilter's format: --to kilter"

NOT_SHARED = {"steps": "judged steps", "prompt": "a prompt without an answer"}
"""Kinds of groups that ShareGPT's format cannot hold."""

EXPORTS: dict[str, Export] = {"kilter": store.to_json, "trl": to_trl, "sharegpt": to_sharegpt}
"""By the name that `kilter data convert --to` takes."""


def write(path: Path, groups: Sequence[Group], to: str, shape: Shape) -> None:
    """A file of these groups in a tool's format, which Kilter reads as the same groups.

    Raises:
        UserError: the format has no place for a group, or what it says would be read as something else.
    """

    def written(partial: Path, change: Callable[[Group], Group] = lambda group: group) -> None:
        partial.unlink(missing_ok=True)
        append_lines(partial, (EXPORTS[to](change(g)) for g in groups), flush=True, escape=False)
        if _check_read(partial, map(change, groups), len(groups), to, shape):
            return
        # Scored answers to one prompt are joined when they are read. An answer to imitate needs no score.
        if shape != "demonstrations" or change is _unscored:
            problem = "gives fewer groups when it is read again: scored answers to one prompt are joined"
            raise UserError("--to", to, problem, KEEP)
        written(partial, _unscored)

    write_by(path, written)


def _unscored(group: Group) -> Group:
    return replace(group, feedback=tuple(Feedback(None, "demonstration") for _ in group.feedback))


def _check_read(path: Path, groups: Iterable[Group], count: int, to: str, shape: Shape) -> bool:
    """Whether a written file gives as many groups. Raises UserError where they are not the same ones."""
    try:
        found = load(DataSpec(path=str(path), heldout=0), shape, learned=False).train
    except UserError as error:
        raise UserError("--to", to, f"gives a file that Kilter cannot read: {error.problem}", KEEP) from error
    if len(found) != count:
        return False
    for place, (before, after) in enumerate(zip(groups, found, strict=True), start=1):
        lost = [n for n, v in meaning(before).items() if v != meaning(after)[n]]
        if lost:
            raise UserError("--to", to, f"would change {', '.join(lost)} of group {place}", KEEP)
    return True


def meaning(group: Group) -> dict[str, Any]:
    """What a group says, in plain values, however its format spells it."""
    prompt = group.prompt
    columns = {k: v for k, v in prompt.columns.items() if k not in ("answer", UNCERTIFIED)}
    # An id that stood inside of another column gets one of its own.
    columns = {k: v for k, v in columns.items() if k not in IDS or name_of(v) != prompt.id}
    answer = prompt.metadata.get("answer", prompt.columns.get("answer"))
    margin = prompt.metadata.get("margin") if len(group.completions) > 1 else None
    found = {
        "the prompt": (prompt.text, prompt.messages),
        "the tools": prompt.tools,
        "chat_template_kwargs": prompt.template_kwargs,
        "the id": prompt.id,
        "the margin": margin,
        "the columns": columns,
        "the column answer": answer,
        "the judges": uncertified(prompt),
        "the answers": [turns_of(c) for c in group.completions],
        "the scores": [f.score for f in group.feedback],
        "the labels": [f.score is not None and f.kind in ("binary", "steps") for f in group.feedback],
        "the steps": [f.steps for f in group.feedback],
        "the odds": [round(p, 9) for f in group.feedback[:1] if (p := f.over(1)) is not None],
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def turns_of(completion: Completion) -> tuple[Message, ...]:
    """The turns of an answer; of a plain one its single turn."""
    return completion.turns or (Message(role="assistant", content=completion.text),)


def _kind(group: Group) -> str:
    """What a group is to tools that have a format per kind."""
    kinds = {f.kind for f in group.feedback}
    if not group.completions:
        return "prompt"
    if kinds == {"steps"}:
        return "steps"
    if len(group.completions) == 1:
        scored = group.feedback[0].score is not None
        return "label" if kinds == {"binary"} and scored else "score" if scored else "demonstration"
    scores = [f.score for f in group.feedback]
    if len(scores) == 2 and None not in scores and scores[0] > scores[1]:  # type: ignore[operator]
        return "pair"
    raise UserError(
        "--to",
        f"{len(scores)} answers to a prompt",
        "have no format in that tool",
        "set --shape pairs, ranked answers become pairs then",
    )


def _pair(said: Sequence[Any], feedback: Sequence[Feedback], name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"chosen": said[0], "rejected": said[1]}
    if [f.score for f in feedback] != [1.0, 0.0]:
        row |= {"score_chosen": feedback[0].score, "score_rejected": feedback[1].score}
    # A judge's odds: TRL reads no such column yet, and Kilter reads it back.
    p = feedback[0].over(1)
    return row if p is None else row | {"p": p}


def _margin(group: Group) -> dict[str, Any]:
    """How far the sides of a pair are apart; a single answer has no margin."""
    margin = group.prompt.metadata.get("margin")
    return {} if margin is None or len(group.completions) < 2 else {"margin": margin}


def _steps(said: Sequence[Any], feedback: Sequence[Feedback], name: str) -> dict[str, Any]:
    text = said[0] if isinstance(said[0], str) else said[0][-1]["content"]
    steps = text.split("\n")
    if len(steps) != len(feedback[0].steps):
        raise UserError("--to", text[:40], "has steps of several lines", KEEP)
    return {"completions": steps, "labels": [bool(s) for s in feedback[0].steps]}


SIDES: Mapping[str, Callable[[Sequence[Any], Sequence[Feedback], str], dict[str, Any]]] = {
    "prompt": lambda said, feedback, name: {},
    "demonstration": lambda said, feedback, name: {name: said[0]},
    "label": lambda said, feedback, name: {name: said[0], "label": bool(feedback[0].score)},
    "score": lambda said, feedback, name: {name: said[0], "score": feedback[0].score},
    "pair": _pair,
    "steps": _steps,
}
"""The columns of the answers, by the kind of a group."""


def _is_plain(prompt: Prompt) -> bool:
    """Whether a prompt is text as its user wrote it, with nothing before it."""
    return prompt.text is not None or bool(prompt.metadata.get(PLAIN) and len(prompt.messages) == 1)


def _text(prompt: Prompt) -> str:
    return prompt.text if prompt.text is not None else prompt.messages[-1]["content"]


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [dict(m) for m in messages]


def _share(message: Message) -> dict[str, Any]:
    """A turn in ShareGPT's words; what has no word there keeps its own name."""
    more = {k: v for k, v in message.items() if k not in ("role", "content")}
    return {"from": FROM.get(message["role"], message["role"]), "value": message["content"], **more}


def _beside(prompt: Prompt, tools: tuple[str, Any]) -> dict[str, Any]:
    """What stands beside the answers: tools, template settings, and the user's own columns."""
    row: dict[str, Any] = {} if not prompt.tools else {tools[0]: tools[1]}
    if prompt.template_kwargs:
        row["chat_template_kwargs"] = dict(prompt.template_kwargs)
    if prompt.id and not any(name in prompt.columns for name in IDS):
        row["id"] = prompt.id
    # The answer to check against may have stood in the text of the row's own answer.
    if "answer" in prompt.metadata:
        row["answer"] = prompt.metadata["answer"]
    # The format keeps no history, and labels of an uncertified judge stay what they are.
    if judges := uncertified(prompt):
        row[UNCERTIFIED] = judges
    return row | {k: v for k, v in prompt.columns.items() if k not in row}
