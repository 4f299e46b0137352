"""Fresh rollouts: prompts -> answers -> scores -> the groups that train.

Everything sampled is kept in groups.jsonl.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from kilter.batch import Metrics, Needs
from kilter.data import store
from kilter.data.encode import Encoder
from kilter.errors import RunFailed
from kilter.feedback.registry import Weighted
from kilter.sampling.config import SamplerSpec
from kilter.seams import Step
from kilter.training.sources.answers import Answers, own
from kilter.training.sources.measure import rollout_metrics
from kilter.training.sources.prompts import PromptOrder
from kilter.training.sources.select import selected
from kilter.types import Encoded, Feedback, Group, SamplingParams, Weights

EMPTY_STEPS = 3
"""Steps in a row without a single usable group after which the run fails with the cause."""

Tell = Callable[[int, str, str], None]
"""Takes an event of a step: its number, what it is, and the detail."""


@dataclass
class RolloutSource:
    """Source over prompts.

    Its state: the steps, the prompts taken, the feedback's own, the version of the weights.

    With several processes each takes every world-th prompt of a step.

    Args:
        prompts: all prompts, in the order in which the run takes them.
        answers: who answers them, and beside whom.
        feedback: scores the answers.
        encoder: of the policy; its `max_prompt` leaves room for the answer.
        needs: of the method; says which answers it can use.
        sampling: limits and filters of an answer.
        path: groups.jsonl of this process.
        batch_size: prompts per step, over all processes.
        select: rule for the completions that train.
        refill: further rounds of sampling where the rule leaves too few groups.
        gather: one value of every process, in order.
        tell: takes what should be noted of a step.
    """

    prompts: PromptOrder
    answers: Answers
    feedback: Weighted
    encoder: Encoder
    needs: Needs
    sampling: SamplerSpec
    path: Path
    batch_size: int
    select: str = "all"
    refill: int = 3
    epochs: float = 1.0
    max_steps: int | None = None
    seed: int = 0
    rank: int = 0
    world: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    tell: Tell = lambda step, what, detail: None
    position: int = 0
    last: list[Group] = field(default_factory=list)
    """Everything that this process sampled for the last step."""
    problems: list[str] = field(default_factory=list)
    """One line per completion of the last step that could not be sampled."""
    _trained: bool = False

    @property
    def total_steps(self) -> int:
        """Steps of the loop, each one batch of rollouts."""
        return self.max_steps or max(1, math.ceil(self.epochs * len(self.prompts.prompts) / self.batch_size))

    def next(self) -> Step | None:
        """Samples until a step has something to learn from.

        Raises RunFailed after three steps in a row without, or none at all.
        """
        asked, empty = time.monotonic(), 0
        while self.position < self.total_steps:
            groups, metrics = self._rollouts()
            # An answer without a token to train takes its whole group along: its siblings need it.
            encoded = [e for e in map(self._encode, groups) if e is not None]
            self.position += 1
            # All processes take the step or none: one without a usable group stands by with a group that
            # teaches nothing.
            if self._everywhere(len(encoded)) > 0 and not encoded:
                encoded = self._placeholder()
            if encoded:
                self._trained = True
                sampled = own(self.last, self.answers.opposed)
                return Step(
                    self.position, self.prompts.epoch, asked, encoded, metrics, sampled, shown(self.last)
                )
            # A step without a lesson is passed over; several in a row have a cause that somebody must mend.
            empty += 1
            cause = self.cause() or "every group was dropped by select"
            self.tell(self.position, "no usable group", f"step {self.position}: {cause}")
            if empty >= EMPTY_STEPS:
                raise RunFailed(
                    f"{EMPTY_STEPS} steps in a row had no scored group to learn from",
                    "mend the feedback or the select rule, then run the same command again to resume",
                    f"Cause: {cause}",
                )
        # A model that never learned anything must not be saved as a result.
        if not self._trained:
            cause = self.cause() or "no group was usable"
            raise RunFailed(
                "Not one step could be trained",
                "mend the feedback, then run the same command again",
                f"Cause: {cause}",
            )
        return None

    def cause(self) -> str | None:
        """Why an answer of the last step has no score or was not made, None where all have one."""
        reasons = (f.rationale for g in self.last for f in g.feedback if f.score is None)
        return next(reasons, self.problems[0] if self.problems else None)

    def _everywhere(self, count: int) -> int:
        """Sum over all processes."""
        return sum(self.gather(count))

    def _placeholder(self) -> list[Encoded]:
        """A group without a preference among its answers: its gradient is zero."""
        if self.needs.shape != "rollouts" or not self.last:
            raise RunFailed(
                "One process has no scored answer to learn from while others do",
                "raise batch_size or sampler.samples",
            )
        # Equal scores: no advantage, no winner, and so no gradient.
        group = self.last[0]
        same = replace(group, feedback=tuple(Feedback(0.0, "placeholder") for _ in group.completions))
        return [e for e in [self._encode(same)] if e is not None]

    def _rollouts(self) -> tuple[list[Group], Metrics]:
        """One step's groups after selection, and metrics over everything sampled."""
        taken = self.prompts.taken
        try:
            return self._rounds()
        except BaseException:
            # The step was not done: a checkpoint that is taken now begins with the same prompts.
            self.prompts.taken = taken
            raise

    def _rounds(self) -> tuple[list[Group], Metrics]:
        kept: list[Group] = []
        everything: list[Group] = []
        self.problems = []
        begin, feedback_seconds, rounds = time.perf_counter(), 0.0, 0
        share = -(-self.batch_size // self.world)

        # Every process goes another round when any of them lacks groups: they walk through the prompts
        # together.
        while rounds == 0 or (rounds <= self._refills() and self._everywhere(int(len(kept) < share)) > 0):
            prompts = self.prompts.take(self.batch_size)[self.rank :: self.world]
            sampled = self.answers.sample(prompts, self._params(rounds))
            self.problems += sampled.problems
            clock = time.perf_counter()
            scored = self._score(sampled.groups)
            feedback_seconds += time.perf_counter() - clock
            everything += scored
            kept += [g for g in map(self._usable, scored) if g is not None]
            rounds += 1

        # Sampling time is what feedback did not take; scoring and sampling never overlap here.
        seconds = time.perf_counter() - begin - feedback_seconds
        tokens = sum(len(c.token_ids or ()) for g in everything for c in g.completions)
        self.last = everything
        store.append(self.path, map(self._stamped, everything))
        return kept[:share], self._measured() | self._failures() | {
            "sampling/tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
            "sampling/seconds": round(seconds, 3),
            "feedback/seconds": round(feedback_seconds, 3),
            "sampling/rounds": float(rounds),
        }

    def _failures(self) -> Metrics:
        """Completions that could not be sampled: counted and named, never scored.

        Silent where there are none.
        """
        if not self.problems:
            return {}
        detail = f"{len(self.problems)} completions: {self.problems[0]}"
        self.tell(self.position + 1, "failed completions", detail)
        return {"sampling/failed": float(len(self.problems))}

    def _refills(self) -> int:
        """Only a rule that drops groups for their scores samples again."""
        return self.refill if self.select == "drop_constant" else -1

    def _params(self, rounds: int) -> SamplingParams:
        """The seed follows from (seed, step, round), so that a resumed run draws the same answers."""
        # One seed per step and round; each request draws its own from it.
        s = self.sampling
        seed = (self.seed * 1_000_003 + self.position) * 97 + rounds
        return SamplingParams(s.max_new_tokens, s.temperature, s.top_p, s.top_k, tuple(s.stop), seed)

    def _score(self, groups: Sequence[Group]) -> list[Group]:
        found = self.feedback(groups)
        scored = [replace(g, feedback=tuple(f)) for g, f in zip(groups, found, strict=True)]
        # Named at once, while the run goes on: a person may mend the reward.
        missing = [f for g in scored for f in g.feedback if f.score is None]
        if missing:
            count = sum(len(g.feedback) for g in scored)
            cause = missing[0].rationale or "no reason given"
            self.tell(self.position + 1, "unscored completions", f"{len(missing)} of {count}: {cause}")
        return scored

    def _usable(self, group: Group) -> Group | None:
        """The group with the completions that train, None where the method can use none."""
        if not self.answers.usable(group):
            return None
        return group if self.answers.opposed else selected(group, self.select, self.needs.shape == "ranked")

    def _stamped(self, group: Group) -> Group:
        """With the step and the temperature, which a later replay needs."""
        extra = {"step": self.position + 1, "sampled_at": self.sampling.temperature}
        return replace(group, prompt=replace(group.prompt, metadata={**group.prompt.metadata, **extra}))

    def _measured(self) -> Metrics:
        """Metrics of the policy's answers, and how far an ensemble of reward models disagrees."""
        # An opponent says nothing about the policy.
        found = rollout_metrics(own(self.last, self.answers.opposed), self.gather)
        gaps = [gap for gap in self.gather(self.feedback.spread()) if gap is not None]
        return found | ({"rewards/disagreement": fmean(gaps)} if found and gaps else {})

    def _encode(self, group: Group) -> Encoded | None:
        """Sampled tokens as they are, the prompt as the sampler read it.

        None where an answer trains no token.
        """
        # Tokens that were sampled pass through as they are.
        encoded = self.encoder.tokens(group)
        return encoded if all(map(any, encoded.masks)) else None

    def after_update(self, weights: Weights) -> None:
        """The samplers take the new weights."""
        for sampler in self.answers.samplers:
            sampler.sync(weights)

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs besides the weights."""
        return {
            "position": self.position,
            "cursor": self.prompts.taken,
            "feedback": self.feedback.state(),
            "version": self.answers.samplers[0].facts.version,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.position, self.prompts.taken = state["position"], state["cursor"]
        self._trained = self.position > 0
        self.feedback.restore(state["feedback"])
        # An engine of its own was started with the weights that training began from.
        self.after_update(Weights(state["version"]))

    def close(self) -> None:
        """The samplers let go of what they hold."""
        for sampler in self.answers.samplers:
            sampler.close()


def shown(groups: Sequence[Group]) -> str:
    """The first answer of the last group, in one line."""
    return " ".join(groups[-1].completions[0].text.split()) if groups and groups[-1].completions else ""
