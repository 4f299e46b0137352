"""Answers of one model, kept on disk as they are made: no model says the same thing twice.

A killed evaluation goes on where it was. Another evaluation beside it takes what the same model said under
the same settings, and a metric of one answer takes the first of the several that another metric asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from kilter import manifest as manifests
from kilter.artifacts import sha256_file
from kilter.data import store
from kilter.data.dataset import prompt_key
from kilter.errors import RunFailed
from kilter.evaluation.config import EvaluateSpec
from kilter.evaluation.subject import Subject
from kilter.progress import Display, OnDisplay
from kilter.sampling.collect import as_asked, requests
from kilter.seams import Listener, Sampler
from kilter.types import Completion, Feedback, Group, Prompt, Request, Sample, SamplingParams

FOLDER = "answers"
"""In the folder of an evaluation."""

CHUNK = 128
"""Prompts that are handed to the sampler together."""

Answers = list[tuple[Completion, ...]]
"""[prompt][sample]; fewer where the sampler failed, none where it gave no answer at all"""


@dataclass(frozen=True)
class Answering:
    """One model that answers. template: its chat template. title: the stage's, for people."""

    spec: EvaluateSpec
    subject: Subject
    sampler: Sampler
    template: str
    out: Path
    console: Console
    title: str

    @property
    def params(self) -> SamplingParams:
        """How every prompt is answered."""
        s = self.spec
        return SamplingParams(s.max_new_tokens, s.temperature, s.top_p, s.top_k, seed=s.seed)

    @property
    def path(self) -> Path:
        """Where the answers lie. Another model, sampler or setting has another file."""
        settings = f"{self.subject.hash}|{self.params}|{self.spec.dtype}|{self.spec.max_length}"
        settings += f"|{self.template}|{self.spec.sampler.model_dump_json(exclude_defaults=True)}"
        stamp = hashlib.sha256(settings.encode()).hexdigest()[:16]
        name = re.sub(r"[^A-Za-z0-9-]+", "_", self.subject.name)[-60:]
        return self.out / FOLDER / f"{name}-{stamp}.jsonl"

    def __call__(self, prompts: Sequence[Prompt], k: int = 1) -> Answers:
        """k answers to each prompt. Those on disk are taken from there, the others sampled and written.

        Raises:
            RunFailed: no prompt has an answer.
        """
        path, by_key = self.path, {prompt_key(p): p for p in prompts}
        taken = self._taken(by_key, k)
        kept = {key: row[:k] for key, row in _kept(path).items() if len(row) >= k}
        store.append(path, [_line(by_key[key], row) for key, row in taken.items() if key not in kept])
        known = taken | kept
        rounds = list(self._rounds([key for key in by_key if key not in taken], known))
        problems: list[str] = []
        total, done = sum(map(len, rounds)), 0
        with Display(self.console, f"{self.title}: answers of {self.subject.name}", total) as display:
            for keys in rounds:
                wanted = requests([by_key[key] for key in keys], k, self.params)
                for request, samples in finished(self.sampler, wanted, OnDisplay(display, done, k)):
                    made = tuple(s.completion for s in samples if s.completion is not None)
                    problems += [s.problem for s in samples if s.completion is None]
                    key = prompt_key(request.prompt)
                    if key in known:
                        continue
                    known[key] = made

                    # What failed is not written, so that the next attempt asks again.
                    if len(made) == k:
                        store.append(path, [_line(request.prompt, made)])
                done += len(keys)
        self._report(problems, total * k, any(known.values()))
        return [known.get(prompt_key(p), ()) for p in prompts]

    def _rounds(self, keys: Sequence[str], known: Collection[str]) -> Iterator[list[str]]:
        """Prompts that are handed to the sampler together, where one of them has no answer yet.

        A model in memory is asked a whole round again: the last bits of its log-probs depend on who else is
        in the batch. Elsewhere an answer may cost money, and nothing is asked twice.
        """
        again = self.sampler.facts.exact
        for first in range(0, len(keys), CHUNK):
            part = keys[first : first + CHUNK]
            missing = [key for key in part if key not in known]
            if missing:
                yield list(part) if again else missing

    def _taken(self, keys: Collection[str], k: int) -> dict[str, tuple[Completion, ...]]:
        """k answers to each prompt that an evaluation in a folder beside this one has, word for word."""
        found: dict[str, tuple[Completion, ...]] = {}
        for path in sorted(self.out.resolve().parent.glob(f"*/{FOLDER}/{self.path.name}")):
            rows = _kept(path) if path != self.path.resolve() and _unaltered(path) else {}
            fresh = {key: row[:k] for key, row in rows.items() if key in keys and len(row) >= k}
            if fresh.keys() - found.keys():
                where = path.parent.parent.name
                self.console.print(f"  {len(fresh)} answers of {self.subject.name} are those of {where}")
            found = fresh | found
        return found

    def _report(self, problems: Sequence[str], total: int, any_answer: bool) -> None:
        """Says how many answers could not be made, and why the first could not."""
        if not problems:
            return
        text = f"{len(problems)} of {total} answers of {self.subject.name} failed: {problems[0]}"
        if not any_answer:
            raise RunFailed(text, "mend the sampler and run the same command again")
        self.console.print(f"  {text}")


def _kept(path: Path) -> dict[str, tuple[Completion, ...]]:
    """The answers in a file by the keys of their prompts; of two lines the one with more answers counts."""
    found: dict[str, tuple[Completion, ...]] = {}
    for group in store.read(path):
        key = group.prompt.metadata["key"]
        if len(group.completions) > len(found.get(key, ())):
            found[key] = group.completions
    return found


def _unaltered(path: Path) -> bool:
    """Whether a finished evaluation vouches for a file of answers by its hash."""
    entry = manifests.read(path.parent.parent)
    noted = None if entry is None or entry.status != "done" else entry.files.get(f"{FOLDER}/{path.name}")
    return noted is not None and noted == sha256_file(path)


def finished(
    sampler: Sampler, wanted: Sequence[Request], listener: Listener
) -> Iterator[tuple[Request, list[Sample]]]:
    """Each request with its samples in order, as soon as all of them have come."""
    rows: dict[str, list[Sample]] = {r.id: [] for r in wanted}
    for sample in as_asked(sampler.run(wanted, listener), sampler, wanted):
        row = rows[sample.request.id]
        row.append(sample)
        if len(row) == sample.request.k:
            yield sample.request, sorted(row, key=lambda s: s.index)


def _line(prompt: Prompt, answers: tuple[Completion, ...]) -> Group:
    """A line of the file: the prompt's key stands for the prompt."""
    key = Prompt(id=prompt.id, metadata={"key": prompt_key(prompt)})
    return Group(key, answers, (Feedback(None),) * len(answers))
