"""Comparisons that cannot all be true: the same pair both ways, and cycles of any length."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kilter.data.audit.check import Check, Context, families, share_of, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row
from kilter.hashes import number

Ints = npt.NDArray[np.int64]


@families.register("contradictions")
class Contradictions(Check):
    """An answer is a node of its prompt's graph, and "better than" is an arrow."""

    rules = (
        Rule(
            "contradictions",
            "The same pair both ways",
            "half of these labels are wrong, and their gradients cancel",
            "keep the label of the better annotator, or drop both: kilter data filter --drop contradictions",
        ),
        Rule(
            "preference_cycles",
            "Cycles of preference",
            "A over B, B over C and C over A cannot all be true, so no reward fits them",
            "label these rows again, or drop them: kilter data filter --drop preference_cycles",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.winners, self.losers, self.at = array("q"), array("q"), array("q")

    def see(self, row: Row) -> None:
        """Notes an arrow between neighbours in the order of the scores."""
        scored = [(f.score, i) for i, f in enumerate(row.group.feedback) if f.score is not None]
        if len(scored) < 2:
            return
        nodes = [number(f"{row.key} {text}") for text in row.plain]
        order = sorted(scored, key=lambda pair: -pair[0])
        for (high, i), (low, j) in pairwise(order):
            if high > low and nodes[i] != nodes[j]:
                self.winners.append(nodes[i])
                self.losers.append(nodes[j])
                self.at.append(row.index)

    def findings(self) -> Iterator[Finding]:
        """Both ways first; a cycle is looked for among the arrows that are left."""
        n = len(self.winners)
        if not n:
            yield from (self.unchecked(r.name, "no row compares two answers") for r in self.rules)
            return
        names, codes = np.unique(
            np.concatenate([np.frombuffer(self.winners, np.int64), np.frombuffer(self.losers, np.int64)]),
            return_inverse=True,
        )
        winners, losers = codes[:n].astype(np.int64), codes[n:].astype(np.int64)
        at = np.frombuffer(self.at, np.int64)
        both = np.isin(winners * len(names) + losers, losers * len(names) + winners)
        yield self._finding("contradictions", at[both], "comparisons stand in the data both ways")

        # Strongly connected components of the rest hold the cycles, whatever their length.
        one_way = ~both
        inside, longest = _in_cycles(winners[one_way], losers[one_way], len(names))
        rows = at[one_way][inside]
        what = "comparisons lie on a cycle" + f" (up to {longest} answers)" * (longest > 0)
        yield self._finding("preference_cycles", rows, what)

    def _finding(self, name: str, rows: Ints, what: str) -> Finding:
        n = len(self.winners)
        share = len(rows) / n
        level = warn_if(share > 0.01)
        return self.found(
            name, level, f"{share_of(len(rows), n)} {what}", rows.tolist(), share=share, count=len(rows)
        )


def _in_cycles(winners: Ints, losers: Ints, nodes: int) -> tuple[npt.NDArray[np.bool_], int]:
    """Which arrows lie within a strongly connected component, and the size of the largest one."""
    if not len(winners):
        return np.zeros(0, bool), 0
    graph = coo_array((np.ones(len(winners), np.int8), (winners, losers)), shape=(nodes, nodes))
    _, component = connected_components(graph.tocsr(), directed=True, connection="strong")
    inside = component[winners] == component[losers]
    sizes = np.bincount(component)
    return inside, int(sizes[component[winners[inside]]].max()) if inside.any() else 0
