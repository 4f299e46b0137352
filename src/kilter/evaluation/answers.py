"""Answers of one model, kept on disk as they are made: no model says the same thing twice.

A killed evaluation goes on where it was, sample by sample. Another evaluation beside it takes what the same
model said under the same settings, and a metric of one answer takes the first of the several that another
metric asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from kilter.sampling.samples import Asking, Samples
from kilter.seams import Sampler
from kilter.types import Completion, Feedback, Group, Prompt, SamplingParams

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
        # A model in memory is asked whole rounds again, so that it has no use for parts of them.
        samples = None if self.sampler.facts.exact else Samples(path.with_suffix(".samples.jsonl"), known)
        asking, problems = Asking(self.sampler, k, self.params, samples), list[str]()
        rounds = list(self._rounds([key for key in by_key if key not in taken], known))
        total, done = sum(map(len, rounds)) * k, 0
        with Display(self.console, f"{self.title}: answers of {self.subject.name}", total) as display:
            for keys in rounds:
                part = [by_key[key] for key in keys]
                problems += self._ask(asking, part, known, OnDisplay(display, done))
                if samples is not None:
                    samples.end([p for p in part if len(known[prompt_key(p)]) == k])
                done += len(keys) * k
        self._report(problems, total, any(known.values()))
        return [known.get(prompt_key(p), ()) for p in prompts]

    def _ask(
        self,
        asking: Asking,
        prompts: Sequence[Prompt],
        known: dict[str, tuple[Completion, ...]],
        display: OnDisplay,
    ) -> list[str]:
        """Notes the answers to these prompts, and writes them as they come; returns why others failed.

        A model in memory is asked a whole round again: the last bits of its log-probs depend on who else is
        in the batch. Elsewhere an answer may cost money, and nothing is asked twice.
        """
        keys, problems = [prompt_key(prompt) for prompt in prompts], list[str]()
        done = [] if asking.kept is None else [n for n, key in enumerate(keys) if key in known]

        def ended(n: int, made: Mapping[int, Completion], failed: Mapping[int, str]) -> None:
            problems.extend(failed.values())
            if keys[n] in known:
                return
            known[keys[n]] = tuple(made.values())
            # What failed is not written, so that the next attempt asks again.
            if len(made) == asking.k:
                store.append(self.path, [_line(prompts[n], known[keys[n]])])

        asking(prompts, done, display, ended)
        return problems

    def _rounds(self, keys: Sequence[str], known: Collection[str]) -> Iterator[Sequence[str]]:
        """Prompts that are handed to the sampler together, where one of them has no answer yet."""
        for first in range(0, len(keys), CHUNK):
            part = keys[first : first + CHUNK]
            if any(key not in known for key in part):
                yield part

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


def _line(prompt: Prompt, answers: tuple[Completion, ...]) -> Group:
    """A line of the file: the prompt's key stands for the prompt."""
    key = Prompt(id=prompt.id, metadata={"key": prompt_key(prompt)})
    return Group(key, answers, (Feedback(None),) * len(answers))
