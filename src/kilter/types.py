"""The nouns of Kilter: what is on disk, what is in the loop, and the five seams between them.

Shape suffixes: B rows (completions), T completion tokens, N groups (prompts), K completions of a group.
`T` never counts prompt tokens: objectives do not see prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NotRequired, TypedDict

from kilter.arrays import IDS, LOGPS, MASK, packed


class Message(TypedDict):
    """One chat turn, as transformers' chat templates take it. A field that a turn lacks is not in it.

    content: the words; "" where a turn only calls tools. tool_calls: what an assistant turn calls, each as
    {"type": "function", "function": {"name": ..., "arguments": {...}}}, arguments never as text.
    tool_call_id, name: what a tool's answer belongs to. reasoning_content: what an assistant turn thought
    before it spoke. train: False on an assistant turn that is context alone and is never learned; Kilter's
    own mark, which no template sees.
    """

    role: str
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    reasoning_content: NotRequired[str]
    train: NotRequired[bool]


PLAIN = "kilter.plain"
"""In Prompt.metadata: the user wrote the prompt as text, and its one user turn is Kilter's doing."""


ABOUT = "kilter.about"
"""In the metadata of an Ask: {"step", "principle", "answer"}, what a critic or reviser is asked."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked. Either chat `messages`, or raw `text` that no chat template touches.

    metadata: what Kilter itself notes of a prompt. columns: the user's own columns of the row, carried along
    for reward functions and verifiers. tools, template_kwargs: what the chat template takes beside the
    messages, as `apply_chat_template(messages, tools=tools, **template_kwargs)`.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def begun(self) -> bool:
        """Whether it ends in an answer that is gone on from, and not in one that calls a tool."""
        last = self.messages[-1] if self.messages else None
        return last is not None and last["role"] == "assistant" and not last.get("tool_calls")


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `turns` holds a multi-turn continuation (assistant, user, ..., assistant), or one turn that
    has more than content; else empty.

    `token_ids` and `sampling_logps` (nats, at the sampling temperature) are set by samplers and never
    re-derived from text. `mask` is 1 on tokens the policy is trained on. All three are kept as arrays that
    read like tuples and equal them. `isinstance` and `json.dumps` see no tuple: `tuple(...)` makes one.
    `entropy`: mean over the tokens of the entropy of the distribution that each was drawn from, before top-k
    and top-p, nats. `prompt_ids`: the prompt as the sampler read it, so that nobody tokenises it again. They
    are not written to disk.

    `versions`: where the weights may change under way, spans (start, end, version) of `token_ids` with the
    updates that the weights had seen. `policy_version` is then the oldest of them, and is set from them.
    """

    text: str
    token_ids: Sequence[int] | None = None
    mask: Sequence[int] | None = None
    sampling_logps: Sequence[float] | None = None
    finish_reason: Literal["stop", "length"] | None = None
    policy_version: int | None = None
    entropy: float | None = None
    turns: tuple[Message, ...] = ()
    prompt_ids: tuple[int, ...] = field(default=(), compare=False)
    versions: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        # The class is frozen for its users, not for what follows from its own fields.
        for name, types in (("token_ids", IDS), ("mask", MASK), ("sampling_logps", LOGPS)):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, packed(values, types))
        if self.versions:
            object.__setattr__(self, "policy_version", min(version for _, _, version in self.versions))


