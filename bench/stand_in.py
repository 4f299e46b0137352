"""What the engines of the benchmarks have in common that stand in for one with a model."""

from __future__ import annotations

import time

from kilter.types import SamplerFacts


class StandIn:
    """An engine without a model: it is ready at once, and follows weights."""

    def ready(self) -> None:
        """At once."""

    def pulse(self) -> float:
        """It always makes progress."""
        return time.monotonic()

    def facts(self) -> SamplerFacts:
        """A sampler that follows weights."""
        return SamplerFacts(version=0)
