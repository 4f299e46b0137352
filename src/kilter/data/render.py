"""Conversations to text: ONE rendering of the whole by the model's own template, and what of it is learned.

    prompt              what the model reads before it answers: a prefix of the whole
    opening of a turn   the prompt of that turn, all turns before it included
    closing of a turn   the conversation up to its end; the turn's text lies between the two

Nothing is ever rendered alone and put together, with one exception. If what the template writes for the
finished conversation does not begin with the generation prompt, as in DeepSeek-R1's, the answer stands behind
the generation prompt, because that is where the model will write it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from functools import cache, cached_property
from typing import Any, cast

import jinja2

from kilter.errors import UserError
from kilter.types import Completion, Group, Message, Prompt

PROBE = "Kilter0probe"
"""An answer whose surroundings show how the template ends a turn."""

OPENED = re.compile(r"(<(?P<angle>\w+)>|\[(?P<square>\w+)\])\s*\Z")
"""A block that a generation prompt opens and leaves open, such as <think> or [THINK]."""

SHUT = re.compile(
    r"(?P<open><(?P<angle>\w+)>|\[(?P<square>\w+)\])\s*(?P<close></(?P=angle)>|\[/(?P=square)\])\s*\Z"
)
"""An empty block that a generation prompt opens and closes, so that the model answers without reasoning."""

TWICE = re.compile(r"\s*(?:<(\w+)>\s*</\1>\s*<\1>|\[(\w+)\]\s*\[/\2\]\s*\[\2\])")
"""A block of reasoning behind an empty one."""

MOMENT = datetime.combine(date.today(), time())
"""What a template reads from the clock: the day is right, and the same turns are always written alike."""

REPEATS = 6
"""How often the first conversation is written again, to see that a template writes it the same each time."""

CODES = [f"%{c}" for c in (*"aAbBcdDefFGhHIjklmMpPrRsSTuUVwWxXyYzZ", *(f"-{c}" for c in "dejHIlmMSUVwWy"))]
"""What a clock's format is made of."""

NEAR = 64
"""Characters at the end of a generation prompt by which it is found again: a header, and words before it."""

FINE = re.compile(r"strftime_now\([^)]*%-?[HIMSfpPXcTrRskl]")
"""A clock that shows more than the day."""

FOLDED = "chat template without system turns: they begin the first user turn"
CONTEXT = "earlier answers are context only: the chat template rewrites them"
SPLIT = "answers are rows of their own: the chat template rewrites earlier turns"
CLOSED = "answers close the block that the generation prompt opens: they bring no reasoning"
NO_TOOLS = "chat template without tools: the model sees none of them"
NO_CALLS = "chat template without tool calls: the model sees none of those in a prompt"
CLOCK = "chat template with the time of day: it is midnight in all rows"
SECOND = "answers with a block behind an empty one: the chat template reads reasoning_content alone"
NO_TURNS = "chat template without later {role} turns: the model sees none of them"
NO_REASONING = "answers with reasoning that the chat template does not write"


@dataclass(frozen=True, slots=True)
class Rendered:
    """One conversation as text, cut behind the last character that is learned.

    border: characters from the beginning that belong to the prompt, if a token ends there. learned: spans of
    characters, each an answer with its end of turn. unended: the template writes no end of turn, so that EOS
    follows. raw: text that no template touches, to which the tokenizer adds its own marks. rewritten: earlier
    answers that the template shows otherwise than the model would have written them.
    """

    text: str
    border: int
    learned: tuple[tuple[int, int], ...]
    unended: bool = False
    raw: bool = False
    rewritten: int = 0


@dataclass(frozen=True, slots=True)
class Ending:
    """How the template ends an answer.

    tail: all that it writes after the last answer; None is unknown. kept: characters of the tail that the
    model writes itself. stop: the token that ends the turn; None: the template has no such token.
    """

    tail: str | None
    kept: int = 0
    stop: int | None = None


