"""A sampler that says what it was told to say: for tests, demonstrations and rehearsals without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kilter.errors import UserError
from kilter.progress import NOBODY
from kilter.sampling.build import SamplerContext
from kilter.sampling.choices import choice
from kilter.sampling.registry import samplers
from kilter.seams import Listener
from kilter.types import Choice, Completion, Prompt, Request, Sample, SamplerFacts, Usage, Weights
from kilter.validation import unique

Script = Callable[[Prompt, int], str | None]
"""(prompt, number of the sample) to the answer; None where the script has none."""

Choices = Mapping[str, Mapping[str, float]]
"""What was asked, to the probability of each option."""


def asked(prompt: Prompt) -> str:
    """What a script knows a prompt by: its text, or its last message."""
    if prompt.text is not None:
        return prompt.text
    return prompt.messages[-1]["content"] if prompt.messages else ""


class ScriptedSampler:
    """Answers from a script.

    Args:
        script: answers by what is asked (one, or one per sample), answers in order, or a function.
        choices: probabilities of options by what is asked; else the option that begins the answer is certain.
    """

    def __init__(
        self,
        script: Script | Mapping[str, str | Sequence[str]] | Sequence[str],
        choices: Choices | None = None,
    ) -> None:
        self._script: Script = script if callable(script) else _reader(script)
        self._choices = choices or {}

    facts = SamplerFacts(chooses=True, skips=True)

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Yields the script's answers in order, as if they were sampled."""
        done = 0
        for request in requests:
            for index in request.wanted:
                sample = self._sample(request, index)
                # In words, so that a rehearsal looks like the performance.
                if listener.wants_text and sample.completion is not None:
                    for piece in _words(sample.completion.text):
                        listener.text(request, index, piece)
                done += 1
                listener.finished(done, None)
                yield sample

    def _sample(self, request: Request, index: int) -> Sample:
        # Text alone stands in a script.
        if request.prefix_ids:
            return Sample(request, index, None, "a script has no tokens to go on from")
        try:
            text = self._script(request.prompt, index)
        except Exception as error:
            # The script may be anybody's, and one bad answer ends no other.
            return Sample(request, index, None, f"the script failed: {type(error).__name__}: {error}")
        if text is None:
            return Sample(request, index, None, f"the script has no answer to {asked(request.prompt)!r}")
        completion = Completion(text, finish_reason="stop")
        return Sample(request, index, completion, usage=Usage(tokens=len(text.split())))

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice]:
        """Takes the script's `choices`; without them, the option that its answer begins with is certain."""
        return [self._choose(p, options) for p in prompts]

    def _choose(self, prompt: Prompt, options: Sequence[str]) -> Choice:
        # What was told stands first; without it the written answer is read like one that a model gave.
        told = self._choices.get(asked(prompt))
        if told is not None:
            return choice(options, [told.get(o, 0.0) for o in options])
        text = self._script(prompt, 0) or ""
        begun = [o for o in options if text.startswith(o)]
        return choice(options, [float(o == max(begun, key=len, default=None)) for o in options])

    def sync(self, weights: Weights) -> int:
        """A script does not learn."""
        return weights.version

    def close(self) -> None:
        """Does nothing: a script holds no process or connection."""


def _reader(script: Mapping[str, str | Sequence[str]] | Sequence[str]) -> Script:
    """The script as a function of prompt and index, whichever way it was given."""
    # By what is asked, so that neither order nor other prompts matter; else in the order of the questions.
    if isinstance(script, Mapping):
        table = script

        def look_up(prompt: Prompt, index: int) -> str | None:
            found = table.get(asked(prompt))
            if found is None or isinstance(found, str):
                return found
            return found[index] if index < len(found) else None

        return look_up
    rest = iter(script)
    return lambda prompt, index: next(rest, None)


def _words(text: str) -> Iterator[str]:
    """Words with the space before each."""
    for n, word in enumerate(text.split(" ")):
        yield word if n == 0 else f" {word}"


def read_script(path: Path, field: str = "sampler.script") -> ScriptedSampler:
    """Reads a script from JSON lines.

    A line is {"prompt", "answer"} or {"prompt", "answers"}. It may add "choices": {option: probability}.
    """
    answers: dict[str, str | Sequence[str]] = {}
    choices: dict[str, Mapping[str, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row: dict[str, Any] = json.loads(line, object_pairs_hook=unique)
            # A line may script a choice, an answer, or both.
            if "choices" in row:
                choices[row["prompt"]] = row["choices"]
            if "choices" not in row or "answer" in row or "answers" in row:
                answers[row["prompt"]] = row["answer"] if "answer" in row else row["answers"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                field,
                f"{path}:{number}",
                f"is not a line of a script ({type(error).__name__}: {error})",
                'write {"prompt": "...", "answer": "..."} on every line',
            ) from error
    return ScriptedSampler(answers, choices)


@samplers.register("scripted")
def open_scripted(context: SamplerContext) -> ScriptedSampler:
    """Opens the script in the file that the settings name."""
    path = Path(context.spec.script or context.model)
    if not path.is_file():
        fix = "name a file with a line {prompt, answer} for each prompt"
        raise UserError("sampler.script", str(path), "is not a file", fix)
    return read_script(path)
