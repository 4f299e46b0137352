"""Protocols by which the rooms of Kilter use each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    from pydantic import BaseModel
    from torch import Tensor

    from kilter.batch import Batch, Metrics, Needs, Objective


@dataclass(frozen=True, slots=True)
class Wants:
    """The needs of a feedback source. A caller that cannot meet them refuses the source before any work.

    Args:
        siblings: the source compares the answers of a group, so each group needs two or more.
        policy: the source scores with the model in training, or with its tokenizer.
        weights: of the policy, the source reads the weights and not the tokenizer alone.
    """

    siblings: bool = False
    policy: bool = False
    weights: bool = True


class FeedbackSource(Protocol):
    """Scores answers: a reward model, a verifier, a judge, people.

    A source derives from this class and writes `__call__`; all other members have defaults.
    """

    wants: Wants = Wants()
    Spec: ClassVar[type[BaseModel] | None] = None
    """Its options as one strict model, which `__init__` gets as `spec`; None: they are its parameters."""
    disagreement: float | None = None
    """Mean deviation among the members of an ensemble in the last call, None without one."""
    replays: ClassVar[bool] = False
    """Whether its replies are kept, so that they can be read again in place of asking."""
    fits: ClassVar[bool] = True
    """Whether it cuts and renders answers as its context says, where it takes one."""

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """Scores each completion.

        Returns:
            One list per group, with one Feedback per completion.
        """
        ...

    def begin(self, groups: Sequence[Group]) -> None:
        """Told of groups that it will be called with, as they arrive; it may begin to score them."""
        return

    def note(self) -> str:
        """A short line of numbers for whoever waits, such as what was paid; "" for nothing to say."""
        return ""

    def canaries(self) -> list[dict[str, Any]]:
        """Answers that had to lose in the batches since the last call, and whether they did."""
        return []

    def history(self) -> Mapping[str, Any]:
        """What stands in the history of the rows that it scored, beside its name and options."""
        return {}

    @classmethod
    def vet(cls, options: Any, field: str) -> None:
        """Refuses options that cannot work, before anything is opened.

        Args:
            options: as its model has them.
            field: the setting that holds them, for messages.

        Raises:
            UserError: they contradict each other, or nobody reads one of them.
        """
        return

    @classmethod
    def uncertified(cls, options: Any, context: Any) -> Mapping[str, str]:
        """Why nobody vouches for a judge, by its name; none where somebody does, or where nobody has to."""
        return {}

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[str]:
        """Columns of the data without which it can score nothing.

        Args:
            options: its settings by name.
        """
        return ()

    @classmethod
    def forecast(cls, options: Any, groups: Sequence[Group]) -> str:
        """What scoring these groups would take, in words; "" for nothing worth a word."""
        return ""

    def scale(self) -> tuple[float, float] | None:
        """The (mean, deviation) that normalises raw scores; None until it is known."""
        return 0.0, 1.0

    def state(self) -> dict[str, Any]:
        """Values that a resumed run needs, such as a normalisation."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes the values that `state` gave, before the first call."""
        return


class RawScores(Protocol):
    """The model behind a source of feedback. What it says of a group follows from that group alone.

    A source opens it by `Context.scores`, which knows where it lives: in this process, or in workers.
    """

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion, as the model gives it: neither normalised nor combined."""
        ...

    def begin(self, groups: Sequence[Group]) -> None:
        """Told of groups that it will be called with."""
        return


class LogProbs(Protocol):
    """A reference policy for fresh rollouts, in this process or in workers."""

    def lookup(self, batch: Batch) -> Tensor:
        """Its log-probs of the batch's tokens, [B, T], in nats."""
        ...

    def refresh(self) -> None:
        """It becomes the present policy. Every rank calls this."""
        ...

    def state(self) -> dict[str, Tensor] | None:
        """Its weights by name; None where it is the policy with adapters switched off."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        ...


class ValueModel(Protocol):
    """A critic that trains elsewhere. Every rank calls it, each with its own rows."""

    def values(self, batch: Batch) -> Tensor:
        """Its values of the batch's tokens, [B, T], without gradient."""
        ...

    def step(self, batch: Batch, delta_BT: Tensor, rate: float) -> Metrics:
        """One optimizer step.

        Args:
            batch: the rows, with the values of which the loss was computed.
            delta_BT: gradient of the step's loss on those values.
            rate: learning rate.

        Returns:
            grad_norm, before clipping.
        """
        ...

    def adopt(self, mean: float, deviation: float) -> None:
        """Its values become (head - mean) / deviation."""
        ...

    def scorer(self) -> Any:
        """The model with its present weights, to be exported."""
        ...

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Takes earlier weights, under the names that `state` has them by."""
        ...

    def state(self) -> dict[str, Any]:
        """Weights and optimizer."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        ...


