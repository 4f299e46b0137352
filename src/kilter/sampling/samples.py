"""Samples that have ended before the others of their prompt: on disk, so that a kill does not cost them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kilter.artifacts import append_lines, remove
from kilter.data import store
from kilter.data.dataset import prompt_key
from kilter.progress import OnDisplay
from kilter.sampling.collect import NO_ANSWER, begin, finish, requests
from kilter.seams import Sampler
from kilter.types import Completion, Feedback, Group, Prompt, Sample, SamplingParams


class Samples:
    """The samples of prompts of which others are still to come.

    Args:
        path: of their file, which is there as long as they are.
        there: keys of the prompts that have their row: a killed run may have left samples of them.
    """

    def __init__(self, path: Path, there: Collection[str] = ()) -> None:
        self.path = path
        self._there: dict[str, dict[int, Completion]] = {}
        for group in store.read(path):
            key, number = group.prompt.metadata["key"], group.prompt.metadata["sample"]
            if key not in there:
                self._there.setdefault(key, {})[number] = group.completions[0]

    def of(self, prompt: Prompt, k: int) -> dict[int, Completion]:
        """Those of a prompt's first k that are there, by their number."""
        return {i: made for i, made in self._there.get(prompt_key(prompt), {}).items() if i < k}

    def count(self, prompts: Sequence[Prompt], k: int) -> int:
        """How many of these prompts' first k samples are there."""
        return sum(len(self.of(prompt, k)) for prompt in prompts)

    def add(self, prompt: Prompt, number: int, answer: Completion) -> None:
        """Appends one. Nobody waits for the disk each time, so that a power cut may take it back."""
        about = Prompt(metadata={"key": prompt_key(prompt), "sample": number})
        append_lines(self.path, [store.to_json(Group(about, (answer,), (Feedback(None),)))], escape=False)
        self._there.setdefault(prompt_key(prompt), {})[number] = answer

    def end(self, prompts: Sequence[Prompt]) -> None:
        """Forgets those of prompts that have their row. The file goes with the last one."""
        for prompt in prompts:
            self._there.pop(prompt_key(prompt), None)
        if not self._there:
            remove(self.path)


Ended = Callable[[int, Mapping[int, Completion], Mapping[int, str]], None]
"""Takes the place of a prompt, its answers by number, and why others of them failed."""


@dataclass(frozen=True)
class Asking:
    """Asks prompts k times each, but for the samples that are there.

    Args:
        sampler: who answers.
        k: samples of each prompt.
        params: how each is sampled.
        kept: where samples lie until their prompt has all of them; None keeps none.
    """

    sampler: Sampler
    k: int
    params: SamplingParams
    kept: Samples | None

    def __call__(
        self, prompts: Sequence[Prompt], done: Collection[int], display: OnDisplay, ended: Ended
    ) -> None:
        """Returns when all prompts have ended; a kill costs no sample but those under way.

        Args:
            prompts: that are asked together.
            done: places of those that are asked for nothing. They count where others are the same tokens.
            display: told how many samples are there.
            ended: called once for each of the others, as soon as its last sample has come.
        """
        k, left = self.k, [n for n in range(len(prompts)) if n not in done]
        answers = [{} if self.kept is None else self.kept.of(prompt, k) for prompt in prompts]
        problems: list[dict[int, str]] = [{} for _ in prompts]
        skip = [tuple(range(k)) if n in done else tuple(answers[n]) for n in range(len(prompts))]
        display.done += sum(map(len, skip))

        def came(n: int, sample: Sample) -> None:
            if sample.completion is None:
                problems[n][sample.index] = sample.problem or NO_ANSWER
                return
            answers[n][sample.index] = sample.completion
            # The only sample of a prompt waits for no other.
            if self.kept is not None and k > 1:
                self.kept.add(prompts[n], sample.index, sample.completion)

        def arrived(n: int, made: Sequence[Completion] = ()) -> None:
            left.remove(n)
            ended(n, dict(sorted(answers[n].items())), problems[n])

        finish(begin(self.sampler, requests(prompts, k, self.params, skip=skip)), display, arrived, came)
        # A sampler of the user's own may forget a sample: the others of its prompt count.
        for n in list(left):
            problems[n] |= {i: NO_ANSWER for i in range(k) if i not in answers[n] | problems[n]}
            arrived(n)
