"""Judges of worlds: each is a feedback source under its world's name, the default for its prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kilter.data.worlds import registry as worlds
from kilter.feedback.registry import feedback_sources
from kilter.seams import FeedbackSource
from kilter.types import Feedback, Group, Prompt

feedback_sources.include(worlds.sources, lambda name: worlds.by_source(name).judge)


def judged(prompts: Sequence[Prompt]) -> list[str]:
    """The sources that judge these prompts where a recipe names none, in order of first appearance."""
    owners = (worlds.world_of(prompt) for prompt in prompts)
    return list(dict.fromkeys(world.source for world in owners if world is not None))


class OwnJudge(FeedbackSource):
    """The judge of the world that the prompt comes from; answers to other prompts stay unscored."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        """`prompts`: those that will be judged."""
        self.judges = {name: worlds.by_source(name).judge() for name in judged(prompts)}

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        no_truth = Feedback(None, "gold", rationale="the prompt comes from no world that knows the truth")
        verdicts = [[no_truth] * len(g.completions) for g in groups]
        for name, judge in self.judges.items():
            places = [n for n, g in enumerate(groups) if g.prompt.metadata.get("world") == name]
            for n, verdict in zip(places, judge([groups[n] for n in places]), strict=True):
                verdicts[n] = verdict
        return verdicts

    def state(self) -> dict[str, Any]:
        """The states of the judges that have one, by name."""
        return {name: state for name, judge in self.judges.items() if (state := judge.state())}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        for name, own in state.items():
            self.judges[name].restore(own)