class Listener(Protocol):
    """Follows a sampler at work, as a display or a chat does."""

    wants_text: bool
    """Whether the sampler calls `text`; decoding the pieces costs time."""

    def finished(self, samples: int, tokens_per_second: float | None) -> None:
        """Called when samples end.

        Args:
            samples: finished samples of this call.
            tokens_per_second: rate over the whole call so far; None if it is not known.
        """
        ...

    def text(self, request: Request, index: int, piece: str) -> None:
        """Called with the next piece of text of a sample; `index` counts the request's samples."""
        ...


class Sampler(Protocol):
    """Answers prompts: local, vllm, openai-compatible or scripted. A search is a Sampler over a Sampler."""

    @property
    def facts(self) -> SamplerFacts:
        """The abilities of the sampler, and whose weights it answers with."""
        ...

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Yields every sample of every request, in the order in which they finish.

        A failed sample carries its `problem`, and the others go on. Nobody else may use the sampler's model
        until the iterator ends or is closed.
        """
        ...

    def sync(self, weights: Weights) -> int:
        """Takes the policy's weights.

        Returns:
            The version of the weights that the sampler answers with from now on.
        """
        ...

    def close(self) -> None:
        """Ends the sampler's processes and closes its connections and files."""
        ...


class Chooser(Protocol):
    """The further method of a sampler whose `facts.chooses` is true."""

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice]:
        """Measures how probable each option is as the beginning of the answer.

        Returns:
            One Choice per prompt, with its `problem` if the probabilities are unknown.
        """
        ...


class Begins(Protocol):
    """The further methods of a sampler whose `facts.begins` is true: it answers while its caller goes on."""

    def begin(self, requests: Sequence[Request]) -> Any:
        """Sends the requests off, to be answered by the present weights or newer ones. Never waits."""
        ...

    def finish(self, begun: Any, listener: Listener = NOBODY) -> Iterator[Sample]:
        """Yields every sample of what `begin` gave, in the order in which they finish."""
        ...


class BeginsChoice(Protocol):
    """The further method of a sampler whose `facts.begins` and `facts.chooses` are both true."""

    def begin_choice(self, prompts: Sequence[Prompt], options: Sequence[str]) -> Callable[[], list[Choice]]:
        """Sends the prompts off as one call, and never waits.

        Returns:
            A function that waits, and gives what `choose` would.
        """
        ...


class Chat(Protocol):
    """A conversation with a model, for roles such as judge, critic and reviser."""

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """Answers each ask with one reply, in the order of the asks."""
        ...

    def choose(self, asks: Sequence[Ask], options: Sequence[str]) -> list[Choice]:
        """Measures how probable each option is as the beginning of the reply.

        Returns:
            One Choice per ask, with its `problem` if the probabilities are unknown.
        """
        ...


class ChatAhead(Chat, Protocol):
    """A chat whose model may answer while its caller goes on. What `begin_*` gives waits for the answers."""

    def begin_reply(self, asks: Sequence[Ask]) -> Callable[[], list[Reply]]:
        """Sends off what `reply` would ask."""
        ...

    def begin_choose(self, asks: Sequence[Ask], options: Sequence[str]) -> Callable[[], list[Choice]]:
        """Sends off what `choose` would ask."""
        ...


class Metric(Protocol):
    """Measures a model's answers, prompt by prompt.

    `@metric(...)` declares its title, unit, direction and needs.
    """

    def per_prompt(self, item: Answered) -> float | None:
        """The value for one prompt. None means unscored, which is never counted as zero."""
        ...


class CorpusMetric(Protocol):
    """Measures all answers at once. Without values per prompt, it has no interval."""

    def over_corpus(self, items: Sequence[Answered]) -> tuple[float | None, str]:
        """The value, or None if it cannot be measured, and a line on how it was measured."""
        ...


Origin = Literal["own", "mixed", "engine", "replay"]
"""Who sampled the rollouts, and so whose log-probs they carry.

own: the policy itself, whose log-probs are exact. mixed: the policy beside an opponent.
engine: another engine of the same weights; the mismatch is measured and corrected.
replay: an earlier policy; its log-probs are the old ones at every pass.
"""


