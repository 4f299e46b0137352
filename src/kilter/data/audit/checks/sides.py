"""Whether the two sides differ, and whether the label says which one is better."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator

import numpy as np

from kilter.data.audit.check import Check, Context, error_if, families, share_of, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row
from kilter.data.near import jaccard, normal, shingles

ALIKE = 0.95
"""Jaccard index of character 5-grams from which two sides are nearly the same."""

NAMED_SIDES = (
    *("hh", "preference", "sharegpt_preference", "openai_preference", "swift_preference"),
    "implicit_preference",
)
"""Formats whose columns say which side is better."""

KINDS = ("binary", "label", "rating", "reward", "rank")


@families.register("identity")
class Sides(Check):
    """Equal sides, nearly equal sides, ties and missing labels, scores out of their scale."""

    rules = (
        Rule(
            "identity",
            "Different sides",
            "a pair of equal answers has no gradient and dilutes its batch",
            "leave these rows out: kilter data filter --drop identity",
        ),
        Rule(
            "near_identity",
            "Clearly different sides",
            "pairs that differ in a word or two teach little and weigh as much as others",
            "look at them, and leave them out with kilter data filter --drop near_identity",
        ),
        Rule(
            "ties",
            "Labels that decide",
            "a row whose label does not decide teaches nothing, and by position it would teach noise",
            "give ratings that differ, or leave these rows out: kilter data filter --drop ties",
        ),
        Rule(
            "scores",
            "Scores on one scale",
            "a score far outside the scale of the others is a slip of the pen, and rules the margins",
            "correct these scores, or leave the rows out: kilter data filter --drop scores",
        ),
        Rule(
            "label_balance",
            "Both labels occur",
            "where nearly all labels are the same, there is little to learn from them",
            "add rows with the rare label, or weigh both kinds",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.same, self.alike, self.against = array("q"), array("q"), array("q")
        self.undecided, self.unlabelled = array("q"), array("q")
        self.pairs = self.several = 0
        self.scores, self.at = array("d"), array("q")
        self.labels: Counter[float] = Counter()

    def see(self, row: Row) -> None:
        """Compares the sides, and notes the scores."""
        feedback = row.group.feedback
        if len(feedback) == 1 and feedback[0].kind in ("binary", "steps"):
            self.labels[-1.0 if feedback[0].score is None else feedback[0].score] += 1
        for f in feedback:
            if f.score is not None and f.kind in ("rating", "label", "reward"):
                self.scores.append(f.score)
                self.at.append(row.index)
        if len(feedback) >= 2:
            self._compare(row)

    def _compare(self, row: Row) -> None:
        """Equal words count as equal only where the turns are equal too."""
        self.several += 1
        scores = [f.score for f in row.group.feedback]
        named = row.format in NAMED_SIDES and len(scores) == 2
        if None in scores:
            self.unlabelled.append(row.index)
        elif len(set(scores)) == 1:
            (self.against if named else self.undecided).append(row.index)
        elif named and (scores[0] or 0) < (scores[1] or 0):
            self.against.append(row.index)
        if row.pair is None and len(scores) != 2:
            return
        i, j = row.pair or (0, 1)
        self.pairs += 1
        turns = [repr(row.group.completions[k].turns) for k in (i, j)]
        if row.plain[i].lower() == row.plain[j].lower() and turns[0] == turns[1]:
            self.same.append(row.index)
        elif _may_be_alike(row.plain[i], row.plain[j]):
            grams = [shingles(normal(row.plain[k])) for k in (i, j)]
            if jaccard(*grams) >= ALIKE:
                self.alike.append(row.index)

    def findings(self) -> Iterator[Finding]:
        """One for each rule."""
        if not self.pairs:
            why = "no row holds two answers"
            yield from (self.unchecked(n, why) for n in ("identity", "near_identity"))
        else:
            n, count = self.pairs, len(self.same)
            value = f"{share_of(count, n)} pairs have two equal sides"
            yield self.found("identity", error_if(count), value, self.same, count=count)
            share = len(self.alike) / n
            value = f"{share_of(len(self.alike), n)} pairs have nearly equal sides"
            level = warn_if(share > 0.01)
            yield self.found("near_identity", level, value, self.alike, share=share)
        yield self._ties()
        yield self._scores()
        yield self._balance()

    def _ties(self) -> Finding:
        """Errors where named sides and their ratings disagree; plain ties are a matter of degree."""
        if not self.several:
            return self.unchecked("ties", "no row holds two answers")
        lost = len(self.undecided) + len(self.unlabelled)
        share = lost / self.several
        parts = [
            (len(self.against), "rows name a better side whose rating is not higher"),
            (len(self.unlabelled), "rows lack a label"),
            (len(self.undecided), "rows are ties, which methods on pairs leave out"),
        ]
        said = [f"{count} {what}" for count, what in parts if count]
        level = "error" if self.against else warn_if(share > 0.01)
        rows = [*self.against, *self.unlabelled, *self.undecided]
        return self.found(
            "ties",
            level,
            ", ".join(said) or "every label decides",
            rows,
            against=len(self.against),
            missing=len(self.unlabelled),
            ties=len(self.undecided),
        )

    def _scores(self) -> Finding:
        """A score that lies ten ranges of the middle half away from the median."""
        values = np.frombuffer(self.scores, dtype=float)
        if len(np.unique(values)) < 3:
            return self.unchecked("scores", "no row holds a rating")
        low, middle, high = np.percentile(values, [25, 50, 75])
        limit = 10 * max(high - low, 1e-9 + 0.1 * (abs(middle) + 1))
        out = np.flatnonzero(np.abs(values - middle) > limit)
        rows = [self.at[i] for i in out.tolist()]
        value = f"{len(out)} of {len(values)} scores lie far outside the scale of the others"
        return self.found("scores", warn_if(rows), value, rows, count=len(out))

    def _balance(self) -> Finding:
        n = sum(self.labels.values())
        if n < 20:
            return self.unchecked("label_balance", "no row holds a label of one answer")
        good = sum(count for score, count in self.labels.items() if score > 0)
        share = good / n
        level = warn_if(not 0.05 <= share <= 0.95)
        return self.found("label_balance", level, f"{share_of(good, n)} answers are good", share=share)


def _may_be_alike(one: str, two: str) -> bool:
    """Texts of very different lengths cannot share nearly all of their 5-grams."""
    short, long = sorted((len(one), len(two)))
    if short < 0.8 * long or short < 20:
        return False
    # Nearly equal texts share a beginning, a middle or an end.
    probe = short // 4
    return one[:probe] == two[:probe] or one[-probe:] == two[-probe:]
