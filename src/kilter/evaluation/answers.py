"""Answers of one model, kept on disk as they are made, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from kilter.data import store
from kilter.data.dataset import prompt_key
from kilter.evaluation.config import EvaluateSpec
from kilter.progress import Display, OnDisplay
from kilter.roles.open import Ready
from kilter.sampling.collect import answers as complete
from kilter.sampling.local import LocalSampler
from kilter.types import Completion, Feedback, Group, Prompt, SamplingParams

CHUNK = 128
"""Prompts whose answers are written together; a kill loses at most these."""

Answers = list[tuple[Completion, ...]]
"""[prompt][sample]"""


@dataclass(frozen=True)
class Answering:
    """One model that answers. title: the stage's, name: the model's, for people and for the file's name."""

    spec: EvaluateSpec
    model: Ready
    out: Path
    console: Console
    title: str
    name: str

    @property
    def params(self) -> SamplingParams:
        """How every prompt is answered."""
        s = self.spec
        return SamplingParams(s.max_new_tokens, s.temperature, s.top_p, s.top_k, seed=s.seed)

    def path(self, k: int) -> Path:
        """Where the answers are kept: another model, setting or number of samples has another file."""
        settings = f"{self.model.hash}|{self.params}|{self.spec.dtype}|{self.spec.max_length}"
        settings += f"|{self.model.encoder.tokenizer.chat_template}" + (f"|{k}" if k > 1 else "")
        stamp = hashlib.sha256(settings.encode()).hexdigest()[:16]
        return self.out / "answers" / f"{re.sub(r'[^A-Za-z0-9-]+', '_', self.name)[-60:]}-{stamp}.jsonl"

    def __call__(self, prompts: Sequence[Prompt], k: int = 1) -> Answers:
        """k answers to each prompt. Those on disk are taken from there, the others sampled and written."""
        path = self.path(k)
        known = {g.prompt.metadata["key"]: g.completions for g in store.read(path)}
        todo = [p for p in prompts if prompt_key(p) not in known]
        with Display(self.console, f"{self.title}: answers of {self.name}", len(todo)) as display:
            sampler = LocalSampler(self.model.scorer, self.model.encoder, amp=self.model.amp)
            for first in range(0, len(todo), CHUNK):
                part = todo[first : first + CHUNK]
                report = OnDisplay(display, first, k)
                made = [tuple(answers) for answers in complete(sampler, part, k, self.params, report)]
                store.append(path, [_line(p, answers) for p, answers in zip(part, made, strict=True)])
                known |= {prompt_key(p): answers for p, answers in zip(part, made, strict=True)}
        return [known[prompt_key(p)] for p in prompts]


def _line(prompt: Prompt, answers: tuple[Completion, ...]) -> Group:
    """A line of the file: the prompt's key stands for the prompt."""
    key = Prompt(id=prompt.id, metadata={"key": prompt_key(prompt)})
    return Group(key, answers, (Feedback(None),) * len(answers))
