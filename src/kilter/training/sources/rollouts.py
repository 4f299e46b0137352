"""Fresh rollouts: prompts -> answers -> scores -> the groups that train.

Everything sampled is kept in groups.jsonl and groups.tokens. With several processes each samples and scores
its share of the prompts. What they made is then put together in the order of the prompts, and dealt out anew:
every process knows the whole step, and a step does not depend on how many processes there are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from kilter.batch import Metrics, Needs
from kilter.data import store
from kilter.data.encode import Encoder
from kilter.data.lineage import row_id, with_entry
from kilter.errors import RunFailed
from kilter.feedback.judge.canary import counted, in_words
from kilter.feedback.registry import Weighted
from kilter.sampling.config import SamplerSpec
from kilter.seams import Step
from kilter.training.sources.ahead import Ahead
from kilter.training.sources.answers import Answers, Asked, own
from kilter.training.sources.measure import rollout_metrics, staleness_metrics
from kilter.training.sources.prompts import PromptOrder
from kilter.training.sources.select import selected
from kilter.types import Encoded, Group, Prompt, SamplingParams, Weights

EMPTY_STEPS = 3
"""Steps in a row without scores to compare after which the run fails with the cause."""

TIES = "all answers to each prompt scored alike"

Tell = Callable[[int, str, str], None]
"""Takes an event of a step: its number, what it is, and the detail."""


class Share(NamedTuple):
    """What one process sampled in a round: groups with the numbers of their prompts, and how long it took.

    sampling, scoring: seconds that the learner waited. answering: seconds since the prompts were asked.
    """

    groups: list[tuple[int, Group]]
    problems: list[str]
    sampling: float
    scoring: float
    answering: float


@dataclass
class RolloutSource:
    """Source over prompts.

    Its state: the steps, the prompts taken, the feedback's own, the version of the weights.

    With several processes each takes every world-th prompt of a step, and every world-th group of it.

    Args:
        prompts: all prompts, in the order in which the run takes them.
        answers: who answers them, and beside whom.
        feedback: scores the answers.
        encoder: of the policy; its `max_prompt` leaves room for the answer.
        needs: of the method; says which answers it can use.
        sampling: limits and filters of an answer.
        path: groups.jsonl, with the groups of all processes; None in processes that write nothing.
        batch_size: prompts per step, over all processes.
        select: rule for the completions that train.
        refill: further rounds of sampling where the rule leaves too few groups.
        gather: one value of every process, in order.
        tell: takes what should be noted of a step.
        lookahead: batches that are sampled before the weights are known that they train; see ahead.py.
    """

    prompts: PromptOrder
    answers: Answers
    feedback: Weighted
    encoder: Encoder
    needs: Needs
    sampling: SamplerSpec
    path: Path | None
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
    lookahead: int = 0
    position: int = 0
    last: list[Group] = field(default_factory=list)
    """Everything that was sampled for the last step, by all processes."""
    problems: list[str] = field(default_factory=list)
    """One line per completion of the last step that could not be sampled, by any process."""
    skipped: int = 0
    """Steps so far that had scores and no spread among them."""
    _trained: bool = False
    _scored: int = 0
    _epoch: float = 0.0
    _version: int = 0
    """Updates that the policy has seen."""

    @cached_property
    def ahead(self) -> Ahead:
        """The batches under way."""
        return Ahead(self.prompts, self.batch_size, self._begin, self.lookahead)

    @property
    def total_steps(self) -> int:
        """Steps of the loop, each one batch of rollouts."""
        return self.max_steps or max(1, math.ceil(self.epochs * len(self.prompts.prompts) / self.batch_size))

    def next(self) -> Step | None:
        """Samples until a step has scores to compare.

        A step in which all of them tie has no groups: it is taken, teaches nothing and is counted.

        Raises:
            RunFailed: three steps in a row were without scores, or not one step taught anything.
        """
        asked, empty = time.monotonic(), 0
        while self.position < self.total_steps:
            groups, metrics = self._rollouts()
            # An answer without a token to train takes its whole group along: its siblings need it.
            encoded = [e for e in map(self._encode, groups) if e is not None]
            self.position += 1
            # All processes take the step or none, for they see the same groups.
            self._trained = self._trained or bool(encoded)
            if encoded or any(map(self._comparable, self.last)):
                self.skipped += not encoded
                return self._step(asked, encoded, metrics)
            # A step without scores is passed over; several in a row have a cause that somebody must mend.
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
            raise RunFailed(
                "Not one step could be trained",
                "mend the feedback, or give prompts whose answers differ in score, and run it again",
                f"Cause: {self.cause() or TIES}",
            )
        return None

    def _step(self, asked: float, encoded: Sequence[Encoded], metrics: Metrics) -> Step:
        """The step with this process's share of its groups, maybe none."""
        # Only runs that have skipped steps say how many.
        counted: Metrics = {"skipped_steps": float(self.skipped)} if self.skipped else {}
        return Step(
            self.position,
            self._epoch,
            asked,
            encoded[self.rank :: self.world],
            metrics | counted,
            own(self.last, self.answers.opposed),
            shown(self.last),
        )

    def _comparable(self, group: Group) -> bool:
        """Whether a group has the scores that the method compares, alike or not."""
        scored = sum(f.score is not None for f in group.feedback)
        return self.answers.usable(group) and scored >= min(2, len(group.completions))

    def cause(self) -> str | None:
        """Why an answer of the last step has no score or was not made, None where all have one."""
        reasons = (f.rationale for g in self.last for f in g.feedback if f.score is None)
        return next(reasons, self.problems[0] if self.problems else None)

    def _rollouts(self) -> tuple[list[Group], Metrics]:
        """One step's groups after selection, and metrics over everything sampled."""
        # The samplers have the weights of all steps before this one.
        self.ahead.admit(self.position, self.total_steps)
        taken = self.prompts.taken
        try:
            found = self._rounds()
        except BaseException:
            # The step was not done: a checkpoint that is taken now begins with the same prompts.
            self.prompts.taken = taken
            raise
        self.ahead.done()
        return found

    def _rounds(self) -> tuple[list[Group], Metrics]:
        kept: list[Group] = []
        self.last, self.problems = [], []
        sampling = scoring = answering = 0.0
        rounds = 0
        admitted = self.ahead.first()
        self._epoch = admitted.epoch

        # Every process sees the groups of all: they go another round together, or none does.
        while rounds == 0 or (rounds <= self._refills() and len(kept) < self.batch_size):
            begin, asked = time.perf_counter(), admitted.asked
            if rounds:
                # Further prompts are those after all that is under way.
                asked = self._begin(self.prompts.take(self.batch_size), self.position, rounds)
                self._epoch = self.prompts.epoch
            shares = self.gather(self._share(asked, begin))
            groups = [g for _, g in sorted((pair for s in shares for pair in s.groups), key=lambda p: p[0])]
            self.problems += [problem for s in shares for problem in s.problems]
            self.last += groups
            kept += [g for g in map(self._usable, groups) if g is not None]
            rounds += 1

            # A round takes as long as its slowest process.
            sampling += max(s.sampling for s in shares)
            scoring += max(s.scoring for s in shares)
            answering += max(s.answering for s in shares)

        tokens = sum(len(c.token_ids or ()) for g in self.last for c in g.completions)
        if self.path is not None:
            store.append_rollouts(self.path, [self._stamped(g) for g in self.last])
        self._tell_unscored()
        self._tell_canaries()
        return kept[: self.batch_size], self._measured() | self._failures() | {
            # Of answers that were under way before this step, the learner waits for the end alone.
            "sampling/tokens_per_second": round(tokens / max(answering, 1e-9), 1),
            "sampling/seconds": round(sampling, 3),
            "feedback/seconds": round(scoring, 3),
            "sampling/rounds": float(rounds),
        }

    def _begin(self, prompts: Sequence[Prompt], step: int, rounds: int = 0) -> Asked:
        """Sends off this process's share of a round's prompts."""
        return self.answers.begin(prompts[self.rank :: self.world], self._params(step, rounds))

    def _share(self, asked: Asked, begin: float) -> Share:
        """Takes the answers to this process's share of a round's prompts, and scores them."""
        sampled = self.answers.finish(asked, self.feedback.begin)
        clock = time.perf_counter()
        scored = self._score(sampled.groups)
        numbers = [self.rank + place * self.world for place in sampled.places]
        placed = list(zip(numbers, scored, strict=True))
        scoring = time.perf_counter() - clock
        return Share(placed, sampled.problems, clock - begin, scoring, clock - asked.since)

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

    def _params(self, step: int, rounds: int) -> SamplingParams:
        """The seed follows from (seed, step, round), so that a resumed run draws the same answers."""
        # One seed per step and round; each request draws its own from it.
        s = self.sampling
        seed = (self.seed * 1_000_003 + step) * 97 + rounds
        return SamplingParams(s.max_new_tokens, s.temperature, s.top_p, s.top_k, tuple(s.stop), seed)

    def _score(self, groups: Sequence[Group]) -> list[Group]:
        found = self.feedback(groups)
        scored = [replace(g, feedback=tuple(f)) for g, f in zip(groups, found, strict=True)]
        self._scored = sum(f.score is not None for g in scored for f in g.feedback)
        return scored

    def _tell_unscored(self) -> None:
        """Names what has no score at once, while the run goes on: a person may mend the reward."""
        missing = [f for g in self.last for f in g.feedback if f.score is None]
        if missing:
            count = sum(len(g.feedback) for g in self.last)
            cause = missing[0].rationale or "no reason given"
            self.tell(self.position + 1, "unscored completions", f"{len(missing)} of {count}: {cause}")

    def _tell_canaries(self) -> None:
        """Names a judge that was taken in by an answer that had to lose, by any process."""
        lines = [line for part in self.gather(self.feedback.canaries()) for line in part]
        for words in in_words(counted(lines)):
            self.tell(self.position + 1, "failed canaries", words)

    def _usable(self, group: Group) -> Group | None:
        """The group with the completions that train, None where the method can use none."""
        if not self.answers.usable(group):
            return None
        return group if self.answers.opposed else selected(group, self.select, self.needs.shape == "ranked")

    def _stamped(self, group: Group) -> Group:
        """With the step and the temperature, which a later replay needs."""
        extra = {"step": self.position + 1, "sampled_at": self.sampling.temperature}
        prompt = replace(group.prompt, metadata={**group.prompt.metadata, **extra})
        # Who replays the scores of a judge has to know whether a certificate vouched for it.
        if self._judges:
            prompt = with_entry(prompt, {"kind": "rollouts", "row": row_id(prompt), **self._judges})
        return replace(group, prompt=prompt)

    @cached_property
    def _judges(self) -> dict[str, Any]:
        """Who scores, in the words of a row's history; empty where no judge does."""
        found = dict(self.feedback.history())
        return found and {"stage": "rollouts" if self.path is None else self.path.parent.name, **found}

    def _measured(self) -> Metrics:
        """Metrics of the policy's answers, and how far an ensemble of reward models disagrees."""
        # An opponent says nothing about the policy.
        answers = own(self.last, self.answers.opposed)
        found = rollout_metrics(answers)
        found |= staleness_metrics(answers, self._version, self.lookahead > 0)
        # Each process knows the mean over the answers that it scored.
        gaps = [(gap, n) for gap, n in self.gather((self.feedback.spread(), self._scored)) if gap is not None]
        total = sum(n for _, n in gaps)
        return found | ({"rewards/disagreement": sum(gap * n for gap, n in gaps) / total} if total else {})

    def _encode(self, group: Group) -> Encoded | None:
        """Sampled tokens as they are, the prompt as the sampler read it.

        None where an answer trains no token.
        """
        # Tokens that were sampled pass through as they are.
        encoded = self.encoder.tokens(group)
        return encoded if all(map(any, encoded.masks)) else None

    def after_update(self, weights: Weights) -> None:
        """The samplers take the new weights."""
        self._version = weights.version
        for sampler in self.answers.samplers:
            sampler.sync(weights)

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs besides the weights."""
        return {
            "position": self.position,
            **self.ahead.state(),
            "feedback": self.feedback.state(),
            "skipped": self.skipped,
            "version": self.answers.samplers[0].facts.version,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.position = state["position"]
        self.ahead.restore(state)
        self.skipped = state["skipped"]
        self._trained = self.position > self.skipped
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
