"""Groups to token ids: chat templates, the prompt/completion boundary, EOS, masks, truncation.

The boundary is the model's own: the prompt is tokenised exactly as it will be at generation (with the
generation prompt), and the completion on its own after it, so no merge crosses the boundary. A completion
ends with the template's end-of-turn token; a raw one gets EOS appended. What the template writes after the
end of turn (a newline) is not learned, because generation stops before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from kilter.errors import UserError
from kilter.types import Completion, Encoded, Group, Message, Prompt

DEFAULT_TEMPLATE = (
    "{% for m in messages %}{{ '### ' + m['role']|capitalize + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)
"""Where a tokenizer has no template: '### User:\\n...\\n\\n### Assistant:\\n', with EOS after each answer."""


@dataclass
class Encoder:
    """Tokenises groups for one tokenizer. `counts` says how many prompts and completions were cut or dropped.

    max_length: tokens of prompt plus longest completion. template: "auto" (the tokenizer's own, else
    DEFAULT_TEMPLATE), "model" (the tokenizer's own or an error), or a jinja file. max_prompt: tokens of a
    prompt, for sampling; its end is kept.
    """

    tokenizer: Any
    stop_ids: frozenset[int]
    max_length: int = 1024
    template: str = "auto"
    counts: Counter[str] = field(default_factory=Counter)
    max_prompt: int | None = None

    def __post_init__(self) -> None:
        self.eos: int = int(self.tokenizer.eos_token_id)
        own = getattr(self.tokenizer, "chat_template", None)
        if self.template == "model" and not own:
            raise UserError(
                "template",
                "model",
                "needs a chat template, and the tokenizer has none",
                "use template: auto (a documented default) or give a .jinja file",
            )
        if self.template not in ("auto", "model"):
            path = Path(self.template)
            if not path.is_file():
                raise UserError(
                    "template",
                    self.template,
                    "names no file",
                    "use auto, model, or the path of a .jinja file",
                )
            self.tokenizer.chat_template = path.read_text(encoding="utf-8")
        elif not own:
            self.tokenizer.chat_template = DEFAULT_TEMPLATE
            self.counts["default chat template"] = 1

    def _render(self, messages: Sequence[Message], generation: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(m) for m in messages], tokenize=False, add_generation_prompt=generation
            )
        except jinja2.TemplateError as error:
            raise UserError(
                "messages",
                [m["role"] for m in messages],
                f"are in an order that the chat template refuses ({error})",
                "merge or drop turns, or give another template",
            ) from error
        return text

    def _ids(self, text: str, special: bool = False) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a piece of text alone: no template, no end."""
        return tuple(self._ids(text))

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """Ids of the prompt as at generation; never empty."""
        ids = (
            self._ids(prompt.text, special=True)
            if prompt.text is not None
            else self._ids(self._render(prompt.messages, True))
        )
        if ids and prompt.text is not None and ids[-1] == self.eos and len(ids) > 1:
            ids = ids[:-1]  # tokenizers that end every text with EOS would close the prompt
        if not ids:
            ids = [self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.eos]
        if self.max_prompt is not None and len(ids) > self.max_prompt:
            self.counts["prompts cut"] += 1
            ids = self._end_of(ids, self.max_prompt)
        return tuple(ids)

    def _end_of(self, ids: Sequence[int], size: int) -> list[int]:
        """The last `size` tokens, with the BOS that the model expects at the beginning kept in front."""
        bos = self.tokenizer.bos_token_id
        if size > 1 and bos is not None and bos != self.eos and ids[0] == bos:
            return [bos, *ids[len(ids) - size + 1 :]]
        return list(ids[len(ids) - size :])

    def completion(self, prompt: Prompt, completion: Completion) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(ids, mask) of one completion; sampled token ids are taken as they are."""
        if completion.token_ids is not None:
            return completion.token_ids, completion.mask or (1,) * len(completion.token_ids)
        if prompt.text is not None:
            ids = self._ids(completion.text)
            ids = ids if ids and ids[-1] in self.stop_ids else [*ids, self.eos]
            return tuple(ids), (1,) * len(ids)
        turns: tuple[Message, ...] = completion.turns or ({"role": "assistant", "content": completion.text},)
        ids, mask = [], []
        history = list(prompt.messages)
        written = self._render(history, True)
        for turn in turns:
            if turn["role"] == "assistant":
                opening = self._render(history, True)
                if opening != written:  # tokens between two answers: user turns, tool results, headers
                    between = self._ids(self._after(opening, written))
                    ids += between
                    mask += [0] * len(between)
                history.append(turn)
                closed = self._render(history, False)
                own = self._answer(self._after(closed, opening))
                ids += own
                mask += [1] * len(own)
                # The end of turn is in; the next segment starts where the template goes on after it.
                written = closed if not self._tail else closed[: len(closed) - len(self._tail)]
            else:
                history.append(turn)
        return tuple(ids), tuple(mask)

    _tail: str = ""

    def _after(self, longer: str, shorter: str) -> str:
        if not longer.startswith(shorter):
            raise UserError(
                "template",
                longer[:60],
                "rewrites earlier turns, so several turns cannot be learned at once",
                "train on single answers (one assistant turn per row) or give a template that only appends",
            )
        return longer[len(shorter) :]

    def _answer(self, text: str) -> list[int]:
        """Ids of one answer, cut after its end-of-turn token; appends EOS where the template has none.

        Sets `_tail`.
        """
        ids = self._ids(text)
        last = max((i for i, t in enumerate(ids) if t in self.stop_ids), default=None)
        if last is None:
            body = text.rstrip("\n")
            self._tail = text[len(body) :]
            return [*self._ids(body), self.eos]
        self._tail = self.tokenizer.decode(ids[last + 1 :]) if last + 1 < len(ids) else ""
        return ids[: last + 1]

    def encode(self, group: Group) -> Encoded | None:
        """Tokens of a group, cut to max_length: completions lose their end, the prompt its beginning.

        None (counted) when the cut would make two unequal sides equal. A cut completion gets no EOS.
        """
        prompt = self.prompt(group.prompt)
        pieces = [self.completion(group.prompt, c) for c in group.completions]
        longest = max((len(ids) for ids, _ in pieces), default=0)
        if len(prompt) + longest > self.max_length:
            room = max(self.max_length - len(prompt), self.max_length // 2)
            cut = [(ids[:room], mask[:room]) for ids, mask in pieces]
            self.counts["completions cut"] += sum(
                len(a[0]) < len(b[0]) for a, b in zip(cut, pieces, strict=True)
            )
            longest = max((len(ids) for ids, _ in cut), default=0)
            if len({c[0] for c in cut}) < len({p[0] for p in pieces}):
                self.counts["groups dropped: sides equal after the cut"] += 1
                return None
            pieces = cut
            if len(prompt) > self.max_length - longest:
                prompt = tuple(self._end_of(prompt, self.max_length - longest))
                self.counts["prompts cut"] += 1
        if any(not any(mask) for _, mask in pieces):
            self.counts["groups dropped: nothing to learn after the cut"] += 1
            return None
        return Encoded(group, prompt, tuple(p[0] for p in pieces), tuple(p[1] for p in pieces))

    def encode_all(self, groups: Iterable[Group], field: str = "data", value: object = "") -> list[Encoded]:
        """Every group that survives; raises UserError when none does."""
        out = [e for e in map(self.encode, groups) if e is not None]
        if not out:
            raise UserError(
                field,
                value,
                f"leaves zero rows after filtering ({dict(self.counts)})",
                "raise max_length or check the data",
            )
        return out
