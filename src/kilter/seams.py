"""The seams of Kilter: protocols that rooms share, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from kilter.progress import NOBODY
from kilter.types import (
    Answered,
    Ask,
    Choice,
    Encoded,
    Feedback,
    Group,
    Prompt,
    Reply,
    Request,
    Sample,
    SamplerFacts,
    Weights,
)

if TYPE_CHECKING:  # tensors would bring torch to whoever needs a protocol alone
    from torch import Tensor

    from kilter.batch import Batch, Metrics, Needs, Objective


@dataclass(frozen=True, slots=True)
class Wants:
    """What a feedback source needs of those who call it.

    Whoever cannot give it refuses the source before any work.

    Args:
        siblings: it judges an answer by the others of its group, so a group has two answers or more.
        policy: it scores with the model in training, or with its tokenizer.
    """

    siblings: bool = False
    policy: bool = False


class FeedbackSource(Protocol):
    """Labels, reward models, verifiers, judges and people all look like this.

    Derive from it: the rest has defaults.
    """

    wants: Wants = Wants()
    disagreement: float | None = None
    """Mean deviation among the members of an ensemble in the last call, None without one."""

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One list per group, one Feedback per completion."""
        ...

    def scale(self) -> tuple[float, float] | None:
        """(mean, deviation) by which raw scores were normalised, None where it is not known yet."""
        return 0.0, 1.0

    def state(self) -> dict[str, Any]:
        """What a resumed run must know, such as a normalisation."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        return


class Listener(Protocol):
    """Who follows a sampler at work: a display, a chat.

    `wants_text`: whether `text` is called at all, for writing it costs time.
    """

    wants_text: bool

    def finished(self, samples: int, tokens_per_second: float | None) -> None:
        """`samples` of this call are finished; the rate covers the whole call so far."""
        ...

    def text(self, request: Request, index: int, piece: str) -> None:
        """The next piece of a completion that is under way."""
        ...


class Sampler(Protocol):
    """local, vllm, openai-compatible, scripted; a search is a Sampler over a Sampler."""

    @property
    def facts(self) -> SamplerFacts:
        """What it can do and which weights it answers with."""
        ...

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Every sample of every request, as they finish.

        A failed one carries its `problem` and ends no other.

        Until the iterator ends or is closed, the sampler's model is its own.
        """
        ...

    def sync(self, weights: Weights) -> int:
        """Takes the policy's weights; returns the version that it answers with from now on."""
        ...

    def close(self) -> None:
        """Lets go of processes, connections and files."""
        ...


class Chooser(Protocol):
    """What a sampler with `facts.chooses` has besides."""

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice | None]:
        """How probable each option is as the beginning of the answer to each prompt; None where that is
        unknown.
        """
        ...


