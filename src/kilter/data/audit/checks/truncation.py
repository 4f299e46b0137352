"""What a length limit cuts, counted in the tokens of the model that learns."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from kilter.data.audit.check import Check, Context, families, share_of, warn_if
from kilter.data.audit.finding import Finding, Level, Rule
from kilter.data.audit.row import Row
from kilter.data.encode import TOGETHER
from kilter.types import Encoded, Group

MEASURED = 10_000
"""Rows whose length is measured; of longer data a sample, beside all rows that could be cut."""

BESIDE = 512
"""Bytes that a chat template may add to a row."""


@families.register("truncation")
class Truncation(Check):
    """A text has at most as many tokens as bytes, so a row that is short in bytes is never cut."""

    rules = (
        Rule(
            "truncation",
            "Rows that fit",
            "a cut answer teaches no ending, and sides made equal by the cut teach nothing",
            "raise max_length, or drop these rows: kilter data filter --drop truncation --model MODEL",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sample = context.sample(MEASURED)
        self.waiting: list[tuple[int, Group]] = []
        self.lengths = array("q")
        self.equal, self.cut, self.prompts = array("q"), array("q"), array("q")
        self.sides = [0, 0]
        self.seen = 0

    def see(self, row: Row) -> None:
        """Puts a row aside until there are enough for one call of the tokenizer."""
        encoder = self.context.encoder
        if encoder is None or row.held:
            return
        self.seen += 1
        size = len(row.prompt.encode("utf-8", "replace"))
        size += max((len(t.encode("utf-8", "replace")) for t in row.texts), default=0)
        system = row.group.prompt.messages[:1]
        size += sum(len(m["content"].encode("utf-8", "replace")) for m in system if m["role"] == "system")
        special = row.group.prompt.tools or any(c.turns for c in row.group.completions)
        if row.index in self.sample or special or size + BESIDE > encoder.max_length:
            self.waiting.append((row.index, row.group))
        if len(self.waiting) == TOGETHER:
            self._measure()

    def _measure(self) -> None:
        """Tokenises the rows that wait, and cuts them as training does."""
        encoder = self.context.encoder
        if encoder is None or not self.waiting:
            return
        groups = [group for _, group in self.waiting]
        for (index, _), whole in zip(self.waiting, encoder.uncut(groups), strict=True):
            if index in self.sample:
                self.lengths.append(len(whole.prompt_ids) + max(map(len, whole.completion_ids), default=0))
            before = encoder.counts.copy()
            self._note(index, whole, encoder.fitted(whole))
            lost = encoder.counts - before
            if lost["groups dropped: sides equal after the cut"]:
                self.equal.append(index)
            if lost["prompts cut"]:
                self.prompts.append(index)
        self.waiting = []

    def _note(self, index: int, whole: Encoded, fitted: Encoded | None) -> None:
        """Which of the first two sides lost their end."""
        limit = self.context.encoder.max_length if self.context.encoder else 0
        room = max(limit - len(whole.prompt_ids), limit // 2)
        over = [len(whole.prompt_ids) + len(ids) > limit and len(ids) > room for ids in whole.completion_ids]
        if any(over) or fitted is None:
            self.cut.append(index)
        for place, lost in enumerate(over[:2]):
            self.sides[place] += lost

    def findings(self) -> Iterator[Finding]:
        """An error where the cut makes two sides equal, for nothing is left of their difference."""
        encoder = self.context.encoder
        if encoder is None:
            yield self.unchecked("truncation", "no model says how texts become tokens (--model)")
            return
        self._measure()
        n = max(1, self.seen)
        p50, p95, p99 = (int(np.percentile(self.lengths or [0], q)) for q in (50, 95, 99))
        sampled = f" (of a sample of {len(self.lengths)})" if len(self.lengths) < n else ""
        value = (
            f"tokens p50 {p50}, p95 {p95}, p99 {p99}{sampled}; max_length {encoder.max_length} cuts answers "
            f"of {share_of(len(self.cut), n)} rows (first side {self.sides[0]}, second {self.sides[1]}) and "
            f"{len(self.prompts)} prompts, and makes {len(self.equal)} pairs equal"
        )
        level: Level = "error" if self.equal else warn_if(self.cut or self.prompts)
        yield self.found(
            "truncation",
            level,
            value,
            [*self.cut, *self.equal, *self.prompts],
            p50=p50,
            p95=p95,
            p99=p99,
            cut=len(self.cut) / n,
            equal=len(self.equal),
        )