class Renderer:
    """The conversations of one model.

    Args:
        tokenizer: with the chat template that counts.
        stop_ids: tokens that end an answer as far as the model's files say so.
        counts: is told what the template does to a conversation.
    """

    def __init__(self, tokenizer: Any, stop_ids: frozenset[int], counts: Counter[str]) -> None:
        self.tokenizer, self.stop_ids, self.counts = tokenizer, stop_ids, counts
        self._written_roles: dict[str, bool] = {}
        self._steady = False

    def render(
        self, turns: Sequence[Message], prompt: Prompt, generation: bool = False, continued: bool = False
    ) -> str:
        """The template's text of these turns.

        Args:
            turns: the conversation.
            prompt: brings tools and whatever else the template takes.
            generation: whether the header of the next answer follows.
            continued: whether the last turn is left open.

        Raises:
            UserError: the template refuses the turns.
        """
        shown: list[dict[str, Any]] = [{k: v for k, v in t.items() if k != "train"} for t in turns]
        if shown and shown[0]["role"] in ("system", "developer") and not self._writes(shown[0]["role"]):
            shown = self._folded(shown)
        options = {
            **prompt.template_kwargs,
            "tools": [dict(t) for t in prompt.tools] or None,
            "add_generation_prompt": generation,
            "continue_final_message": continued,
        }
        try:
            text = self._written(shown, options)
            if not self._steady:
                for _ in range(REPEATS):
                    self._require_same(text, self._written(shown, options))
                self._steady = True
            return text
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                "template",
                "(broken)",
                f"is not Jinja in line {error.lineno} ({' '.join(str(error).split())[:200]})",
                "mend the chat template, or give another one (--template chatml)",
            ) from error
        except UserError:  # a template that does not end says so itself
            raise
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise UserError(
                "messages",
                [m["role"] for m in turns],
                f"are turns that the chat template refuses ({' '.join(str(error).split())[:200]})",
                "merge or drop turns, or give another template",
            ) from error

    def _written(self, turns: list[dict[str, Any]], options: Mapping[str, Any]) -> str:
        try:
            return self._templated(turns, **options)
        except TypeError:  # some templates join the arguments of a call as text, as OpenAI sends them
            if not any(t.get("tool_calls") for t in turns):
                raise
            return self._templated([_with_text_arguments(t) for t in turns], **options)

    def _templated(self, turns: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """What the template writes while its clock stands still."""
        template = self.tokenizer.chat_template
        if isinstance(template, str) and "strftime_now" in template:
            options = {"chat_template": f"{_stopped_clock()}\n{template}", **options}
            if FINE.search(template):
                self.counts[CLOCK] = 1
        text: str = self.tokenizer.apply_chat_template(list(turns), **{**options, "tokenize": False})
        return text

    def _require_same(self, text: str, again: str) -> None:
        """A template that writes the same turns in two ways has no border between prompt and answer."""
        if text != again:
            place = _shared(text, again)
            raise UserError(
                "template",
                text[max(0, place - 20) : place + 20],
                "is written otherwise each time that the chat template writes the same turns",
                "remove what is random from the chat template, or give another one (--template chatml)",
            )

    def prompt(self, prompt: Prompt) -> str:
        """The text that the model reads before it answers. An assistant turn at its end is gone on from."""
        if prompt.text is not None:
            return prompt.text
        begun = prompt.begun
        text = self.render(prompt.messages, prompt, generation=not begun, continued=begun)
        self._name_unwritten(prompt, prompt.messages, text)
        return text

    def begun(self, prompt: Prompt, texts: Sequence[str]) -> list[Rendered]:
        """Each text as the beginning of an answer, behind the prompt as at generation."""
        before = self.prompt(prompt)
        end = len(before)
        raw = prompt.text is not None
        return [Rendered(before + t, end, ((end, end + len(t)),), raw=raw) for t in texts]

    def rows(self, group: Group) -> list[Rendered | None]:
        """Every completion behind its prompt; None for one whose tokens are known."""
        before = self.prompt(group.prompt)
        if group.prompt.text is None:
            return [
                self._row(group.prompt, before, c) if c.token_ids is None else None for c in group.completions
            ]
        end = len(before)
        return [
            Rendered(before + c.text, end, ((end, end + len(c.text)),), unended=True, raw=True)
            if c.token_ids is None
            else None
            for c in group.completions
        ]

    def _name_unwritten(self, prompt: Prompt, turns: Sequence[Message], text: str) -> None:
        """Notes what a context brings and the template leaves out."""
        if prompt.tools and _name(prompt.tools[0]) not in text:
            self.counts[NO_TOOLS] = 1
        calls = Counter(_name(c) for t in turns for c in t.get("tool_calls", ()))
        if any(text.count(name) < count for name, count in calls.items()):
            self.counts[NO_CALLS] = 1
        called = False
        for turn in turns[1:]:
            if turn["role"] == "assistant":
                called = bool(turn.get("tool_calls"))
            elif turn["role"] != "user" and not self._writes_later(turn["role"], called):
                self.counts[NO_TURNS.format(role=turn["role"])] = 1

    def _row(self, prompt: Prompt, before: str, completion: Completion) -> Rendered:
        """One completion of a chat, several turns included."""
        turns, first = _conversation(prompt, completion)
        answers = [n for n in range(first, len(turns)) if turns[n]["role"] == "assistant"]
        learned = [n for n in answers if turns[n].get("train", True)] or answers[-1:]
        text, start, unended = self._last(prompt, turns[: learned[-1] + 1], before, learned[-1] == first)
        calls = bool(turns[learned[-1]].get("tool_calls"))
        if unended and (stop := self._next_header(calls, text)):
            text, unended = text + stop, False
        if turns[learned[-1]].get("reasoning_content", "").strip() not in text:
            self.counts[NO_REASONING] += 1

        # An earlier answer is learned as it stands, if the model would have written it like that.
        spans, rewritten = [], 0
        for n in learned[:-1]:
            opening = before if n == first else self.render(turns[:n], prompt, generation=True)
            closing = self.render(turns[: n + 1], prompt)
            if not closing.startswith(opening):
                rewritten += 1
                continue
            end, ended = self._end(closing, len(opening))
            self._require_written(turns[n], closing[len(opening) :])
            if text.startswith(closing[:end]):
                spans.append((len(opening), end if ended else self._stopped(text, end)))
            else:
                rewritten += 1
        if turns[learned[-1]].get("train", True):
            spans.append((start, len(text)))
        self._name_unwritten(prompt, turns[: learned[-1]], text)
        return Rendered(text, _shared(before, text), tuple(spans), unended, rewritten=rewritten)

    def _last(
        self, prompt: Prompt, turns: Sequence[Message], before: str, is_first: bool
    ) -> tuple[str, int, bool]:
        """(text up to the end of the last turn, where that turn begins, whether it lacks an end of turn)."""
        opening = before if is_first else self.render(turns[:-1], prompt, generation=True)
        whole = self.render(turns, prompt)
        begun = is_first and prompt.begun
        if whole.startswith(opening):
            self._require_written(turns[-1], whole[len(opening) :], begun)
            end, ended = self._end(whole, len(opening))
            block = SHUT.search(opening) or OPENED.search(opening)
            if TWICE.match(whole, block.start() if block else len(opening)):
                self.counts[SECOND] += 1
            return whole[:end], len(opening), not ended

        # Behind a block that is closed already, reasoning has no place.
        bare = None if begun else _without_thought(opening, turns[-1], whole)
        if bare is not None:
            self.counts[NO_REASONING] += 1
            return self._last(prompt, [*turns[:-1], bare], before, is_first)

        # The template shows a finished answer in another way than it asks for one.
        probe = cast(Message, {**turns[-1], "content": PROBE})
        header = "" if begun else self.render([*turns[:-1], probe], prompt)
        header = header[: max(0, header.rfind(PROBE))]
        fits = bool(header) and whole.startswith(header)
        if fits and (start := _asked_at(opening, header)):
            end, ended = self._end(whole, start)
            self._require_written(turns[-1], whole[start:end])
            return opening + whole[start:end], len(opening), not ended
        shut = fits and (opening.startswith(header) or SHUT.search(opening) is not None)
        if not begun and not shut and OPENED.search(opening) is None:
            raise _misplaced(turns[-1])
        if not fits:
            header = whole[: _shared(opening, whole)]
        end, ended = self._end(whole, len(header))
        written = whole[len(header) : end]
        self._require_written(turns[-1], written, begun)
        if begun:
            said = turns[-1]["content"][len(prompt.messages[-1]["content"]) :]
            return opening + said + whole[self._content_end(whole) : end], len(opening), not ended
        return opening + self._continued(prompt, opening, turns, written), len(opening), not ended

    def _continued(self, prompt: Prompt, opening: str, turns: Sequence[Message], written: str) -> str:
        """An answer as the model writes it behind a generation prompt that the template does not repeat.

        Args:
            prompt: brings what the template takes beside the turns.
            opening: the generation prompt.
            turns: the conversation up to the answer.
            written: what the template makes of it, after the turn's header and up to the end of turn.
        """
        block = OPENED.search(opening)
        if block is None:
            return written
        tag = block.group().strip()
        close = f"</{block['angle']}>" if block["angle"] else f"[/{block['square']}]"
        content, reasoning = turns[-1]["content"], turns[-1].get("reasoning_content", "")

        # Reasoning that the template left out or moved stands in the block that is open already.
        if reasoning and reasoning.strip() not in written:
            return f"{reasoning.strip()}\n{close}\n\n{written.lstrip()}"
        if close in written:
            return _without(block.group(), tag, written)
        if close in content:
            thought, said = content.split(close, 1)
            gap = said[: len(said) - len(said.lstrip())]
            rest = written if written.startswith(gap) else gap + written.lstrip()
            return _without(block.group(), tag, thought) + close + rest
        if content.lstrip().startswith(tag):
            return _without(block.group(), tag, written)
        self.counts[CLOSED] += 1

        # The template closes the block as it does behind reasoning, if it ever writes any.
        thoughtful = cast(Message, {**turns[-1], "reasoning_content": PROBE})
        whole = self.render([*turns[:-1], thoughtful], prompt)
        if whole.startswith(opening + PROBE):
            return whole[len(opening + PROBE) : self._end(whole, len(opening))[0]]
        return f"\n{close}\n\n{written.lstrip()}"

    def split(self, group: Group) -> list[Group]:
        """One group per answer of its only completion: each as the model is asked for it."""
        (completion,), prompt = group.completions, group.prompt
        turns, first = _conversation(prompt, completion)
        answers = [
            n
            for n in range(first, len(turns))
            if turns[n]["role"] == "assistant" and turns[n].get("train", True)
        ]
        self.counts[SPLIT] += len(answers)
        rows = []
        for n in answers:
            own, asked = turns[n], replace(prompt, messages=tuple(turns[:n]))
            if n == first and prompt.begun:
                asked, said = prompt, own["content"][len(prompt.messages[-1]["content"]) :]
                own = cast(Message, {**own, "content": said})
            plain = own.keys() <= {"role", "content", "train"}
            answer = replace(completion, text=own["content"], turns=() if plain else (own,))
            rows.append(replace(group, prompt=asked, completions=(answer,)))
        return rows

    def _end(self, closing: str, start: int) -> tuple[int, bool]:
        """(where an answer ends in its closing, whether a token of the template ends it).

        start: where the answer begins.
        """
        tail = self.ending.tail
        if tail is not None and closing.endswith(tail) and len(closing) - len(tail) >= start:
            return len(closing) - len(tail) + self.ending.kept, self.ending.stop is not None

        # A call of a tool may end otherwise than an answer does: then the template's last token ends it.
        shown = closing.rstrip()
        if len(shown) > start and any(shown.endswith(mark) for mark in self._marks):
            return len(shown), True
        return max(start, len(shown)), False

    def _stopped(self, text: str, end: int) -> int:
        """Where an earlier answer ends that nothing but the header of the next turn ends, as in GLM-4's."""
        rest = text[end:].lstrip()
        stop = next((m for m in self._marks if self._marks[m] in self.stop_ids and rest.startswith(m)), "")
        return len(text) - len(rest) + len(stop) if stop else end

    def _next_header(self, calls: bool, text: str) -> str:
        """The stop id that begins the header of the turn behind the last one; nothing where none does.

        A user's turn follows an answer, and a tool's turn a call.
        """
        between = self._between[calls]
        place, stop = max(
            ((between.rfind(m), m) for m in self._marks if self._marks[m] in self.stop_ids), default=(-1, "")
        )
        # The header stands right behind what the answer ends with, or it is another turn's.
        said = between[: max(0, place)].rstrip()
        if place < 0 or (said and not calls):
            return ""
        gap = between[len(said) : place]
        return stop if text.endswith(gap) else gap + stop

    @cached_property
    def _between(self) -> tuple[str, str]:
        """What the template writes between an answer's words, or a call's, and those of the next turn."""
        call = {"type": "function", "id": "0", "function": {"name": "f", "arguments": {}}}
        asked, answered = {"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}
        found = {"role": "tool", "content": PROBE, "name": "f", "tool_call_id": "0"}
        return (
            self._before_probe(asked, answered, asked),
            self._before_probe(asked, {**answered, "tool_calls": [call]}, found),
        )

    def _before_probe(self, *turns: dict[str, Any]) -> str:
        """What stands between the last two probes; nothing where the template refuses or drops one."""
        try:
            text = self._written(list(turns), {})
        except (jinja2.TemplateError, TypeError, ValueError):
            return ""
        return text.split(PROBE)[-2] if text.count(PROBE) == len(turns) else ""

    def _content_end(self, whole: str) -> int:
        tail = self.ending.tail
        return len(whole) - len(tail) if tail is not None and whole.endswith(tail) else len(whole.rstrip())

    def _require_written(self, turn: Message, written: str, begun: bool = False) -> None:
        """What the template leaves out of an answer would be learned as an empty one.

        begun: the answer's beginning is in the prompt, so that what is written may be its end of turn alone.
        """
        if not begun and not self._says(turn["content"], written):
            raise UserError(
                "template",
                " ".join(turn["content"].split())[:60],
                "is an answer that the chat template does not write: an empty one would be learned",
                "give another template (--template chatml), or mend the model's own",
            )
        calls = Counter(_name(call) for call in turn.get("tool_calls", ()))
        for name, count in calls.items():
            if written.count(name) < count:
                raise UserError(
                    "tool_calls",
                    name,
                    "is a call that the chat template does not write",
                    "give a template that writes tool calls, or leave such rows out",
                )

    def _says(self, content: str, written: str) -> bool:
        """Whether anything of a turn's words is in what the template writes for it."""
        words = content.split()
        if not words or words[0] in written or words[-1] in written:
            return True
        # Some templates write another case or form. Tokens of the template alone are no words.
        for mark in self._marks:
            written, content = written.replace(mark, ""), content.replace(mark, "")
        return bool(written.strip()) or not content.strip()

    @cached_property
    def _marks(self) -> dict[str, int]:
        """The tokens that are not ordinary text, by their text."""
        tokenizer = self.tokenizer
        special = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
        return {str(t): int(n) for t, n in [*tokenizer.get_added_vocab().items(), *special] if t}

    def _writes(self, role: str) -> bool:
        """Whether the template writes a first turn of this role, and neither refuses nor drops it."""
        if role not in self._written_roles:
            turns = [{"role": role, "content": PROBE}, {"role": "user", "content": "x"}]
            try:
                text = self._templated(turns)
            except (jinja2.TemplateError, TypeError, ValueError):
                text = ""
            self._written_roles[role] = PROBE in text
        return self._written_roles[role]

    def _writes_later(self, role: str, called: bool) -> bool:
        """Whether the template shows a turn of this role behind others; one that refuses it does not hide it.

        called: whether the answer before it calls a tool.
        """
        name = f"{role} behind {'calls' if called else 'words'}"
        if name not in self._written_roles:
            call = {"type": "function", "id": "0", "function": {"name": "f", "arguments": {}}}
            asked, answered = {"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}
            calls = {"role": "assistant", "content": "", "tool_calls": [call]}
            more = {"name": "f", "tool_call_id": "0"} if role == "tool" else {}
            turns = [asked, calls if called else answered, {"role": role, "content": PROBE, **more}]
            try:
                text = self._written(turns if role == "tool" else [*turns, asked], {})
            except (jinja2.TemplateError, TypeError, ValueError):
                text = PROBE
            self._written_roles[name] = PROBE in text
        return self._written_roles[name]

    def _folded(self, turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The first user turn begins with the system turn's text, where the template knows no such turn."""
        first, rest = turns[0], turns[1:]
        if self._writes("system"):
            return [{**first, "role": "system"}, *rest]
        self.counts[FOLDED] = 1
        if rest and rest[0]["role"] == "user":
            return [{**rest[0], "content": f"{first['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
        return [{**first, "role": "user"}, *rest]

    @cached_property
    def ending(self) -> Ending:
        """How the template ends the last answer of a conversation."""
        asked, answered = {"role": "user", "content": "x"}, {"role": "assistant", "content": PROBE}
        tail, history = self._after_probe(asked, answered), self._after_probe(asked, answered, asked)
        if tail is None:
            return Ending(None)

        # What ends an earlier answer too ends the turn. What follows ends the text, as in Phi-3's template.
        common = tail if history is None else tail[: _shared(tail, history)]
        pool = [m for m in self._marks if m in common] or [m for m in self._marks if m in tail]
        special = set(self.tokenizer.all_special_ids)
        stops = [m for m in pool if self._marks[m] in self.stop_ids]
        if stops:
            mark = min(stops, key=lambda m: (tail.find(m), -len(m)))
        elif known := [m for m in pool if self._marks[m] in special] or pool:
            # A template that asks for the next answer unasked ends with the header of that one.
            probe, said = {"role": "user", "content": PROBE}, {"role": "assistant", "content": "x"}
            asks = self._after_probe(probe, said) == f"{tail}x{tail}"
            mark = (min if asks else max)(known, key=lambda m: (tail.find(m), len(m)))
        else:
            return Ending(tail, len(tail.rstrip()))
        return Ending(tail, tail.find(mark) + len(mark), self._marks[mark])

    def _after_probe(self, *turns: dict[str, str]) -> str | None:
        """What the template writes behind the probe; None where it refuses or drops it."""
        try:
            text = self._templated(turns)
        except (jinja2.TemplateError, TypeError, ValueError):
            return None
        return text[text.rindex(PROBE) + len(PROBE) :] if PROBE in text else None


@cache
def _stopped_clock() -> str:
    """A macro in the clock's place: transformers gives a template no function but its own."""
    shown = "".join(f" | replace({c!r}, {MOMENT.strftime(c)!r})" for c in CODES)
    return f"{{% macro strftime_now(form) %}}{{{{ form{shown} }}}}{{% endmacro %}}"


def _shared(a: str, b: str) -> int:
    """Characters that two texts begin with alike."""
    if b.startswith(a):
        return len(a)
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _asked_at(opening: str, header: str) -> int:
    """Where a finished conversation goes on behind its generation prompt; 0 where it does not repeat it.

    Earlier turns may be written otherwise by now, as in gpt-oss's template, which drops their reasoning.

    Args:
        opening: the conversation with the generation prompt at its end.
        header: the finished conversation up to the words of its last answer.
    """
    tail = opening[-NEAR:]
    # If fewer places look like the prompt's end than before, the last answer's is not among them.
    repeated = header.count(tail) >= opening.count(tail)
    return header.rfind(tail) + len(tail) if repeated else 0


def _name(function: Mapping[str, Any]) -> str:
    """The name of a tool, or of the tool that a call calls."""
    return str(function.get("function", function).get("name", ""))


def _conversation(prompt: Prompt, completion: Completion) -> tuple[list[Message], int]:
    """All turns, and which one the completion begins with.

    A begun answer is one turn with its continuation.
    """
    turns = completion.turns or (Message(role="assistant", content=completion.text),)
    if prompt.begun and turns[0]["role"] == "assistant":
        begun = prompt.messages[-1]
        whole = cast(Message, {**begun, **turns[0], "content": begun["content"] + turns[0]["content"]})
        return [*prompt.messages[:-1], whole, *turns[1:]], len(prompt.messages) - 1
    return [*prompt.messages, *turns], len(prompt.messages)


def _with_text_arguments(turn: dict[str, Any]) -> dict[str, Any]:
    """Arguments of calls as JSON text."""

    def written(call: Mapping[str, Any]) -> dict[str, Any]:
        function = call.get("function")
        if not isinstance(function, Mapping) or isinstance(function.get("arguments"), str):
            return dict(call)
        text = json.dumps(function.get("arguments"), ensure_ascii=False)
        return {**call, "function": {**function, "arguments": text}}

    return {**turn, "tool_calls": [written(c) for c in turn["tool_calls"]]} if "tool_calls" in turn else turn


def _misplaced(turn: Message) -> UserError:
    return UserError(
        "template",
        " ".join(turn["content"].split())[:60],
        "is an answer that the chat template does not write behind its own generation prompt",
        "give its reasoning in reasoning_content, change chat_template_kwargs, or leave the row out",
    )


def _without_thought(opening: str, turn: Message, whole: str) -> Message | None:
    """The answer without the reasoning that it begins with, where the generation prompt has closed its block.

    None: it has none, or is nothing else. whole: what the template writes, which may move reasoning.
    """
    block = SHUT.search(opening)
    if block is None:
        return None
    thought, _, said = turn["content"].partition(block["close"])
    moved = whole.startswith(opening[: block.end("open")])
    begins = moved or thought.lstrip().startswith(block["open"])
    return cast(Message, {**turn, "content": said.lstrip("\n")}) if begins and said.strip() else None


def _without(opened: str, tag: str, text: str) -> str:
    """The text without the opening of a block that stands there already."""
    if text.startswith(opened):
        return text[len(opened) :]
    bare = text.lstrip()
    return bare[len(tag) :].lstrip("\n") if bare.startswith(tag) else text
