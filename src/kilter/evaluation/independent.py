"""Which prompts of an evaluation are independent of each other, and which belong together.

Intervals count clusters, never prompts: ten wordings of one question are one observation with ten readings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from kilter.data.dataset import prompt_key
from kilter.data.near import Union, clusters
from kilter.data.worlds.registry import world_of
from kilter.types import Prompt

COMMON = 0.05
"""Share of the prompts from which on a sentence that they have in common says nothing of any of them."""


def together(prompts: Iterable[Prompt]) -> dict[str, str]:
    """The cluster of each prompt, by its key; a prompt that is there once, and stands alone, is left out.

    Prompts belong together if metadata["cluster"] says so, or metadata["twins"], or if they are nearly the
    same: the near-duplicates of `kilter audit`, but for prompts of a built-in world. What many prompts share,
    such as instructions or rules, is not looked at, for it is a property of none of them.
    """
    keys = [(prompt_key(p), p) for p in prompts if p.text or p.messages]
    found, often = list(dict(keys).items()), Counter(key for key, _ in keys)
    union = Union(len(found))

    # What the data says comes first, then what the texts show.
    for column in ("cluster", "twins"):
        first: dict[str, int] = {}
        for place, (_, prompt) in enumerate(found):
            name = prompt.metadata.get(column)
            if name is not None and name != "":
                union.join(first.setdefault(str(name), place), place)
    # A world draws its prompts from few words on purpose, each by itself; its twins are named.
    free = [i for i, (_, prompt) in enumerate(found) if world_of(prompt) is None]
    for place, root in zip(free, clusters(own_words([found[i][1] for i in free])), strict=True):
        union.join(free[root], place)
    roots = [union.root(place) for place in range(len(found))]
    sizes: Counter[int] = Counter()
    for (key, _), root in zip(found, roots, strict=True):
        sizes[root] += often[key]
    return {key: found[root][0] for (key, _), root in zip(found, roots, strict=True) if sizes[root] > 1}


def cluster_of(prompt: Prompt, known: Mapping[str, str]) -> str | None:
    """The cluster of a prompt: that of `together`, or what its column says; None where it stands alone."""
    column = prompt.metadata.get("cluster")
    return known.get(prompt_key(prompt)) or (None if column is None else f"column {column}")


def counted(prompts: Sequence[Prompt], known: Mapping[str, str]) -> int:
    """How many clusters the prompts are, counted and not assumed."""
    return len({cluster_of(prompt, known) or f"alone {i}" for i, prompt in enumerate(prompts)})


def own_words(prompts: Sequence[Prompt]) -> list[str]:
    """Each prompt without its system message and without sentences that many prompts have in common."""
    texts = [_said(prompt) for prompt in prompts]
    split = [[s for s in re.split(r"(?<=[.!?:])\s+|\n+", text) if s.strip()] for text in texts]
    counts = Counter(sentence for sentences in split for sentence in set(sentences))
    most = max(2.0, COMMON * len(prompts))
    own = [" ".join(s for s in sentences if counts[s] <= most) for sentences in split]
    # A prompt of nothing but common sentences is told by their order.
    return [words or text for words, text in zip(own, texts, strict=True)]


def _said(prompt: Prompt) -> str:
    """What users and models say in a prompt."""
    return prompt.text or "\n".join(m["content"] for m in prompt.messages if m["role"] != "system")
