"""Which principle a prompt gets in a round: by hash, so that no order, batch or other principle matters.

Every principle bids with a hash of seed, prompt, round and its own id, and the highest bid wins (rendezvous
hashing, Thaler and Ravishankar 1998). A new principle can only win draws; it moves none between the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from kilter.constitution.document import Principle


def bid(seed: int, prompt: str, number: int, principle: Principle) -> float:
    """A principle's bid: -weight / log(u) with u drawn from the hash, so that it wins by its weight."""
    text = "\x1f".join([str(seed), prompt, str(number), principle.id])
    whole = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    return -principle.weight / math.log((whole + 0.5) / 2**64)


def draw(principles: Sequence[Principle], seed: int, prompt: str, number: int) -> Principle | None:
    """The principle of a prompt and round.

    Args:
        principles: those whose scope holds the prompt, in any order.
        seed: of the run.
        prompt: what identifies the prompt, such as its content's hash.
        number: 1-based number of the round.

    Returns:
        The highest bid's; None where there is no principle.
    """
    return max(principles, key=lambda p: (bid(seed, prompt, number, p), p.id), default=None)
