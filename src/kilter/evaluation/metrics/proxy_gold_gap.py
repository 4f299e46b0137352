"""How much more a reward model pays for what training changed than it is worth: over-optimisation."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered

if TYPE_CHECKING:  # a command that measures nothing must not wait for scipy
    from kilter.statistics import Estimate


def _gains(items: Sequence[Answered], source: str) -> list[float | None] | None:
    """Gains over the baseline in its own standard deviations; None where the baseline has no deviation."""
    pairs = [(i.score(source), i.baseline.score(source) if i.baseline else None) for i in items]
    before = [b for _, b in pairs if b is not None]
    spread = statistics.stdev(before) if len(before) > 1 else 0.0
    if spread == 0:
        return None
    return [None if a is None or b is None else (a - b) / spread for a, b in pairs]


@metric(
    "proxy_gold_gap",
    title="Proxy-gold gap",
    unit="standard deviations of the baseline",
    better="lower",
    aggregate="corpus",
    needs={"reward", "gold", "baseline"},
)
class ProxyGoldGap:
    """Mean gain by the reward model minus mean gain by gold, each in standard deviations of the baseline.

    The baseline is step 0. Above 0 the reward model pays for something that gold does not see.
    """

    def over_corpus(self, items: Sequence[Answered]) -> Estimate | tuple[None, str]:
        """The mean of paired gaps, with its interval over prompts."""
        from kilter.statistics import mean

        proxy, gold = _gains(items, "reward"), _gains(items, "gold")
        if proxy is None or gold is None:
            return None, "the baseline's scores are all the same"
        gaps = [None if p is None or g is None else p - g for p, g in zip(proxy, gold, strict=True)]
        return mean(gaps, clusters=[item.cluster or f"alone {i}" for i, item in enumerate(items)])
