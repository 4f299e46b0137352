"""RawScores from a pool of workers. Each group is a request of its own, so who scores it does not matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kilter.cluster import pool as pools
from kilter.cluster.pool import Pool
from kilter.seams import RawScores
from kilter.training.apart.worker import Worker
from kilter.types import Feedback, Group


class ScoreWorker(Worker):
    """Scores answers with a model that does not change.

    Args:
        make: the model's class.
        arguments: of it, plain.
    """

    def __init__(self, make: Callable[..., RawScores], arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = make(**arguments)

    def scores(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion, as the model gives it."""
        self.progress.count += 1
        return self.model(groups)


class PooledScores(RawScores):
    """A model that scores, in workers.

    Args:
        pool: of ScoreWorkers.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._begun: dict[str, pools.Request] = {}

    def begin(self, groups: Sequence[Group]) -> None:
        """Sends off the groups that are not under way yet."""
        for group in groups:
            key = _key(group)
            if key not in self._begun:
                self._begun[key] = self.pool.submit("scores", [group])

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion, in the order of the groups."""
        self.begin(groups)
        calls = [self._begun[_key(group)] for group in groups]
        found = [row for call in calls for row in self.pool.result(call)]
        # What was begun and never asked for, such as a step that a fault ended, is asked again if need be.
        self._begun = {key: call for key, call in self._begun.items() if call not in calls}
        return found


def _key(group: Group) -> str:
    """What the score of a group follows from."""
    asked = (group.prompt.messages, group.prompt.text, group.prompt.tools, group.prompt.template_kwargs)
    return repr((asked, [(c.text, c.token_ids, c.turns) for c in group.completions]))
