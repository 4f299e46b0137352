"""Groups to token ids: one rendering, one tokenisation, masks from offsets, truncation.

What is prompt, what is learned and what ends a turn is read off the tokens of the WHOLE conversation as the
model's own template writes it (render.py). A token belongs to the prompt if it ends where the prompt ends or
before; one that lies across the border belongs to the answer and is learned, as everything that overlaps the
answer. Completions of one prompt share the tokens that all of them begin with, up to that border, so that

    prompt_ids + completion_ids[k] == tokens of conversation k, up to its last end of turn

holds for every k. What the template writes after the end of turn (a newline) is not learned, because
generation stops before it. A template without an end of turn, and raw text, get EOS after the last answer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any

from kilter.data import templates
from kilter.data.render import CONTEXT, Rendered, Renderer
from kilter.data.shelf import shelved
from kilter.errors import UserError
from kilter.types import Completion, Encoded, Feedback, Group, Prompt

TOGETHER = 64
"""Groups that are tokenised in one call."""

ACROSS = "prompts end within a token of the answer: that token is learned"
STOPS = "answers hold a token that ends a turn"

Ids = tuple[int, ...]


@dataclass
class Encoder:
    """Tokenises groups for one tokenizer. `counts` says what was cut, dropped or changed by the template.

    stop_ids: tokens that end an answer; the template's own end of turn is added. max_length: tokens of prompt
    plus longest completion. template: see templates.install. max_prompt: tokens of a prompt, for sampling;
    its end is kept.
    """

    tokenizer: Any
    stop_ids: frozenset[int]
    max_length: int = 1024
    template: str = "auto"
    counts: Counter[str] = field(default_factory=Counter)
    max_prompt: int | None = None

    def __post_init__(self) -> None:
        self.eos: int = int(self.tokenizer.eos_token_id)
        if templates.install(self.tokenizer, self.template):
            self.counts["default chat template"] = 1
        self.renderer = Renderer(self.tokenizer, self.stop_ids, self.counts)
        stop = self.renderer.ending.stop
        if stop is not None:
            self.stop_ids |= {stop}
        self.added = {n: str(token) for n, token in self.tokenizer.added_tokens_decoder.items()}

    def prompt(self, prompt: Prompt) -> Ids:
        """Ids of the prompt as at generation; never empty."""
        raw = prompt.text is not None
        ids = self.plain_ids(self.renderer.prompt(prompt), raw)
        return self._fit_prompt(tuple(ids) or self._start())

    def beginnings(self, prompt: Prompt, texts: Sequence[str]) -> Encoded:
        """Each text as the beginning of an answer to the prompt: no end, nothing cut."""
        answers = tuple(Completion(t) for t in texts)
        group = Group(prompt, answers, (Feedback(None),) * len(answers))
        marked = self._tokenised(self.renderer.begun(prompt, texts))
        return self._joined(group, marked)

    def tokens(self, group: Group) -> Encoded:
        """Tokens of a group, uncut; tokens that were sampled are taken as they are."""
        return self._joined(group, self._tokenised(self.renderer.rows(group)))

    def encode(self, group: Group) -> Encoded | None:
        """Tokens of a group, cut to max_length: completions lose their end, the prompt its beginning.

        None (counted) when the cut would make two unequal sides equal. A cut completion gets no EOS. Earlier
        answers that the template rewrites are context.
        """
        return self.fitted(self.tokens(group))

    def encode_rows(self, groups: Iterable[Group]) -> Sequence[Encoded]:
        """Every group that survives, tokenised many at a time; very many of them lie on disk.

        Where the template rewrites earlier turns, several answers of a conversation become a row each.
        """
        return shelved(e for e in self._rows(groups) if e is not None)

    def _rows(self, groups: Iterable[Group]) -> Iterator[Encoded | None]:
        """What becomes of every group, one after the other."""
        asked = self._as_asked(groups)
        while some := list(islice(asked, TOGETHER)):
            marked = iter(self._tokenised([row for _, rows in some for row in rows]))
            for group, rows in some:
                yield self.fitted(self._joined(group, [next(marked) for _ in rows]))

    def uncut(self, groups: Sequence[Group]) -> Iterator[Encoded]:
        """Tokens of each group as `tokens` gives them, of many in one call."""
        rows = [self.renderer.rows(group) for group in groups]
        marked = iter(self._tokenised([row for own in rows for row in own]))
        for group, own in zip(groups, rows, strict=True):
            yield self._joined(group, [next(marked) for _ in own])

    def encode_all(
        self, groups: Iterable[Group], field: str = "data", value: object = ""
    ) -> Sequence[Encoded]:
        """Every group that survives; raises UserError when none does."""
        out = self.encode_rows(groups)
        if not out:
            raise UserError(
                field,
                value,
                f"leaves zero rows after filtering ({dict(self.counts)})",
                "raise max_length or check the data",
            )
        return out

    def _as_asked(self, groups: Iterable[Group]) -> Iterator[tuple[Group, list[Rendered | None]]]:
        """Groups with their text; single conversations answer by answer, if the template wants it."""
        for group in groups:
            known = dict(self.counts)
            rows = self.renderer.rows(group)
            rewritten = sum(row.rewritten for row in rows if row is not None)
            if rewritten and len(rows) == 1:
                self.counts.clear()
                self.counts.update(known)
                for part in self.renderer.split(group):
                    yield part, self.renderer.rows(part)
            else:
                yield group, rows

    def _start(self) -> Ids:
        """What stands before a text without a prompt: something has to predict its first token."""
        bos = self.tokenizer.bos_token_id
        return (self.eos if bos is None else int(bos),)

    def plain_ids(self, text: str, raw: bool) -> list[int]:
        """Ids of a text; raw text gets the marks that the tokenizer begins a text with."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=raw)["input_ids"]
        return ids[:-1] if raw and len(ids) > 1 and ids[-1] == self.eos else ids

    def _tokenised(self, rows: Sequence[Rendered | None]) -> list[Marked | None]:
        """One tokenisation of each text; what needs none stays None."""
        marked: list[Marked | None] = [None] * len(rows)
        for raw in (False, True):
            own = [(n, row) for n, row in enumerate(rows) if row is not None and row.raw == raw]
            if own:
                texts = [row.text for _, row in own]
                for (n, row), (ids, offsets) in zip(own, self._read(texts, raw), strict=True):
                    marked[n] = Marked(self, row, ids, offsets)
        return marked

    def _read(self, texts: list[str], raw: bool) -> Iterator[tuple[list[int], list[tuple[int, int]] | None]]:
        """Ids and, where the tokenizer knows them, the characters of each token."""
        if not self.tokenizer.is_fast:
            yield from ((self.plain_ids(text, raw), None) for text in texts)
            return
        found = self.tokenizer(
            texts,
            add_special_tokens=raw,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        for ids, offsets in zip(found["input_ids"], found["offset_mapping"], strict=True):
            # Tokenizers that end every text with EOS would end the answer twice.
            keep = len(ids) - 1 if raw and len(ids) > 1 and ids[-1] == self.eos else len(ids)
            yield ids[:keep], offsets[:keep]

    def _joined(self, group: Group, rows: Sequence[Marked | None]) -> Encoded:
        """Rows of one prompt, with the tokens that all of them begin with in front."""
        texts = [row for row in rows if row is not None]
        heads = [row.head() for row in texts]
        sampled = self._sampled_prompt(group) if len(texts) < len(rows) or not rows else ()
        if sampled:
            heads.append(sampled)
        size = _alike(heads)
        shared, rest = heads[0][:size], sampled[size:]

        # A sampled answer goes on where its prompt ended: what the others do not share of it is context.
        ids, masks = list[Sequence[int]](), list[Sequence[int]]()
        for completion, row in zip(group.completions, rows, strict=True):
            tokens: Sequence[int]
            mask: Sequence[int]
            if row is not None:
                tokens, mask = row.after(size)
            else:
                tokens = completion.token_ids or ()
                mask = completion.mask or (1,) * len(tokens)
                # Without more context the row is the answer's own arrays, and takes no room.
                if rest:
                    tokens, mask = (*rest, *tokens), (*(0,) * len(rest), *mask)
            ids.append(tokens)
            masks.append(mask)

        # What the template or the tokens did to the border is said once, with its number.
        if any(row.until(row.row.border) > len(head) for row, head in zip(texts, heads, strict=False)):
            self.counts[ACROSS] += 1
        if rewritten := sum(row.row.rewritten for row in texts):
            self.counts[CONTEXT] += rewritten
        return Encoded(group, self._fit_prompt(shared or self._start()), tuple(ids), tuple(masks))

    def _sampled_prompt(self, group: Group) -> Ids:
        """The prompt as the sampler read it."""
        return next((c.prompt_ids for c in group.completions if c.prompt_ids), None) or self.prompt(
            group.prompt
        )

    def _fit_prompt(self, ids: Ids) -> Ids:
        if self.max_prompt is None or len(ids) <= self.max_prompt:
            return ids
        self.counts["prompts cut"] += 1
        return self._end_of(ids, self.max_prompt)

    def _end_of(self, ids: Ids, size: int) -> Ids:
        """The last `size` tokens, with the BOS that the model expects at the beginning kept in front."""
        bos = self.tokenizer.bos_token_id
        if size > 1 and bos is not None and bos != self.eos and ids[0] == bos:
            return (bos, *ids[len(ids) - size + 1 :])
        return ids[len(ids) - size :]

    def fitted(self, whole: Encoded) -> Encoded | None:
        """The group cut to max_length, as `encode` says."""
        prompt = whole.prompt_ids
        pieces = list(zip(whole.completion_ids, whole.masks, strict=True))
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
                prompt = self._end_of(prompt, self.max_length - longest)
                self.counts["prompts cut"] += 1
        if any(not any(mask) for _, mask in pieces):
            self.counts["groups dropped: nothing to learn after the cut"] += 1
            return None
        return Encoded(whole.group, prompt, tuple(p[0] for p in pieces), tuple(p[1] for p in pieces))


@dataclass(frozen=True, slots=True)
class Marked:
    """The tokens of one text, and where its characters are among them.

    offsets: (first, last + 1) characters of each token. None: the tokenizer does not say; then tokens of the
    text's beginning, tokenised up to the place that is asked for, are counted as far as they are the same.
    """

    encoder: Encoder
    row: Rendered
    ids: list[int]
    offsets: list[tuple[int, int]] | None

    def before(self, place: int) -> int:
        """Tokens that end at this character or before it.

        Of a special token its own text counts: some swallow the white space that follows them.
        """
        if self.offsets is None:
            return len(self.ids) if place >= len(self.row.text) else _alike([self.ids, self._up_to(place)])
        n = bisect_right(self.offsets, place, key=lambda o: o[1])
        special = self.encoder.added.get(self.ids[n]) if n < len(self.ids) else None
        if special is None or self.row.text.find(special, self.offsets[n][0], place) < 0:
            return n
        return n + 1

    def until(self, place: int) -> int:
        """Tokens that begin before this character."""
        if self.offsets is not None:
            return bisect_left(self.offsets, place, key=lambda o: o[0])
        found = self._up_to(place) if place < len(self.row.text) else self.ids
        same = _alike([self.ids, found])
        return same if same == len(found) else same + 1

    def head(self) -> Ids:
        """The tokens of the prompt."""
        return tuple(self.ids[: self.before(self.row.border)])

    def _up_to(self, place: int) -> list[int]:
        return self.encoder.plain_ids(self.row.text[:place], self.row.raw)

    def after(self, shared: int) -> tuple[Ids, Ids]:
        """(ids, mask) behind the shared beginning, EOS included where the template ends no turn."""
        mask, stops = [0] * len(self.ids), self.encoder.stop_ids
        ended = not self.row.unended
        for start, end in self.row.learned:
            first, last = self.before(start), self.until(end)
            mask[first:last] = [1] * (last - first)
            # An earlier answer may end with the header of the next turn, though nothing ends the last one.
            within = self.ids[first : last - 1] if ended or end < len(self.row.text) else self.ids[first:last]
            if not stops.isdisjoint(within):
                self.encoder.counts[STOPS] += 1
        if ended or (self.ids and self.ids[-1] in stops and mask[-1]):
            return tuple(self.ids[shared:]), tuple(mask[shared:])
        learned = int(bool(self.row.learned))
        return (*self.ids[shared:], self.encoder.eos), (*mask[shared:], learned)


def _alike(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that all rows begin with."""
    first = rows[0]
    if all(row == first for row in rows[1:]):
        return len(first)
    return sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*rows, strict=False)))
