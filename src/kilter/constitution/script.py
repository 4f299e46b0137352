"""What a world's script, as critic or judge, makes of a constitution that is not its own."""

from __future__ import annotations

from collections.abc import Sequence

from kilter.constitution.document import Constitution
from kilter.data.worlds.registry import DEFAULT, PREFIX, critic_of
from kilter.sampling.config import SamplerKind


def alike(who: str, sampler: SamplerKind, documents: Sequence[Constitution]) -> list[str]:
    """What `mixed_up` finds, as one sentence; none where it finds nothing.

    Args:
        who: critic or judge.
        sampler: of it.
        documents: whose principles it is asked about.
    """
    mixed = mixed_up(sampler, documents)
    said = f"the {who}'s script has no rule of its own for {', '.join(mixed)}: it answers them all alike"
    return [said] if mixed else []


def mixed_up(sampler: SamplerKind, documents: Sequence[Constitution]) -> list[str]:
    """Ids of principles that a world's script takes for one and the same; none of a model.

    Args:
        sampler: of a critic or a judge.
        documents: whose principles it is asked about.
    """
    if sampler.name != "world":
        return []
    world, critic = (sampler.options.get(k, d) for k, d in (("world", DEFAULT), ("critic", "constitution")))
    known = critic_of(f"{PREFIX}{world}", str(critic), "sampler.options").principles
    mixed = list(dict.fromkeys(p.id for d in documents for p in d.principles if p.id not in known))
    return mixed if len(mixed) > 1 else []
