"""Which labels people are asked for: the least certain ones, and those that their order decided."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import ConfigDict, Field

from kilter.types import Group
from kilter.validation import Settings


class Route(Settings):
    """What becomes of doubtful labels."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    human: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the pairs, the least certain ones, that people label instead; "
        "above 0 the pairs whose order decided go to them too",
    )


def routed(pairs: Sequence[Group], route: Route) -> tuple[list[Group], list[Group]]:
    """(pairs to learn from, pairs for people), each in the order of the data.

    Args:
        pairs: the better answer first. Without odds of a judge a pair is certain, and stays.
        route: the share.
    """
    if route.human == 0:
        return list(pairs), []
    certain = [_certainty(pair) for pair in pairs]
    order = sorted((n for n, c in enumerate(certain) if c < math.inf), key=lambda n: certain[n])
    asked = set(order[: math.ceil(route.human * len(pairs))])
    asked |= {n for n, pair in enumerate(pairs) if pair.feedback[0].flipped(1)}
    kept = [p for n, p in enumerate(pairs) if n not in asked]
    return kept, [p for n, p in enumerate(pairs) if n in asked]


def _certainty(pair: Group) -> float:
    """Distance of the odds from even; infinite where nobody gave any."""
    p = pair.feedback[0].over(1)
    return math.inf if p is None else abs(p - 0.5)
