"""Prompts of an evaluation that stand in the data: word 13-grams, and MinHash for reworded ones."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from kilter.data.audit.check import Check, Context, error_if, families, share_of
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row, words_of
from kilter.data.dataset import prompt_words
from kilter.data.near import Sketches, across, normal

N = 13
"""Words of an n-gram, as GPT-3 and most reports of contamination count them."""

COMMON = 0.02
"""A 13-gram in more prompts of a suite than this share is its boilerplate, and gives nothing away."""

WORD = re.compile(r"\w+")
Hashes = npt.NDArray[np.uint64]


def grams(text: str) -> Hashes:
    """A hash of each 13-gram of words; of a shorter text one of all its words, kept apart by their number."""
    words = WORD.findall(text.lower())
    if not words:
        return np.zeros(0, np.uint64)
    # Python's hash of a text differs from process to process, and is compared within this one alone.
    codes = np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)
    size = min(N, len(words))
    mixed = np.full(len(words) - size + 1, size, dtype=np.uint64)
    for place in range(size):
        mixed = (mixed ^ codes[place : place + len(mixed)]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(31)
    return mixed


@families.register("evaluation_leakage")
class Leakage(Check):
    """Prompts and answers of every row against the prompts of the suites."""

    rules = (
        Rule(
            "evaluation_leakage",
            "Evaluations that training never shows",
            "a score on a prompt that was trained on measures memory",
            "leave these rows out: kilter data filter --drop evaluation_leakage --against SUITE",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.prompts = [
            (name, prompt_words(g.prompt)) for name, suite in self.context.suites.items() for g in suite
        ]
        answers = [[words_of(c) for c in g.completions] for s in self.context.suites.values() for g in s]
        self.known = _owners(self.prompts, answers)
        self.table = np.array(sorted(self.known), dtype=np.uint64)
        self.hits: dict[int, set[int]] = {}
        self.sketches, self.first = Sketches(), array("q")
        self.seen: set[int] = set()

    def see(self, row: Row) -> None:
        """Looks its 13-grams up, and sketches its prompt."""
        if not self.prompts or row.held:
            return
        # A short answer such as "Yes." equals a short prompt by chance.
        long = [text for text in row.texts if len(WORD.findall(text)) >= N]
        for text in (row.system, row.prompt, *long):
            found = grams(text)
            places = np.searchsorted(self.table, found)
            places[places == len(self.table)] = 0
            for code in np.unique(found[self.table[places] == found]).tolist():
                self.hits.setdefault(row.index, set()).add(self.known[code])
        words = normal(row.prompt)
        if (key := hash(words)) not in self.seen:
            self.seen.add(key)
            self.first.append(row.index)
            self.sketches.add(words)

    def findings(self) -> Iterator[Finding]:
        """An error where one prompt of a suite stands in the training rows."""
        if not self.prompts:
            why = "no evaluation is named (--against SUITE; in a recipe the data of its evaluate stages)"
            yield self.unchecked("evaluation_leakage", why)
            return
        suite = Sketches()
        plain = [normal(text) for _, text in self.prompts]
        for text in plain:
            suite.add(text)
        groups = self.context.groups
        own = lambda i: normal(prompt_words(groups[self.first[i]].prompt))
        for place, hit in across(self.sketches, suite, own, plain.__getitem__):
            self.hits.setdefault(self.first[place], set()).add(hit)
        leaked = {prompt for found in self.hits.values() for prompt in found}
        by_suite = Counter(self.prompts[p][0] for p in leaked)
        table = [(name, str(len(s)), str(by_suite[name])) for name, s in self.context.suites.items()]
        share = share_of(len(leaked), len(self.prompts))
        value = f"{share} prompts of evaluations stand in {len(self.hits)} rows"
        yield self.found(
            "evaluation_leakage",
            error_if(leaked),
            value,
            self.hits,
            ("evaluation", "prompts", "found in the rows"),
            table,
            prompts=len(leaked),
            rows_hit=len(self.hits),
        )


def _owners(prompts: Sequence[tuple[str, str]], answers: Sequence[Sequence[str]]) -> dict[int, int]:
    """The prompt that each 13-gram belongs to, boilerplate of the suites left out.

    Of reference answers only those with 13 words or more count: short ones occur everywhere.
    """
    texts = [
        (place, grams(text))
        for place, (_, prompt) in enumerate(prompts)
        for text in (prompt, *(a for a in answers[place] if len(WORD.findall(a)) >= N))
    ]
    holders: dict[int, set[int]] = {}
    for place, codes in texts:
        for code in codes.tolist():
            holders.setdefault(code, set()).add(place)
    limit = max(5, COMMON * len(prompts))
    owners: dict[int, int] = {}
    for place, codes in texts:
        for code in codes[_own(codes, holders, limit)].tolist():
            owners.setdefault(code, place)
    return owners


def _own(codes: Hashes, holders: Mapping[int, set[int]], limit: float) -> npt.NDArray[np.bool_]:
    """Which 13-grams of a text lie mostly outside of words that many prompts share."""
    common = np.array([len(holders[code]) > limit for code in codes.tolist()], dtype=bool)
    if not common.any() or len(codes) == 1:
        return ~common
    shared = np.zeros(len(codes) + N, dtype=np.int64)
    for place in np.flatnonzero(common).tolist():
        shared[place : place + N] = 1
    before = np.concatenate([[0], np.cumsum(shared)])
    inside = before[N : N + len(codes)] - before[: len(codes)]
    own: npt.NDArray[np.bool_] = inside < N / 2
    return own
