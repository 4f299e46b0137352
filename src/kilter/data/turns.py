"""Turns of a conversation, in every spelling, to messages as chat templates take them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kilter.data.row import (
    OBJECT,
    TRUE,
    Row,
    RowError,
    is_empty,
    is_missing,
    label,
    listed,
    number,
    opened,
    twice,
    unpacked,
)
from kilter.types import Message
from kilter.validation import RepeatedKeyError

ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "bing": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}

CALLS = ("function_call", "tool_call")
"""Roles of ShareGPT turns whose words are calls, written as JSON."""

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of what an assistant turn thought before it spoke."""

MEDIA = re.compile(
    r"(input_)?(image|img|picture|photo|video|audio)s?(_(url|uri|path|file|data|base64|b64|bytes)s?)?"
    r"|pixel_values.*|jpe?g|png|gif|webp|mp4|wav|mp3|flac|pdf",
    re.IGNORECASE,
)
"""Columns, keys of a turn and types of parts that hold, or name, what a text model cannot read."""

_ATTACHED = re.compile(r"(input_)?files?|attachments?|media")
"""Keys that mean the same in a turn; a column of such a name may be the file that a row comes from."""

MARKS = ("train", "training", "trainable", "loss", "loss_mask")
"""Keys of an assistant turn that say whether it is learned."""

DETAILS = ("train_detail", "training_detail")
"""Keys of a turn that say which of its characters are learned (Axolotl)."""

READ = {
    "role",
    "from",
    "content",
    "value",
    "refusal",
    "tool_calls",
    "function_call",
    "tool_call_id",
    "name",
} | {
    *THOUGHTS,
    "weight",
    *MARKS,
    *DETAILS,
}
"""Keys of a turn that are read; others are listed."""


_MARK = re.compile(r"\n\n(Human|Assistant): ?")
_DIALOGUE = re.compile(r"\s*Human:.*?\n\nAssistant:", re.DOTALL)

BECAME_TURNS = "a prompt of HH's text (Human: ... Assistant:) becomes turns"
"""Said of rows whose plain-text prompt is a dialogue."""


_STEERED = re.compile(r"(?:^|\n)<extra_id_1>(User|Assistant)\n")

STEERED = "a prompt of HelpSteer's text (<extra_id_1>User, <extra_id_1>Assistant) becomes turns"
"""Said of rows whose plain-text prompt holds several turns as HelpSteer and NeMo write them."""


