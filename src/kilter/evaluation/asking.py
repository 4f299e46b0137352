"""Asks every model the same questions. The baseline stays in memory, for the others' KL."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from kilter.data.encode import Encoder
from kilter.evaluation import likelihood
from kilter.evaluation.answers import Answering, Answers
from kilter.evaluation.config import EvaluateSpec
from kilter.evaluation.follow_ups import Replies, second_turns
from kilter.evaluation.subject import Subject
from kilter.evaluation.suites import Suite
from kilter.progress import Display
from kilter.roles.open import OpenSpec, Ready, open_model
from kilter.sampling.build import SamplerContext, build

Logps = list[tuple[float, ...]]
"""[prompt][token] of the first answers, nats at temperature 1"""


@dataclass
class ModelAnswers:
    """What one model did while it was in memory. None: not asked for, or not to be had."""

    prompts: Answers
    probes: Answers = field(default_factory=list)
    tasks: Answers = field(default_factory=list)
    follow_ups: Replies = field(default_factory=list)
    logps: Logps | None = None
    reference_logps: Logps | None = None
    entropy: list[float | None] | None = None
    nll: list[float | None] = field(default_factory=list)
    pair_logps: list[tuple[float, float] | None] | None = None


@dataclass
class Asking:
    """Asks one model after the other, and computes what needs its weights.

    needs: those of the metrics; what no metric needs is not computed. k: answers per prompt. probe_k: answers
    per probe.
    """

    spec: EvaluateSpec
    suite: Suite
    needs: Collection[str]
    k: int
    out: Path
    console: Console
    title: str
    probe_k: int = 1
    baseline: Ready | None = None

    def ask(self, subject: Subject) -> ModelAnswers:
        """Answers of one model and their log-probs. The first model asked is the others' baseline."""
        # A sampler opens the weights only if it needs them, and they are opened once for all that follows.
        opened = functools.cache(lambda: self._open(subject))
        context = SamplerContext(
            self.spec.sampler,
            lambda: (opened().scorer, opened().encoder),
            subject.reference,
            self.spec.dtype,
        )
        with contextlib.closing(build(context)) as sampler:
            template = "" if subject.folder is None else opened().encoder.tokenizer.chat_template
            answering = Answering(
                self.spec, subject, sampler, str(template), self.out, self.console, self.title
            )
            said = ModelAnswers(answering(self.suite.prompts, self.k))
            if self.suite.probes:
                said.probes = answering(self.suite.probes, self.probe_k)
            if self.suite.tasks:
                said.tasks = answering(self.suite.tasks)
            if "follow_ups" in self.needs:
                said.follow_ups = self._follow_ups(answering, said.prompts)
            exact = sampler.facts.exact

        if subject.folder is not None:
            self._likelihoods(subject.name, opened(), said, exact)
        return said

    def _likelihoods(self, name: str, model: Ready, said: ModelAnswers, exact: bool) -> None:
        """Log-probs of the first answers under the model and the baseline, and of the tax set."""
        if "logps" in self.needs:
            said.logps = self._own_logps(model, said.prompts, exact)
        if "entropy" in self.needs:
            said.entropy = self._entropy(model, said.prompts, exact)
        if self.suite.tax:
            said.nll = self._nll(model, name)
        if "pair_logps" in self.needs and self.suite.pairs:
            said.pair_logps = self._pair_logps(model, name)

        # The baseline comes first and stays open: its log-probs of the others' answers give their KL.
        if self.baseline is None:
            self.baseline = model
        elif "reference_logps" in self.needs and self._same_vocabulary(model, name):
            said.reference_logps = self._logps(self.baseline, model.encoder, said.prompts, f"KL of {name}")

    def _follow_ups(self, answering: Answering, first: Answers) -> Replies:
        """The replies to each prompt's follow-ups, all asked at once."""
        turns = [
            second_turns(prompt, answers[0].text, self.spec.follow_ups) if answers else {}
            for prompt, answers in zip(self.suite.prompts, first, strict=True)
        ]
        asked = [prompt for by_name in turns for prompt in by_name.values()]
        found = iter(answering(asked) if asked else ())
        replies = [{name: next(found) for name in by_name} for by_name in turns]
        return [{name: row[0] for name, row in by_name.items() if row} for by_name in replies]

    def _open(self, subject: Subject) -> Ready:
        """The weights, with room for an answer after each prompt."""
        assert subject.folder is not None, "an endpoint's weights are not here"
        s = self.spec
        return open_model(
            OpenSpec(
                subject.folder,
                dtype=s.dtype,
                template=s.template,
                max_length=s.max_length,
                max_prompt=max(1, s.max_length - s.max_new_tokens),
            )
        )

    def _same_vocabulary(self, model: Ready, name: str) -> bool:
        """Token ids mean the same in both models; without that there is no KL."""
        assert self.baseline is not None
        same: bool = model.encoder.tokenizer.get_vocab() == self.baseline.encoder.tokenizer.get_vocab()
        if not same:
            self.console.print(f"  no KL for {name}: its vocabulary is not the baseline's")
        return same

    def _own_logps(self, model: Ready, answers: Answers, exact: bool) -> Logps:
        """The policy's log-probs at temperature 1: the sampler's own if they are just that, else computed."""
        if exact and self.spec.temperature == 1.0 and self.spec.dtype == "float32":
            return [tuple(row[0].sampling_logps or ()) if row else () for row in answers]
        return self._logps(model, model.encoder, answers, "log-probs")

    def _entropy(self, model: Ready, answers: Answers, exact: bool) -> list[float | None]:
        """Of the policy at temperature 1: the sampler's own if it is just that, else computed."""
        if exact and self.spec.temperature == 1.0 and self.spec.dtype == "float32":
            return [row[0].entropy if row else None for row in answers]
        present = [i for i, row in enumerate(answers) if row]
        with Display(self.console, f"{self.title}: entropy", len(present)) as display:
            found = likelihood.token_entropy(
                model.scorer,
                model.encoder,
                [self.suite.prompts[i] for i in present],
                [answers[i][0] for i in present],
                self.spec.tokens_per_microbatch,
                lambda done: display.update(done, "answers"),
            )
        by_prompt = dict(zip(present, found, strict=True))
        return [by_prompt.get(i) for i in range(len(answers))]

    def _logps(self, model: Ready, encoder: Encoder, answers: Answers, what: str) -> Logps:
        """Of the first answer to each prompt, under a model; nothing where there is no answer."""
        present = [i for i, row in enumerate(answers) if row]
        with Display(self.console, f"{self.title}: {what}", len(present)) as display:
            found = likelihood.token_logps(
                model.scorer,
                encoder,
                [self.suite.prompts[i] for i in present],
                [answers[i][0] for i in present],
                self.spec.tokens_per_microbatch,
                lambda done: display.update(done, "answers"),
            )
        by_prompt = dict(zip(present, found, strict=True))
        return [by_prompt.get(i, ()) for i in range(len(answers))]

    def _pair_logps(self, model: Ready, name: str) -> list[tuple[float, float] | None]:
        with Display(
            self.console, f"{self.title}: held-out pairs of {name}", len(self.suite.pairs)
        ) as display:
            return likelihood.pair_logps(
                model.scorer,
                model.encoder,
                self.suite.pairs,
                self.spec.tokens_per_microbatch,
                lambda done: display.update(done, "pairs"),
            )

    def _nll(self, model: Ready, name: str) -> list[float | None]:
        with Display(self.console, f"{self.title}: tax of {name}", len(self.suite.tax)) as display:
            return likelihood.token_nll(
                model.scorer,
                model.encoder,
                self.suite.tax,
                self.spec.tokens_per_microbatch,
                self.spec.dtype == "bfloat16",
                lambda done: display.update(done, "demonstrations"),
            )
