"""Whether people who rated the same thing agree, and who does not."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kilter.data.audit.check import Check, Context, families, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row
from kilter.hashes import number
from kilter.statistics import wilson_bounds
from kilter.statistics.agreement import krippendorff_alpha

COLUMNS = (
    *("annotator", "annotator_id", "annotated_by", "worker", "worker_id", "rater", "rater_id"),
    *("labeler", "labeler_id", "labeller", "labeller_id", "judge", "user_id"),
)
"""Columns that name who judged; the first one counts."""

LOWEST_ALPHA = 0.4
FEWEST = 10
"""Shared ratings from which an annotator is judged."""

MEASURED = 20_000
"""Units behind alpha; of more a sample."""

Ints = npt.NDArray[np.int64]


@families.register("agreement")
class Annotators(Check):
    """A unit is what several people rate: a prompt with its two answers, or with one of them."""

    rules = (
        Rule(
            "agreement",
            "Annotators agree",
            "labels on which people do not agree hold little to learn, whatever the method",
            "sharpen the guideline and label a part again, or learn from rows on which most agree",
        ),
        Rule(
            "annotators",
            "Every annotator is of use",
            "who disagrees with everybody else, or always takes one side, adds noise",
            "talk to these annotators, or leave their rows out: kilter data filter --drop annotators",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.names: dict[str, int] = {}
        self.units, self.raters, self.at = array("q"), array("q"), array("q")
        self.values, self.places = array("d"), array("b")

    def see(self, row: Row) -> None:
        """Notes who said what of which unit; the order of the answers does not count."""
        who = row.column(*COLUMNS)
        if who is None or not isinstance(who, str | int | float):
            return
        scores = [f.score for f in row.group.feedback]
        if len(scores) == 2 and None not in scores:
            first, second = (number(text) for text in row.plain)
            unit = number(f"{row.key} {min(first, second)} {max(first, second)}")
            sign = float(np.sign((scores[0] or 0) - (scores[1] or 0)))
            value, place = sign if first <= second else -sign, int(sign)
        elif len(scores) == 1 and scores[0] is not None:
            unit, value, place = number(f"{row.key} {row.plain[0]}"), scores[0], int(scores[0] > 0)
        else:
            return
        self.units.append(unit)
        self.raters.append(self.names.setdefault(str(who), len(self.names)))
        self.values.append(value)
        self.places.append(place)
        self.at.append(row.index)

    def findings(self) -> Iterator[Finding]:
        """Krippendorff's alpha with its interval, then one line per annotator."""
        if not self.units:
            why = "no column names an annotator (annotator, worker_id, rater ...)"
            yield from (self.unchecked(r.name, why) for r in self.rules)
            return
        _, unit, counts = np.unique(
            np.frombuffer(self.units, np.int64), return_inverse=True, return_counts=True
        )
        yield self._alpha(unit, counts)
        yield self._each(unit)

    def _alpha(self, unit: Ints, counts: Ints) -> Finding:
        """Nominal alpha: who a rating is from does not matter to it, only which unit it is of."""
        shared = np.flatnonzero(counts >= 2)
        if len(shared) < 2:
            return self.unchecked("agreement", "fewer than two units are rated twice")
        if len(shared) > MEASURED:
            shared = np.random.default_rng(self.context.seed).choice(shared, MEASURED, replace=False)
        column = np.full(len(counts), -1)
        column[shared] = np.arange(len(shared))
        values, table = (
            np.frombuffer(self.values, float),
            np.full((int(counts[shared].max()), len(shared)), np.nan),
        )
        filled = np.zeros(len(shared), int)
        for at in np.flatnonzero(column[unit] >= 0).tolist():
            place = column[unit[at]]
            table[filled[place], place] = values[at]
            filled[place] += 1
        alpha = krippendorff_alpha(table, self.context.seed)
        if alpha.value is None:
            return self.unchecked("agreement", alpha.method)
        value = (
            f"alpha {alpha.value:.2f} [{alpha.ci_low:.2f}, {alpha.ci_high:.2f}] over {len(shared)} units "
            f"that are rated twice or more, by {len(self.names)} annotators"
        )
        level = warn_if(alpha.value < LOWEST_ALPHA)
        low, high = alpha.ci_low or 0.0, alpha.ci_high or 0.0
        return self.found(
            "agreement", level, value, alpha=alpha.value, ci_low=low, ci_high=high, units=len(shared)
        )

    def _each(self, unit: Ints) -> Finding:
        """Each annotator against the others of the same units, and the share of the first place."""
        agreed: dict[int, list[bool]] = defaultdict(list)
        by_unit: dict[int, list[int]] = defaultdict(list)
        for at, u in enumerate(unit.tolist()):
            by_unit[u].append(at)
        for ats in by_unit.values():
            for at in ats:
                others = [self.values[o] for o in ats if self.raters[o] != self.raters[at]]
                if others and (said := _majority(others)) is not None:
                    agreed[self.raters[at]].append(self.values[at] == said)
        pooled = sum(map(sum, agreed.values())) / max(1, sum(map(len, agreed.values())))
        sides: dict[int, list[int]] = defaultdict(list)
        for rater, place in zip(self.raters, self.places, strict=True):
            sides[rater].append(place)

        # Who always says the same is of no use, whether anybody else saw the rows or not.
        bad, table = set(), []
        one_sided = len({p for places in sides.values() for p in places}) > 1
        for name, rater in self.names.items():
            votes = agreed[rater]
            low, high = wilson_bounds(sum(votes), len(votes)) if votes else (0.0, 1.0)
            apart = len(votes) >= FEWEST and high < pooled and sum(votes) / len(votes) < pooled - 0.15
            constant = one_sided and len(sides[rater]) >= 2 * FEWEST and len(set(sides[rater])) == 1
            if apart or constant:
                bad.add(rater)
            share = f"{sum(votes) / len(votes):.2f} [{low:.2f}, {high:.2f}]" if votes else "nothing shared"
            first = f"{sum(p > 0 for p in sides[rater]) / len(sides[rater]):.2f}"
            table.append((name, str(len(sides[rater])), share, first, "look at" if rater in bad else ""))
        rows = [self.at[i] for i, rater in enumerate(self.raters) if rater in bad]
        value = f"{len(bad)} of {len(self.names)} annotators disagree with the others or always say the same"
        head = ("annotator", "ratings", "agrees with the others", "first or good", "")
        table.sort(key=lambda line: (line[-1] == "", line[0]))
        level = warn_if(bad)
        return self.found("annotators", level, value, rows, head, table[:50], bad=len(bad), pooled=pooled)


def _majority(values: list[float]) -> float | None:
    """What most of them say; None where two answers are equally frequent."""
    found, counts = np.unique(values, return_counts=True)
    most = counts == counts.max()
    return float(found[most][0]) if most.sum() == 1 else None
