"""Which labels people are asked for: the least certain ones, and those that their order decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pydantic import ConfigDict, Field

from kilter.data.lineage import KEY, lineage
from kilter.feedback.agreement import PEOPLE
from kilter.types import Feedback, Group
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
    """(pairs that stay, pairs for people), each in the order given.

    Args:
        pairs: of two answers, also those that are too close to learn from. Without odds of a judge a pair is
            certain, and stays.
        route: the share.
    """
    if route.human == 0:
        return list(pairs), []
    certain = [_certainty(pair) for pair in pairs]
    order = sorted((n for n, c in enumerate(certain) if c < math.inf), key=lambda n: certain[n])
    asked = set(order[: math.ceil(route.human * len(pairs))])
    asked |= {n for n in order if pairs[n].feedback[0].flipped(1)}
    kept = [p for n, p in enumerate(pairs) if n not in asked]
    return kept, [p for n, p in enumerate(pairs) if n in asked]


def question(pair: Group) -> Group:
    """A pair as people are asked about it: no scores, and no place that tells what the judge preferred."""
    *before, last = lineage(pair.prompt)
    places = sorted(range(len(pair.completions)), key=lambda n: last["answers"][n])
    known = {k: v for k, v in pair.prompt.metadata.items() if k != KEY}
    prompt = replace(pair.prompt, metadata=known | ({KEY: before} if before else {}))
    completions = tuple(pair.completions[n] for n in places)
    return Group(prompt, completions, (Feedback(None, source=PEOPLE),) * len(places))


def _certainty(pair: Group) -> float:
    """Distance of the odds from even; infinite where nobody gave any, or where both answers are the same."""
    p = pair.feedback[0].over(1)
    first, second = ((c.text, c.turns) for c in pair.completions)
    return math.inf if p is None or first == second else abs(p - 0.5)