def _steered(text: str) -> tuple[Message, ...]:
    """The turns of HelpSteer's text, which wait for an answer; () for any other text.

    The first turn is the user's and may lack its mark. The mark of the answer may stand at the end.
    """
    begin, *pieces = _STEERED.split(text + "\n" if text.endswith("<extra_id_1>Assistant") else text)
    pairs = [*zip(pieces[::2], pieces[1::2], strict=True)]
    if begin.strip():
        pairs = [("User", begin), *pairs]
    if pairs and pairs[-1][0] == "Assistant" and not pairs[-1][1].strip():
        pairs = pairs[:-1]
    roles = [role for role, _ in pairs]
    in_turn = roles == ["User", "Assistant"] * (len(roles) // 2) + ["User"]
    if not pieces or not in_turn or not all(said.strip() for _, said in pairs):
        return ()
    return tuple(Message(role=role.lower(), content=said.strip()) for role, said in pairs)


def is_dialogue(value: Any) -> bool:
    """Whether a text is HH-RLHF's "\\n\\nHuman: ... \\n\\nAssistant: ...", and does not just mention it."""
    return isinstance(value, str) and _DIALOGUE.match(value) is not None


def dialogue(text: str, field: str) -> tuple[Message, ...]:
    """HH-RLHF's text to turns. Raises RowError for any other text."""
    pieces = _MARK.split(text if text.startswith("\n\n") else "\n\n" + text)
    if len(pieces) < 3 or pieces[0].strip():
        raise RowError(field, "is not HH text ('\\n\\nHuman: ...\\n\\nAssistant: ...')")
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(
        Message(role=roles[r], content=c.strip()) for r, c in zip(pieces[1::2], pieces[2::2], strict=True)
    )


def asked(text: str, say: Callable[[str], object] | None = None) -> tuple[Message, ...]:
    """A plain-text prompt as turns: those of a dialogue that waits for an answer, else one user turn.

    say: is told where the text was a dialogue.
    """
    if is_dialogue(text):
        found = dialogue(text, "prompt")
        # The mark of the answer that is asked for has nothing behind it.
        found = found[: len(found) - (not found[-1]["content"])]
        if found and found[-1]["role"] == "user" and all(m["content"] for m in found):
            if say is not None:
                say(BECAME_TURNS)
            return found
    if steered := _steered(text):
        if say is not None:
            say(STEERED)
        return steered
    return (Message(role="user", content=text),)


def looks_like_turns(value: Any) -> bool:
    """Whether a value is a list of turns, or was one before it was written into a text column."""
    if isinstance(value, str):
        return bool(_TURNS.match(value)) or are_turns(unpacked(value))
    # A list may hold nulls, in front as well: they are no turns.
    given = (v for v in value if v is not None) if isinstance(value, Sequence) else iter(())
    return isinstance(next(given, None), Mapping)


def only_asks(value: Any) -> bool:
    """Whether turns hold no answer, so that they are a prompt."""
    found = opened(value)
    given = [t for t in found if isinstance(t, Mapping)] if isinstance(found, list) else []
    roles = [ROLES.get(str(t.get("role") or t.get("from")).lower()) for t in given]
    return "user" in roles and "assistant" not in roles


def are_turns(found: Any) -> bool:
    """Whether what a text held is one turn or a list of them, in whatever order their keys stand."""
    if isinstance(found, Mapping):
        return bool({"role", "from"} & found.keys() and SAID & found.keys())
    turns = [turn for turn in found if turn is not None] if isinstance(found, list) else []
    return bool(turns) and all(map(are_turns, turns))


SAID = {"content", "value", "tool_calls", "function_call", "refusal"}
"""Keys that hold what a turn says."""

_TURNS = re.compile(r"""\s*\[\s*\{\s*["'](role|from|content|value)["']\s*:""")


def turns(value: Any, field: str, row: Row | None = None) -> tuple[Message, ...]:
    """OpenAI ({role, content}) or ShareGPT ({from, value}) turns to messages.

    Args:
        value: a list of turns, one turn, either of them written as text, or HH-RLHF's text.
        field: the column, for messages.
        row: notes the keys that are not read.

    Raises:
        RowError: a turn has no role, no content, or holds what a text model cannot read.
    """
    found = unpacked(value) if isinstance(value, str) else value
    if is_dialogue(found):
        return dialogue(found, field)
    if isinstance(found, Mapping):
        found = [found]
    if not isinstance(found, Sequence | str):
        raise RowError(field, f"should be text or turns, found {type(found).__name__}")
    if isinstance(found, str) or len(found) == 0:
        broken = isinstance(found, str) and looks_like_turns(found)
        raise RowError(
            field,
            "holds turns that cannot be read as JSON" if broken else "should be a non-empty list of turns",
        )
    made: list[Message] = []
    gap = -1
    for i, turn in enumerate(_unfolded(found, field, row)):
        if turn is None:
            gap = i
            continue
        if not isinstance(turn, Mapping):
            kind = type(turn).__name__
            raise RowError(f"{field}[{i}]", f"should be a turn with role and content, found {kind}")
        made.append(_turn(turn, f"{field}[{i}]"))
        if gap == i - 1:
            _refuse_gap(made, f"{field}[{gap}]")
        if row is not None and made[-1]["role"] != "assistant" and _marked(turn):
            row.said.add(f"a {made[-1]['role']} turn marked to be learned is not: assistant turns alone are")
        if row is not None:
            row.unread |= {f"{field}[].{key}": None for key in turn if key not in READ}
    if not made:
        raise RowError(field, "should be a non-empty list of turns")
    return tuple(made)


ROUNDS = (("input", "output"), ("human", "assistant"), ("user", "assistant"), ("prompt", "response"))
"""Keys of a round of a conversation: what is asked, and what is answered (Capybara)."""


def _unfolded(found: Sequence[Any], field: str, row: Row | None) -> Sequence[Any]:
    """The turns of a list of rounds; a list of turns as it is. Raises RowError for a round between turns."""
    rounds = [_round(item) for item in found]
    if not any(rounds):
        return found
    made: list[Any] = []
    for i, (item, keys) in enumerate(zip(found, rounds, strict=True)):
        if item is None:
            continue
        if keys is None:
            raise RowError(f"{field}[{i}]", "should be a round, as the others are")
        asks, answers = (
            {"role": role, "content": item.get(key)} for role, key in zip(SPEAKERS, keys, strict=True)
        )
        answers |= {"train": item.get(WITH_LOSS)}
        if i == 0 and (system := item.get("system")):
            made.append({"role": "system", "content": system})
        # A last round without an answer waits for one.
        made += [asks] if answers["content"] is None and i == len(found) - 1 else [asks, answers]
        if row is not None:
            read = {*keys, WITH_LOSS, *(["system"] if i == 0 else [])}
            row.unread |= {f"{field}[].{key}": None for key in item if key not in read}
    return made


SPEAKERS = ("user", "assistant")

WITH_LOSS = "output_with_loss"
"""Key of a round that says whether its answer is learned (XTuner)."""


def are_rounds(value: Any) -> bool:
    """Whether a value is a list of rounds, or was one before it was written into a text column."""
    found = opened(value)
    rounds = [item for item in found if item is not None] if isinstance(found, list) else []
    return bool(rounds) and all(map(_round, rounds))


def _round(item: Any) -> tuple[str, str] | None:
    """The keys of a round; None for anything else."""
    if not isinstance(item, Mapping) or {"role", "from"} & item.keys():
        return None
    return next((keys for keys in ROUNDS if keys[0] in item), None)


def _refuse_gap(made: Sequence[Message], where: str) -> None:
    """Raises RowError for a null between two turns of one side: what the other said is lost.

    Any other null is no turn, such as what pads a list.
    """
    role = made[-1]["role"]
    if role in ("user", "assistant") and len(made) > 1 and made[-2]["role"] == role:
        raise RowError(where, f"is null between two turns of role {role}, where another turn should stand")


def _turn(turn: Mapping[str, Any], where: str) -> Message:
    """One turn with everything that a chat template shows of it, and whether it is learned."""
    given = turn.get("role") or turn.get("from")
    if not isinstance(given, str) or given.lower() not in ROLES:
        known = ", ".join(sorted(ROLES))
        raise RowError(f"{where}.role", f"has the unknown role {given!r}; known: {known}")
    role = ROLES[given.lower()]
    held = (k for k in turn if MEDIA.fullmatch(k) or _ATTACHED.fullmatch(k))
    media = next((k for k in held if not is_empty(turn[k] or None)), None)
    if media is not None:
        raise RowError(f"{where}.{media}", f"holds {media}, which a text model cannot read")
    detail = next((k for k in DETAILS if not is_empty(turn.get(k))), None)
    if detail is not None:
        fix = "remove the key, or mark whole turns by train: true or false"
        raise RowError(
            f"{where}.{detail}", "has marks for parts of a turn, which is learned as a whole", fix=fix
        )
    # OpenAI writes a refusal in a key of its own, beside a content that is null.
    words = next((turn[k] for k in ("content", "value", "refusal") if turn.get(k)), turn.get("content"))
    words = turn.get("value") if words is None else words
    content, thought = _content(words, f"{where}.content")
    calls = _calls(turn, where)
    if given.lower() in CALLS and not calls:
        calls = tool_calls(content, f"{where}.value")
        content = ""
    thought = thought or next((turn[k] for k in THOUGHTS if isinstance(turn.get(k), str) and turn[k]), "")

    # A turn that calls or thinks need not speak. Any other has to.
    if content is None and not calls and not thought:
        raise RowError(f"{where}.content", "should be text, found nothing")
    message = Message(role=role, content=content or "")
    if calls:
        message["tool_calls"] = calls
    if thought:
        message["reasoning_content"] = thought
    if not is_missing(turn.get("tool_call_id")):
        message["tool_call_id"] = str(turn["tool_call_id"])
    if not is_missing(turn.get("name")):
        message["name"] = str(turn["name"])
    if role == "assistant" and not _learned(turn, where):
        message["train"] = False
    return message


def _content(value: Any, field: str) -> tuple[str | None, str]:
    """(words, thoughts) of a turn's content: text, or a list of parts. Raises RowError for other parts."""
    if value is None or isinstance(value, str):
        return value, ""
    if not isinstance(value, Sequence):
        raise RowError(field, f"should be text, found {type(value).__name__}")
    words: list[str] = []
    thoughts: list[str] = []
    for part in value:
        if part is None:
            continue
        if isinstance(part, str):
            words.append(part)
            continue
        kind = _kind_of_part(part, field)
        (thoughts if kind == "thinking" else words).append(part[kind])
    # A list of nothing but nulls says nothing at all.
    empty = bool(value) and all(part is None for part in value)
    return None if empty else "".join(words), "".join(thoughts)


def _kind_of_part(part: Any, field: str) -> str:
    """The key that holds a part's words. Raises RowError for what is not words."""
    if not isinstance(part, Mapping):
        raise RowError(field, f"should be text, found a part of type {type(part).__name__}")
    kind = part.get("type", "text")
    held = (k for k in part if MEDIA.fullmatch(k) and not is_empty(part[k]))
    media = kind if MEDIA.fullmatch(str(kind)) else next(held, None)
    if media is not None:
        raise RowError(field, f"holds a part of type {media}, which a text model cannot read")
    key = {"input_text": "text", "output_text": "text"}.get(kind, kind)
    if key not in ("text", "thinking") or not isinstance(part.get(key), str):
        raise RowError(field, f"holds a part of type {kind}, which cannot be read")
    return str(key)


def _calls(turn: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """What a turn calls: `tool_calls`, or `function_call` as OpenAI wrote it before."""
    for key in ("tool_calls", "function_call"):
        if turn.get(key):
            return tool_calls(turn[key], f"{where}.{key}")
    return []


def tool_calls(value: Any, field: str) -> list[dict[str, Any]]:
    """Calls in every spelling as chat templates take them. Raises RowError."""
    found = unpacked(value) if isinstance(value, str) else value
    if isinstance(found, Mapping):
        found = [found]
    if not isinstance(found, list) or not all(isinstance(c, Mapping | None) for c in found):
        raise RowError(field, "should be a list of calls, each with name and arguments")
    return [_call(call, f"{field}[{i}]") for i, call in enumerate(found) if call is not None]


def _call(call: Mapping[str, Any], field: str) -> dict[str, Any]:
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError(field, "should have a function with a name and arguments")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = OBJECT.decode(arguments.strip()) if arguments.strip() else {}
        except RepeatedKeyError as error:
            raise twice(error) from None
        except ValueError as error:
            raise RowError(f"{field}.arguments", f"is not JSON ({error})") from None
    outer = {k: v for k, v in call.items() if k in ("id", "index")}
    return {"type": "function", **outer, "function": {"name": function["name"], "arguments": arguments}}


def _learned(turn: Mapping[str, Any], where: str) -> bool:
    """Whether an assistant turn is learned, as OpenAI, Axolotl and ms-swift mark it."""
    weight = number(turn.get("weight"), f"{where}.weight")
    if weight not in (None, 0, 1):
        raise RowError(f"{where}.weight", f"should be 0 or 1, found {turn['weight']!r}")
    marks = [weight, *(label(turn.get(k), f"{where}.{k}") for k in MARKS)]
    return 0 not in marks


def _marked(turn: Mapping[str, Any]) -> bool:
    """Whether a turn of somebody else's asks to be learned."""
    return any(str(turn.get(k)).strip().lower() in TRUE for k in ("weight", *MARKS))


def tools_of(value: Any, field: str) -> tuple[Mapping[str, Any], ...]:
    """The tools that a template lists: JSON schemas of functions, as objects or as text. Raises RowError."""
    if is_missing(value):
        return ()
    found = []
    for i, item in enumerate(listed(value, field, "tools")):
        tool = unpacked(item) if isinstance(item, str) else item
        if tool is None:
            continue
        if not isinstance(tool, Mapping):
            raise RowError(f"{field}[{i}]", f"should be a tool with a name, found {type(tool).__name__}")
        found.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tuple(found)