@dataclass(frozen=True, slots=True)
class Feedback:
    """A judgement of one completion. `score=None` means unscored, which is never zero, a tie, or safe.

    steps: one number per step, or per token where tokens are rewarded. parts: the terms that a sum was made
    of. against: by place in the group, the probability of being better than that answer, shown first and
    shown second; None at its own place and where it is unknown.
    """

    score: float | None
    kind: str = "label"
    steps: tuple[float, ...] = ()
    rationale: str = ""
    source: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    against: tuple[tuple[float, float] | None, ...] = ()

    def over(self, place: int) -> float | None:
        """Probability of being better than the answer at a place, over both orders; None if unknown."""
        both = self.against[place] if place < len(self.against) else None
        return None if both is None else (both[0] + both[1]) / 2

    def flipped(self, place: int) -> bool:
        """Whether the two orders say different things: one answer, the other one, or even."""
        both = self.against[place] if place < len(self.against) else None
        return both is not None and len({(p > 0.5) - (p < 0.5) for p in both}) == 2

    def among(self, places: Sequence[int]) -> Feedback:
        """The same feedback where only the answers at these places are left, in this order."""
        return replace(self, against=tuple(self.against[p] for p in places)) if self.against else self


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt, K completions, one feedback each: SFT has K=1, DPO K=2, listwise and GRPO K=n."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    feedback: tuple[Feedback, ...]

    def __post_init__(self) -> None:
        if len(self.completions) != len(self.feedback):
            raise ValueError(
                f"group {self.prompt.id!r}: {len(self.completions)} completions "
                f"but {len(self.feedback)} feedbacks"
            )

    def picked(self, places: Sequence[int]) -> Group:
        """Some of the answers with their feedback, in this order."""
        return Group(
            self.prompt,
            tuple(self.completions[i] for i in places),
            tuple(self.feedback[i].among(places) for i in places),
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """One group as tokens. Per completion: ids and a mask that is 1 on the tokens to learn."""

    group: Group
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[Sequence[int], ...]
    masks: tuple[Sequence[int], ...]

    def tokens(self) -> int:
        """Tokens of the shared layout: prompt once, plus every completion."""
        return len(self.prompt_ids) + sum(map(len, self.completion_ids))


Shape = Literal["demonstrations", "pairs", "unpaired", "ranked", "prompts", "rollouts"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. temperature 0 is greedy; top_k 0 and top_p 1 switch that filter off.

    `seed` is per request: the same seed and prompt give the same tokens whatever else is in the batch; a
    prompt that stands in it twice gets two answers.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """One prompt with what a model answered: all that a metric may look at.

    answers: the first is what every metric looks at; more only where a metric asks for samples. feedback: by
    source, one per answer. logps, reference_logps: nats per token of the first answer at temperature 1, under
    the model and under the baseline; None where they could not be had. nll: nats per token of a
    demonstration. baseline: the baseline's record of the same prompt, None for the baseline itself. twin: the
    record of the prompt that differs in the one fact that turns the decision, where it was asked.
    pair_logps: nats of a whole chosen and a whole rejected answer. follow_ups: what the model said when the
    user went on after its first answer, by the name of the follow-up; one that got no reply is not in it.
    entropy: nats per token of the first answer, from the logits at temperature 1. cluster: prompts of one
    cluster are one observation; "" stands for itself.
    """

    prompt: Prompt
    answers: tuple[Completion, ...]
    feedback: Mapping[str, tuple[Feedback, ...]] = field(default_factory=dict)
    logps: tuple[float, ...] | None = None
    reference_logps: tuple[float, ...] | None = None
    nll: float | None = None
    baseline: Answered | None = None
    twin: Answered | None = None
    pair_logps: tuple[float, float] | None = None
    follow_ups: Mapping[str, Completion] = field(default_factory=dict)
    entropy: float | None = None
    cluster: str = ""

    def part(self, source: str, name: str) -> float | None:
        """A part of a source's score of the first answer; None where the source has no such part."""
        found = self.feedback.get(source)
        return found[0].parts.get(name) if found else None

    def score(self, source: str) -> float | None:
        """A source's score of the first answer; None where it is unscored."""
        found = self.feedback.get(source)
        return found[0].score if found else None

    def scored(self, source: str) -> bool:
        """Whether a source scored any of the answers."""
        return any(f.score is not None for f in self.feedback.get(source, ()))


@dataclass(frozen=True, slots=True)
class Request:
    """`k` completions of one prompt.

    id: distinct within a call. prefix_ids: tokens that every completion begins with, after the prompt: a
    search goes on from them, and so do the rollouts that label the steps of a process reward model.
    prompt_ids: the prompt's tokens, where an earlier answer brought them along; else the sampler makes them.

    skip: numbers of the samples that an earlier run has made. All `k` still count, so that every other sample
    is the one that it would have been. A sampler whose facts do not say `skips` may make them anew: nobody
    sees them then.
    """

    id: str
    prompt: Prompt
    k: int = 1
    params: SamplingParams = SamplingParams()
    prefix_ids: tuple[int, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    skip: tuple[int, ...] = ()

    @property
    def wanted(self) -> tuple[int, ...]:
        """Numbers of the samples that are to be made."""
        return tuple(i for i in range(self.k) if i not in self.skip)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and tokens written."""

    prompt_tokens: int = 0
    tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.tokens + other.tokens)


@dataclass(frozen=True, slots=True)
class Sample:
    """Completion number `index` of a request, or None with the `problem` that kept it from being made.

    A prefix is part of the completion: `token_ids` begin with it, `mask` and `sampling_logps` are 0 on it,
    `text` contains it, and `entropy` leaves it out. token_texts: what an endpoint says of its tokens, each as
    (text, log-prob).
    """

    request: Request
    index: int
    completion: Completion | None
    problem: str = ""
    usage: Usage = Usage()
    token_texts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class SamplerFacts:
    """What a sampler is.

    exact: its log-probs are the learner's own, up to rounding. version: updates that its weights have seen;
    None for a model that never changes. images: whether prompts may hold them. context: tokens of prompt plus
    completion; None is unknown. continues: whether it takes prefix_ids. chooses: whether it has `choose`.
    begins: whether it has `begin` and `finish`. needs: metadata of a prompt without which it has no answer.
    skips: whether it leaves out the samples that a request skips; if not, it is given no request that skips
    them all.
    """

    exact: bool = False
    version: int | None = None
    images: bool = False
    context: int | None = None
    continues: bool = False
    chooses: bool = False
    begins: bool = False
    needs: tuple[str, ...] = ()
    skips: bool = False


@dataclass(frozen=True, slots=True)
class Weights:
    """The policy after `version` updates.

    `model`: the Scorer that holds it; None is the one that the sampler was opened with.
    """

    version: int
    model: Any = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to a role that is talked to.

    id: neighbours with the same id begin alike, and a model in memory reads what they share once. note: what
    tells the ask from another one of the same words, such as order and repeat; a cache keeps both apart.
    metadata: what the question is about, for a script that knows a world; no model sees it. title: what a
    person recognises it by.
    """

    messages: tuple[Message, ...]
    id: str = ""
    note: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to an Ask; text is empty where `problem` says why there is none.

    cut: it reached the limit of tokens, so that nobody knows how it would have gone on.
    """

    text: str
    usage: Usage = Usage()
    problem: str = ""
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """How probable each option was as the beginning of the answer.

    probabilities: one per option, summing to 1; none where `problem` says why they are unknown. mass: what
    all options had together before that, 0 to 1; where it is small, the model would rather have said
    something else.
    """

    options: tuple[str, ...]
    probabilities: tuple[float, ...] = ()
    mass: float = 0.0
    usage: Usage = Usage()
    problem: str = ""

    @property
    def best(self) -> str:
        """The most probable option, the first among equals."""
        return self.options[self.probabilities.index(max(self.probabilities))]