class Learner(Protocol):
    """Owns models, optimizer and sharding. Annotators are written with its other members.

    Every rank calls these methods, each with its own rows.
    """

    needs: Needs
    """The needs of the method in training."""
    origin: Origin
    """The origin of the rollouts."""
    amp: bool
    """Whether products are bfloat16; log-probs then differ from pass to pass."""
    steps_per_batch: int
    """Optimizer steps on one batch."""
    length_limit: int
    """Greatest number of tokens in a completion."""

    def annotate(self, batch: Batch, needs: Needs) -> Batch:
        """Puts the counts over all ranks on the batch, then the annotations that `needs` names."""
        ...

    def update(self, batch: Batch, objective: Objective, number: int) -> Metrics:
        """Takes the optimizer steps on a prepared batch.

        Args:
            batch: this rank's rows, prepared by the objective.
            objective: computes the loss.
            number: 1-based number of the step.

        Returns:
            The metrics of the step, over all ranks.
        """
        ...

    @property
    def weights(self) -> Weights:
        """The policy as it is now, which samplers are to answer with."""
        ...

    def rows(self, batch: Batch, outputs: frozenset[str]) -> dict[str, Tensor]:
        """Token outputs of a whole batch, without gradient, [B, T] each, by the names in `outputs`."""
        ...

    def reference_logps(self, batch: Batch) -> Tensor:
        """The reference model's log-probs of the batch's tokens, [B, T], in nats."""
        ...

    def count(self, batch: Batch) -> Batch:
        """Counts the batch again over all ranks. An annotator that masks rows or tokens needs it."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks, as a tensor on the CPU."""
        ...

    def state(self, folder: Path) -> dict[str, Any]:
        """Tensors and numbers with which `restore` continues exactly.

        Tensors that are sharded over processes are written to `folder` instead.
        """
        ...

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """Takes back `state` and the shards in `folder`."""
        ...


class Annotator(Protocol):
    """Adds one tensor to a batch, under a name that a method may put into `Needs.annotations`."""

    def __call__(self, batch: Batch, learner: Learner) -> Batch:
        """The batch with the tensor. Every rank calls it, with its own rows."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of one optimizer step, and its source's measurements.

    Args:
        number: 1-based number of the optimizer step.
        epoch: passes over the data when this step is done.
        asked: `time.monotonic()` when the loop asked for the step, in seconds.
        groups: this process's share of the step, as tokens; maybe none.
        metrics: the source's measurements over all processes.
        sampled: all answers of the policy, of all processes, also those that are not trained on.
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
    """Hands out steps. The loop cannot tell fixed data, recorded rollouts and fresh ones apart."""

    position: int
    """Steps handed out so far."""

    @property
    def total_steps(self) -> int:
        """The number of optimizer steps in the whole run, resumed or not."""
        ...

    def next(self) -> Step | None:
        """The next step; None after the last one."""
        ...

    def after_update(self, weights: Weights) -> None:
        """Called after each optimizer step, so that samplers take the new weights."""
        ...

    def state(self) -> dict[str, Any]:
        """Position and random states with which a resumed run gets the same next step."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continues at the position that `state` gave."""
        ...

    def close(self) -> None:
        """Ends the source's samplers, servers and workers."""
        ...


@dataclass(frozen=True, slots=True)
class Stop:
    """The reason why a run ends before its last step.

    Args:
        reason: a sentence for a person.
        fix: what the person can do; empty if nothing is needed.
        fails: whether the run counts as failed, because no evidence says that its model is worth keeping.
        planned: whether the user asked for such an end: the run counts as finished.
    """

    reason: str
    fix: str = ""
    fails: bool = False
    planned: bool = False


class Hook(Protocol):
    """One concern around the steps of a run. training/assemble.py lists the hooks in their order.

    The methods here do nothing; a hook overrides those that it needs.
    """

    name: ClassVar[str]
    """Key of the hook's state in a checkpoint."""

    def before_run(self, done: int | None) -> Stop | None:
        """Called once. `done` is the step of the checkpoint that a run resumes from, None in a fresh run."""
        return None

    def before_update(self, batch: Batch) -> Batch:
        """May change the collated batch of a step, before its counts and annotations are computed."""
        return batch

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> Stop | None:
        """Called after each step; may add to the step's record in metrics.jsonl.

        If a hook returns a Stop, the run ends and later hooks are not called.
        """
        return None

    def state(self) -> dict[str, Any]:
        """Numbers, text and tensors that this hook needs in a resumed run."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes the values that `state` gave; called before `before_run`."""
        return

    def close(self, error: BaseException | None) -> None:
        """Called once, at the end. `error` is the exception that ended the run, if there is one."""
        return
