"""How many answers hold one and the same phrase: a model that is trained too far says it to everybody."""

from collections import defaultdict
from collections.abc import Sequence

from kilter.data.words import joined, words
from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered

WORDS = 8
"""Words of a phrase; of a script without spaces, characters."""


def phrases(text: str) -> set[str]:
    """The phrases of a text, their words apart by spaces."""
    units = words(text)
    return {" ".join(units[i : i + WORDS]) for i in range(len(units) - WORDS + 1)}


def shown(phrase: str) -> str:
    """A phrase as it is read: characters of a script without spaces stand together."""
    return joined(phrase.split(" "))


def most_repeated(texts: Sequence[tuple[str, str]]) -> tuple[float, str]:
    """The phrase of eight words that most answers hold.

    Args:
        texts: (prompt, answer) of each; several answers to one prompt may well say the same.

    Returns:
        The share of answers that hold it, and the phrase; 0 and "" where no phrase is in answers to two
        prompts.
    """
    holders: dict[str, set[int]] = defaultdict(set)
    for n, (_, answer) in enumerate(texts):
        for phrase in phrases(answer):
            holders[phrase].add(n)
    shared = {g: own for g, own in holders.items() if len({texts[n][0] for n in own}) > 1}
    if not shared:
        return 0.0, ""
    phrase = min(shared, key=lambda g: (-len(shared[g]), g))
    return len(shared[phrase]) / len(texts), shown(phrase)


@metric("boilerplate", title="Boilerplate", unit="share of answers", better="lower", aggregate="corpus")
class Boilerplate:
    """Share of answers that hold the eight words in a row that most answers hold; the report names them."""

    def over_corpus(self, items: Sequence[Answered]) -> tuple[float | None, str]:
        """The share, and the phrase."""
        if not items:
            return None, "no answers"
        # Twins and repeated questions are prompts of their own: their place tells them apart.
        share, phrase = most_repeated([(str(n), item.answers[0].text) for n, item in enumerate(items)])
        return share, f"the phrase {phrase!r}" if phrase else "no phrase is in two answers"
