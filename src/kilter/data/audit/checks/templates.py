"""Prompts made from one template, and answers that are the same or begin alike."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kilter.data.audit.check import Check, Context, families, share_of, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row
from kilter.hashes import number
from kilter.statistics import wilson_bounds

WORD = re.compile(r"\w+|[^\w\s]")
BUCKETS = 1 << 20
"""Counters of words: two words may share one, which makes a rare word look less rare."""

KEPT = 4
"""Words that a template keeps at least."""

HEADS = (6, 2)
"""Words that count as the beginning of an answer. Two of them are common, and count by what they tell."""

LONGEST = 60
"""Words of a prompt that are looked at."""

SLOT, FREE = 0, -1
"""What stands for a rare word, and for a prompt that is of no template."""


@families.register("templates")
class Templates(Check):
    """A template is a prompt whose rare words are slots: prompts of one template are equal without them."""

    rules = (
        Rule(
            "templates",
            "Prompts of many forms",
            "prompts from few templates teach the template, and a random split leaks it",
            "add prompts of other forms, and hold whole templates out",
        ),
        Rule(
            "repeated_answers",
            "Answers of many words",
            "one answer to many prompts is learned by heart, whatever is asked",
            "keep a few of each: kilter data filter --drop repeated_answers",
        ),
        Rule(
            "openings",
            "Beginnings of the better answers",
            "a policy learns a fixed beginning first, and a reward model pays for it",
            "strip the phrase, or balance it over both sides",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.words, self.starts, self.at = array("I"), array("q", [0]), array("q")
        self.prompts: set[int] = set()
        self.frequency: npt.NDArray[np.int64] = np.zeros(BUCKETS, np.int64)
        self.answers: dict[str, array[int]] = {"answer": array("q"), "prompt": array("q"), "row": array("q")}
        self.heads = {(side, n): array("q") for side in ("better", "worse") for n in HEADS}
        self.long = 0

    def see(self, row: Row) -> None:
        """Notes the words of a prompt that is new, and what the answers are and begin with."""
        if row.key not in self.prompts:
            self.prompts.add(row.key)
            words = [number(w) % BUCKETS for w in WORD.findall(row.prompt.lower())[:LONGEST]]
            self.words.extend(words)
            self.frequency[list(set(words))] += 1
            self.starts.append(len(self.words))
            self.at.append(row.index)
        for text in set(row.plain):
            self.answers["answer"].append(number(text.lower()))
            self.answers["prompt"].append(row.key)
            self.answers["row"].append(row.index)
        if row.pair is not None:
            self.long += 1
            for side, place in zip(("better", "worse"), row.pair, strict=True):
                begin = row.plain[place].lower().split(maxsplit=max(HEADS))
                for n in HEADS:
                    if len(begin) > n:
                        self.heads[side, n].append(number(" ".join(begin[:n])))

    def findings(self) -> Iterator[Finding]:
        """One for each rule."""
        yield self._templates()
        yield self._answers()
        yield self._openings()

    def _templates(self) -> Finding:
        """A word is a slot where few prompts hold it."""
        n = len(self.at)
        if n < 50:
            return self.unchecked("templates", f"{n} distinct prompts are too few to tell a template")
        rare = max(3, 0.01 * n)
        forms = np.fromiter((self._form(place, rare) for place in range(n)), np.int64, n)
        names, counts = np.unique(forms[forms != FREE], return_counts=True)
        often = names[counts >= max(10, 0.02 * n)]
        large = [np.flatnonzero(forms == form).tolist() for form in often]
        large.sort(key=lambda places: (-len(places), places[0]))
        inside = sum(map(len, large))
        value = f"{share_of(inside, n)} distinct prompts come from {len(large)} templates"
        if large:
            value += f"; the largest makes {len(large[0])}"
        rows = [self.at[p] for places in large for p in places]
        table = [(self.context.name(self.at[p[0]]), str(len(p))) for p in large[:20]]
        level = warn_if(inside / n > 0.1)
        head = ("first prompt (id)", "prompts")
        return self.found(
            "templates", level, value, rows, head, table, share=inside / n, templates=len(large)
        )

    def _form(self, place: int, rare: float) -> int:
        """A number for what a prompt is without its rare words; FREE where little is left."""
        words = np.frombuffer(self.words, np.uint32)[self.starts[place] : self.starts[place + 1]]
        skeleton = np.where(self.frequency[words] < rare, SLOT, words.astype(np.int64) + 1)
        if (skeleton != SLOT).sum() < KEPT:
            return FREE
        # Slots beside each other are one.
        kept = np.append(True, (skeleton[1:] != SLOT) | (skeleton[:-1] != SLOT))
        return hash(skeleton[kept].tobytes())

    def _answers(self) -> Finding:
        """The same answer to at least five different prompts."""
        answers, prompts, rows = (np.frombuffer(a, np.int64) for a in self.answers.values())
        if not len(answers):
            return self.unchecked("repeated_answers", "no row holds an answer")
        distinct = np.unique(np.stack([answers, prompts]), axis=1)[0]
        names, counts = np.unique(distinct, return_counts=True)
        often = names[counts >= 5]
        flagged = rows[np.isin(answers, often)]
        n = len(self.context.groups)
        share = len(np.unique(flagged)) / n
        value = f"{share_of(len(np.unique(flagged)), n)} rows hold an answer that five prompts or more share"
        level = warn_if(share > 0.02)
        return self.found("repeated_answers", level, value, flagged.tolist(), share=share, answers=len(often))

    def _openings(self) -> Finding:
        """The most frequent beginning of the better answers, and how often worse ones begin so."""
        if self.long < 50:
            return self.unchecked("openings", "fewer than 50 pairs")
        seen = {n: self._opening(n) for n in HEADS}
        long, short = HEADS
        share, other = (count / self.long for count in seen[long])
        # Of two words only what is beyond chance counts: many answers begin with "I am".
        low, high = (wilson_bounds(count, self.long) for count in seen[short])
        told = low[0] > high[1] and seen[short][0] > seen[short][1] + 0.05 * self.long
        warned = share > 0.1 or share > other + 0.05
        size = short if told and not warned else long
        share, other = (count / self.long for count in seen[size])
        value = f"{share:.1%} of the better answers begin with the same {size} words"
        value += f", and {other:.1%} of the worse ones"
        return self.found("openings", warn_if(warned or told), value, share=share, worse=other)

    def _opening(self, n: int) -> tuple[int, int]:
        """How many better, and worse, answers begin with the n words that most better ones begin with."""
        key, count = _most_common(np.frombuffer(self.heads["better", n], np.int64))
        return count, int((np.frombuffer(self.heads["worse", n], np.int64) == key).sum())


def _most_common(numbers: npt.NDArray[np.int64]) -> tuple[int, int]:
    """The number that occurs most often, the first of equals, and how often; (-1, 0) where there is none."""
    if not len(numbers):
        return -1, 0
    names, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    best = min(np.flatnonzero(counts == counts.max()).tolist(), key=lambda i: int(first[i]))
    return int(names[best]), int(counts[best])
