"""A row as the checks see it: its prompt, its answers, and which of them is the better one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kilter.data.dataset import prompt_key, prompt_words
from kilter.data.near import plain
from kilter.data.reading import ROW
from kilter.hashes import number
from kilter.types import Completion, Group


@dataclass(frozen=True, slots=True)
class Row:
    """One group of the data.

    Args:
        index: its number among the groups.
        group: prompt, answers, feedback.
        held: whether it is held out.
        prompt: the words of all its turns, the system message left out.
        key: 63 bits of the prompt's identity.
        texts: the words of each answer, all its turns.
        plain: what a reader sees of them; see kilter.data.near.plain.
        pair: places of the best and the worst answer; None where no two scores differ.
        format: of its row; "" where it was not read from a file.
    """

    index: int
    group: Group
    held: bool
    prompt: str
    key: int
    texts: tuple[str, ...]
    plain: tuple[str, ...]
    pair: tuple[int, int] | None
    format: str

    @property
    def system(self) -> str:
        """What the system messages of the prompt say."""
        return "\n".join(m["content"] for m in self.group.prompt.messages if m["role"] == "system")

    @property
    def sides(self) -> tuple[str, str] | None:
        """The better and the worse answer."""
        return None if self.pair is None else (self.texts[self.pair[0]], self.texts[self.pair[1]])

    def column(self, *names: str) -> Any:
        """What stands in the first of these columns that the row has; None where it has none."""
        return next((c[n] for n in names for c in self._columns() if n in c and c[n] != ""), None)

    def _columns(self) -> tuple[Mapping[str, Any], ...]:
        return self.group.prompt.columns, self.group.prompt.metadata


def look(index: int, group: Group, held: bool) -> Row:
    """The group as the checks see it."""
    texts = tuple(words_of(c) for c in group.completions)
    place = group.prompt.metadata.get(ROW)
    return Row(
        index,
        group,
        held,
        prompt_words(group.prompt),
        number(prompt_key(group.prompt)),
        texts,
        tuple(map(plain, texts)),
        best_and_worst(group),
        place[1] if place else "",
    )


def words_of(completion: Completion) -> str:
    """What an answer says, in all its turns."""
    return "\n".join(t["content"] for t in completion.turns) if completion.turns else completion.text


def best_and_worst(group: Group) -> tuple[int, int] | None:
    """Places of the answers with the highest and the lowest score; None where no two differ."""
    scored = [(f.score, i) for i, f in enumerate(group.feedback) if f.score is not None]
    if len(scored) < 2:
        return None
    best = max(scored, key=lambda pair: (pair[0], -pair[1]))
    worst = min(scored, key=lambda pair: (pair[0], -pair[1]))
    return None if best[0] == worst[0] else (best[1], worst[1])
