"""Whether rows can be read, and whether their turns are what a chat template expects."""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Iterator, Sequence

from kilter.data.audit.check import Check, Context, error_if, families, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row
from kilter.data.near import plain
from kilter.types import Completion, Message, Prompt

TOKENS = re.compile(
    r"<\|[A-Za-z][\w ]{1,30}\|>|\[\|[A-Za-z]\w{1,30}\|\]|<\|[a-z_]{3,30}>|<[a-z_]{3,30}\|>"
    r"|<｜[^｜>]{1,40}｜>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK)\]|<</?SYS>>"
    r"|<(?:start|end)_of_(?:turn|image)>|<(?:bos|eos|pad|unk)>|<(?:extra_id|reserved|unused)_?\d+>"
    r"|\A\s*<s>|</s>\s*(?:\Z|<s>)"
    r"|\A\s*(?:Human|Assistant): "
    r"|^### (?:Instruction|Response):\s*$",
    re.MULTILINE,
)
"""Marks of chat templates as text: ChatML, Llama, Mistral, Gemma, DeepSeek, T5, HH, Alpaca."""

GOES_ON = re.compile(r"\n\n(?:Human|User|USER):.*\n\n(?:Assistant|ASSISTANT):", re.DOTALL)
"""In an answer, further turns; in a prompt it may be a transcript that the user asks about."""

HINTS = ("<", "[", "Human: ", "Assistant: ", "### ")
"""Without one of these no mark can be there."""


@families.register("schema")
class Schema(Check):
    """Rows that cannot be read, broken turn orders, empty texts, marks of templates, unlike prompts."""

    rules = (
        Rule(
            "schema",
            "Rows that can be read",
            "no method learns from a row that cannot be read",
            "correct these rows, or leave them out with on_bad_row: skip (--on-bad-row skip)",
        ),
        Rule(
            "roles",
            "Order of turns",
            "a chat template refuses such turns, or renders them wrongly",
            "let user and assistant take turns, the user first and last before the answer",
        ),
        Rule(
            "empty",
            "Empty texts",
            "nothing can be learned from an empty prompt or answer",
            "leave these rows out: kilter data filter --drop empty",
        ),
        Rule(
            "template_tokens",
            "Marks of a chat template",
            "the template writes its marks itself, so they would stand twice or end the turn early",
            "strip the marks from the texts, and give turns as messages",
        ),
        Rule(
            "shared_prompt",
            "One prompt for both sides",
            "the answers reply to different things, so their comparison says nothing",
            "compare answers to the same turns, or leave these rows out",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rows: dict[str, array[int]] = {rule.name: array("q") for rule in self.rules}
        self.doubled = array("q")
        tokenizer = self.context.encoder.tokenizer if self.context.encoder else None
        self.bos = str(getattr(tokenizer, "bos_token", None) or "")

    def see(self, row: Row) -> None:
        """Looks at the turns of the prompt and of every answer."""
        prompt, completions = row.group.prompt, row.group.completions
        if any(not alternates(turns) for turns in _conversations(prompt, completions)):
            self.rows["roles"].append(row.index)
        if _nothing_asked(prompt, row) or any(_says_nothing(c) for c in completions):
            self.rows["empty"].append(row.index)
        if self._marked(row):
            self.rows["template_tokens"].append(row.index)
        if len({_said_by_users(c) for c in completions}) > 1:
            self.rows["shared_prompt"].append(row.index)

    def _marked(self, row: Row) -> bool:
        """Whether a mark of a template, or the tokenizer's own BOS, stands in a text."""
        for text in (row.system, row.prompt, *row.texts):
            if self.bos and text.lstrip().startswith(self.bos):
                return True
            if any(hint in text for hint in HINTS) and TOKENS.search(text):
                return True
        return any(":" in text and GOES_ON.search(text) for text in row.texts)

    def findings(self) -> Iterator[Finding]:
        """One for each rule; all are errors where a single row breaks them."""
        yield self._unread()
        words = {
            "roles": "rows with a broken order of turns",
            "empty": "rows with an empty prompt or answer",
            "template_tokens": "rows with marks of a chat template in their text",
            "shared_prompt": "rows whose answers reply to different user turns",
        }
        for name, what in words.items():
            rows = self.rows[name]
            yield self.found(name, error_if(rows), f"{what}: {len(rows)}", rows, count=len(rows))

    def _unread(self) -> Finding:
        """Rows that could not be read; those that the settings leave out are for the reader to know."""
        bad, spec = self.context.bad, self.context.spec
        skipped = spec is not None and spec.on_bad_row == "skip"
        value = f"rows that cannot be read: {bad.count}"
        value += ", left out as on_bad_row says" * (skipped and bad.count > 0)
        if bad.first:
            place, problem = bad.first[0]
            value += f"; the first: {place} {problem}"
        level = warn_if(bad.count > 0) if skipped else error_if(bad.count)
        return self.found(
            "schema",
            level,
            value,
            head=("row", "problem"),
            table=bad.first if bad.count > 1 else (),
            count=bad.count,
        )


def _conversations(prompt: Prompt, completions: Sequence[Completion]) -> Iterator[list[Message]]:
    """The whole conversation of each answer; the prompt alone where there is none."""
    if prompt.text is not None:
        return
    ends: Sequence[Sequence[Message]] = [
        c.turns or (Message(role="assistant", content=c.text),) for c in completions
    ]
    for end in ends or [()]:
        yield [*prompt.messages, *end]


def alternates(turns: Sequence[Message]) -> bool:
    """Whether a system message stands first alone, users and assistants take turns, and tools are called.

    A prompt without an answer may end with the user, a tool, or an answer that is gone on from.
    """
    roles = [t["role"] for t in turns]
    if "system" in roles[1:]:
        return False
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken[0] != "user":
        return False
    called = {i for i, t in enumerate(turns) if t.get("tool_calls")}
    first = len(roles) - len(spoken)
    for i, (one, two) in enumerate(itertools.pairwise(spoken), start=first):
        allowed = {
            "user": {"assistant"},
            "assistant": {"tool"} if i in called else {"user"},
            "tool": {"tool", "assistant"},
        }
        if two not in allowed.get(one, set()):
            return False
    return True


def _nothing_asked(prompt: Prompt, row: Row) -> bool:
    """Whether nobody asks anything; plain text for language modelling has no prompt at all."""
    if prompt.text is not None:
        return prompt.text != "" and not plain(prompt.text)
    return any(m["role"] == "user" and not plain(m["content"]) for m in prompt.messages) or (
        not plain(row.prompt)
    )


def _says_nothing(completion: Completion) -> bool:
    last = completion.turns[-1] if completion.turns else None
    if last is None:
        return not plain(completion.text)
    return not plain(last["content"]) and not last.get("tool_calls")


def _said_by_users(completion: Completion) -> tuple[str, ...]:
    """What users say within an answer of several turns."""
    return tuple(" ".join(t["content"].split()) for t in completion.turns if t["role"] == "user")
