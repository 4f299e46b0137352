"""Asks every model the same questions. The baseline stays in memory, for the others' KL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from kilter.data.encode import Encoder
from kilter.evaluation import likelihood
from kilter.evaluation.answers import Answering, Answers
from kilter.evaluation.config import EvaluateSpec
from kilter.evaluation.suites import Suite
from kilter.progress import Display
from kilter.roles.open import OpenSpec, Ready, open_model
from kilter.types import Completion

Logps = list[tuple[float, ...]]
"""[prompt][token] of the first answers, nats at temperature 1"""


@dataclass
class ModelAnswers:
    """What one model did while it was in memory. None: not asked for, or not to be had."""

    prompts: Answers
    probes: Answers = field(default_factory=list)
    logps: Logps | None = None
    reference_logps: Logps | None = None
    nll: list[float | None] = field(default_factory=list)


@dataclass
class Asking:
    """The work that needs weights.

    needs: those of the metrics; what no metric needs is not computed. k: answers per prompt.
    """

    spec: EvaluateSpec
    suite: Suite
    needs: Collection[str]
    k: int
    out: Path
    console: Console
    title: str
    baseline: Ready | None = None

    def ask(self, name: str, folder: Path) -> ModelAnswers:
        """Answers of one model and their log-probs. The first model asked is the others' baseline."""
        model = self._open(folder)
        answering = Answering(self.spec, model, self.out, self.console, self.title, name)
        said = ModelAnswers(answering(self.suite.prompts, self.k))
        first = [answers[0] for answers in said.prompts]
        if self.suite.probes:
            said.probes = answering(self.suite.probes)
        if "logps" in self.needs:
            said.logps = self._own_logps(model, first)
        if self.suite.tax:
            said.nll = self._nll(model, name)

        # The baseline comes first and stays open: its log-probs of the others' answers give their KL.
        if self.baseline is None:
            self.baseline = model
        elif "reference_logps" in self.needs and self._same_vocabulary(model, name):
            said.reference_logps = self._logps(self.baseline, model.encoder, first, f"KL of {name}")
        return said

    def _open(self, folder: Path) -> Ready:
        s = self.spec
        return open_model(
            OpenSpec(
                folder,
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
            self.console.print(f"  no KL for {name}: its vocabulary is not the baseline's", highlight=False)
        return same

    def _own_logps(self, model: Ready, answers: Sequence[Completion]) -> Logps:
        """The policy's log-probs at temperature 1: the sampler's own where it sampled so, else computed."""
        if self.spec.temperature == 1.0 and self.spec.dtype == "float32":
            return [a.sampling_logps or () for a in answers]
        return self._logps(model, model.encoder, answers, "log-probs")

    def _logps(self, model: Ready, encoder: Encoder, answers: Sequence[Completion], what: str) -> Logps:
        with Display(self.console, f"{self.title}: {what}", len(answers)) as display:
            return likelihood.token_logps(
                model.scorer,
                encoder,
                self.suite.prompts,
                answers,
                self.spec.tokens_per_microbatch,
                lambda done: display.update(done, "answers"),
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