class Chat(Protocol):
    """A role that is talked to: judges, critics, revisers, persuaded users."""

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply per ask, in order."""
        ...

    def choose(self, asks: Sequence[Ask], options: Sequence[str]) -> list[Choice | None]:
        """How probable each option is as the beginning of the reply; None where that is unknown."""
        ...


class Metric(Protocol):
    """What is measured on a model's answers.

    `@metric(...)` declares its title, unit, direction and needs beside it.
    """

    def per_prompt(self, item: Answered) -> float | None:
        """The value for one prompt; None is unscored, which is never zero."""
        ...


class CorpusMetric(Protocol):
    """A metric of all answers at once, without values per prompt and so without an interval."""

    def over_corpus(self, items: Sequence[Answered]) -> tuple[float | None, str]:
        """The value, None where it cannot be had, and how it was taken."""
        ...


Origin = Literal["own", "mixed", "engine", "replay"]
"""Where rollouts come from, and so whose log-probs they carry: the policy itself (exact), the policy beside
an opponent, another engine of the same weights (the mismatch is measured and corrected), an earlier policy
(its log-probs are the old ones, whatever the passes).
"""


class Learner(Protocol):
    """Owns models, optimizer and sharding. What stands here beside its steps is what annotators are made of.

    needs: of the method. origin: of the rollouts. amp: products are bfloat16, so that log-probs of another
    pass differ.
    steps_per_batch: optimizer steps on one batch. length_limit: tokens that a completion may have.
    """

    needs: Needs
    origin: Origin
    amp: bool
    steps_per_batch: int
    length_limit: int

    def annotate(self, batch: Batch, needs: Needs) -> Batch:
        """Counts over all ranks, and the annotations that `needs` names."""
        ...

    def update(self, batch: Batch, objective: Objective, number: int) -> Metrics:
        """The optimizer steps on a prepared batch; metrics of the step with this number."""
        ...

    def rows(self, batch: Batch, outputs: frozenset[str]) -> dict[str, Tensor]:
        """Token outputs of a whole batch without gradient, [B, T] each, by the names in `outputs`.

        Every rank must call it.
        """
        ...

    def reference_logps(self, batch: Batch) -> Tensor:
        """Log-probs of the reference, [B, T], nats."""
        ...

    def count(self, batch: Batch) -> Batch:
        """The batch with its counts taken anew, over all ranks: for annotators that change what trains."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all ranks, on the CPU."""
        ...

    def state(self, folder: Path) -> dict[str, Any]:
        """Tensors and numbers that `restore` needs to continue exactly; what is divided over processes goes
        to `folder`.
        """
        ...

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """The inverse of `state`."""
        ...


class Annotator(Protocol):
    """Puts what a method asked for on a batch; one per name in `Needs.annotations`."""

    def __call__(self, batch: Batch, learner: Learner) -> Batch:
        """The batch with it. Every rank calls it, with its own rows."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer step learns from, and what its source saw on the way.

    Args:
        number: 1-based number of the optimizer step.
        epoch: passes over the data when this step is done.
        asked: `time.monotonic()` when the source was asked for it, in seconds.
        groups: this process's share of the step, as tokens.
        metrics: what the source measured over all processes.
        sampled: this process's answers of the policy, those that do not train included.
        shown: one answer for the live screen.
    """

    number: int
    epoch: float
    asked: float
    groups: Sequence[Encoded]
    metrics: Metrics = field(default_factory=dict)
    sampled: Sequence[Group] = ()
    shown: str = ""


class Source(Protocol):
    """Fixed data, recorded rollouts or fresh ones: the loop cannot tell them apart."""

    position: int
    """Steps handed out so far."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        ...

    def next(self) -> Step | None:
        """The next step, None when the run is done."""
        ...

    def after_update(self) -> None:
        """Called after each optimizer step: samplers take the new weights."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        ...

    def close(self) -> None:
        """Lets go of what the source holds: samplers, servers, workers."""
        ...


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run ends before its last step. `fails`: there is no evidence that its model is worth keeping."""

    reason: str
    fix: str = ""
    fails: bool = False


class Hook(Protocol):
    """What happens around the steps of a run: one concern each, in the order of one list
    (training/assemble.py).

    Each method does nothing unless a hook says otherwise. `name` is the key of its state in a checkpoint.
    """

    name: ClassVar[str]

    def before_run(self, done: int | None) -> Stop | None:
        """Called once. `done`: steps of the checkpoint that the run goes on from, None for a fresh run."""
        return None

    def before_update(self, batch: Batch) -> Batch:
        """Sees the batch of a step as it was collated, before anything is computed for it."""
        return batch

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> Stop | None:
        """Sees a step that was taken, and may add to its record.

        A Stop ends the run; later hooks are not called.
        """
        return None

    def state(self) -> dict[str, Any]:
        """What a resumed run needs of this hook: numbers, text and tensors."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`; called before `before_run`."""
        return

    def close(self, error: BaseException | None) -> None:
        """Called once at the end. `error`: what the run failed with, None when it came to its end."""
        return
