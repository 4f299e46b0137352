"""The order in which a run walks through its prompts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from kilter.types import Prompt


@dataclass
class PromptOrder:
    """Prompts in passes, each in an order of its own that follows from (seed, pass).

    `taken` is the whole state.
    """

    prompts: Sequence[Prompt]
    shuffle: bool = True
    seed: int = 0
    taken: int = 0
    _pass: int = -1
    _order: list[int] = field(default_factory=list)

    @property
    def epoch(self) -> float:
        """Passes over the prompts so far."""
        return self.taken / len(self.prompts)

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts; a pass that ends goes over into the next one."""
        found = []
        for _ in range(count):
            number, index = divmod(self.taken, len(self.prompts))
            found.append(self.prompts[self._permutation(number)[index]])
            self.taken += 1
        return found

    def _permutation(self, number: int) -> list[int]:
        # Made once per pass; all processes make the same one.
        if self._pass != number:
            self._pass, self._order = number, list(range(len(self.prompts)))
            if self.shuffle:
                random.Random(f"{self.seed}:{number}").shuffle(self._order)
        return self._order
