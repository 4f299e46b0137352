"""Personal data and toxic words: counts and ids, never the text."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator

from kilter.data.audit import extras
from kilter.data.audit.check import Check, Context, families, share_of, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row

TOXIC = 0.9
"""Probability from which a text counts as toxic."""

TOGETHER = 512


@families.register("personal_data")
class Sensitive(Check):
    """Both need an extra, and are looked for where a person asks."""

    rules = (
        Rule(
            "personal_data",
            "No personal data",
            "a model repeats what it was trained on, and these rows may name living people",
            "mask or drop these rows: kilter data filter --drop personal_data --look-for pii",
        ),
        Rule(
            "toxicity",
            "Tone of the better answers",
            "a policy learns the tone of what is preferred",
            "read these rows, and leave them out: kilter data filter --drop toxicity --look-for toxicity",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        asked = context.look_for
        self.find: Callable[[str], set[str]] | None = extras.personal_data() if "pii" in asked else None
        self.rate = extras.toxicity() if "toxicity" in asked else None
        self.kinds: Counter[str] = Counter()
        self.personal, self.toxic, self.toxic_worse = array("q"), array("q"), array("q")
        self.waiting: list[tuple[int, bool, str]] = []
        self.rated = 0

    def see(self, row: Row) -> None:
        """Looks for personal data at once; texts to be rated wait for each other."""
        if self.find is not None:
            kinds = {kind for text in (row.prompt, *row.texts) for kind in self.find(text)}
            self.kinds.update(kinds)
            if kinds:
                self.personal.append(row.index)
        if self.rate is not None and row.texts:
            best, worst = row.pair or (0, None)
            self.waiting.append((row.index, True, row.texts[best]))
            if worst is not None:
                self.waiting.append((row.index, False, row.texts[worst]))
            if len(self.waiting) >= TOGETHER:
                self._rate()

    def _rate(self) -> None:
        """Rates the texts that wait in one call."""
        if self.rate is None or not self.waiting:
            return
        for (index, better, _), p in zip(self.waiting, self.rate([t for *_, t in self.waiting]), strict=True):
            self.rated += better
            if p >= TOXIC:
                (self.toxic if better else self.toxic_worse).append(index)
        self.waiting = []

    def findings(self) -> Iterator[Finding]:
        """How many rows, and of which kinds."""
        n = len(self.context.groups)
        if self.find is None:
            yield self.unchecked("personal_data", "nobody asked for it (--look-for pii)")
        else:
            share = len(self.personal) / n
            value = f"{share_of(len(self.personal), n)} rows may hold personal data"
            table = [(kind, str(count)) for kind, count in self.kinds.most_common()]
            level = warn_if(self.personal)
            yield self.found(
                "personal_data", level, value, self.personal, ("kind", "rows"), table, share=share
            )
        if self.rate is None:
            yield self.unchecked("toxicity", "nobody asked for it (--look-for toxicity)")
            return
        self._rate()
        value = f"{share_of(len(self.toxic), self.rated)} better answers are toxic"
        value += f", and {len(self.toxic_worse)} worse ones"
        share = len(self.toxic) / max(1, self.rated)
        level = warn_if(share > 0.01)
        yield self.found("toxicity", level, value, self.toxic, share=share, worse=len(self.toxic_worse))
