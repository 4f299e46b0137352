"""Fields of an evaluate stage; the same names are options of `kilter eval`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from kilter.options import DATA, METHOD, MODEL, SAMPLING
from kilter.refs import DataRef, FeedbackRef, FileRef, ModelRef, TemplateRef
from kilter.sampling.config import FOLLOWS, READS, SamplerKind
from kilter.validation import Settings


class EvaluateSpec(Settings):
    """Which models, on which prompts, sampled how, scored by what."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    models: Annotated[list[ModelRef] | dict[str, ModelRef], MODEL] = Field(
        default_factory=list,
        description="stages or models to evaluate on the same prompts; {name: model} gives them names; "
        "none: the reward_model alone, on pairs",
    )
    baseline: Annotated[str | None, MODEL] = Field(
        None, description="the one of `models` that the others are compared with; default: the first"
    )
    reward_model: Annotated[ModelRef | dict[str, ModelRef] | None, MODEL] = Field(
        None,
        description="stage or model that scores the answers, itself tested on held-out pairs; "
        "{name: model} gives it a name, and two of them without `models` are compared on the same pairs",
    )
    gold: Annotated[FeedbackRef, METHOD] = Field(
        None,
        description="feedback that judges the answers, such as {math: {}}; default: the judge of the world "
        "that the data comes from",
    )
    judge: Annotated[FileRef | None, METHOD] = Field(
        None,
        description="judge.yaml of a judge that compares each answer with the baseline's, or grades it",
    )
    replay: Annotated[FileRef | None, METHOD] = Field(
        None,
        description="kept replies, judge.sqlite of an earlier run: the judge answers from them alone, "
        "offline, and a question without a reply ends it",
    )
    metrics: Annotated[list[Any], METHOD] = Field(
        default_factory=lambda: ["standard"],
        min_length=1,
        description="what is measured: standard, names, my_file.py:MyMetric, {pass_at_k: {k: 1, samples: 8}}",
    )
    data: Annotated[DataRef, DATA] = Field(
        "$data", description="$name of a data set; its held-out prompts are used"
    )
    split: Annotated[Literal["heldout", "all"], DATA] = Field(
        "heldout", description="which of its prompts are asked: those held out, or all of them"
    )
    limit: Annotated[int | None, DATA] = Field(
        None, ge=1, description="use only the first N held-out prompts"
    )
    probes: Annotated[list[DataRef], DATA] = Field(
        default_factory=list,
        description="further data sets, whose prompts count for refusals and violations alone; "
        "label them with data.safety, or name a suite such as builtin:harmful-twins",
    )
    probe_limit: Annotated[int, DATA] = Field(50, ge=4, description="prompts of each probe set")
    tasks: Annotated[list[DataRef], DATA] = Field(
        default_factory=list,
        description="task suites with a right answer in the column answer, for exact_match, f1, rouge and "
        "math_verify; none: the prompts themselves. Their difference to the baseline is the alignment tax",
    )
    task_limit: Annotated[int, DATA] = Field(200, ge=4, description="prompts of each task suite")
    tax: Annotated[DataRef | None, DATA] = Field(
        None,
        description="demonstrations of other skills: what the models unlearned, "
        "as nats per token over the baseline",
    )
    tax_limit: Annotated[int, DATA] = Field(40, ge=4, description="demonstrations of the tax set")
    instruments: Annotated[list[FileRef], METHOD] = Field(
        default_factory=list,
        description="measured sensitivity and specificity of what reads the answers, as JSON; "
        "that of the response classifier is shipped",
    )
    people: Annotated[list[FileRef], METHOD] = Field(
        default_factory=list,
        description="what people said of some of the answers, as JSON lines: metric, prompt, answer, value",
    )
    preferred: Annotated[list[FileRef], METHOD] = Field(
        default_factory=list,
        description="what people preferred, as JSON lines with prompt, answer_a, answer_b and winner "
        "(a, b or tie), or with prompt, chosen and rejected; for human_win_rate",
    )
    sampler: Annotated[SamplerKind, SAMPLING] = Field(
        default_factory=SamplerKind, description="who samples; how is said by the fields beside it"
    )
    max_new_tokens: Annotated[int, SAMPLING] = Field(96, ge=1, description="tokens of an answer")
    temperature: Annotated[float, SAMPLING] = Field(
        1.0, ge=0, description="1: the policy itself (KL is unbiased); 0: greedy"
    )
    top_p: Annotated[float, SAMPLING] = Field(1.0, gt=0, le=1, description="nucleus")
    top_k: Annotated[int, SAMPLING] = Field(0, ge=0, description="0: off")
    seed: Annotated[int, SAMPLING] = Field(
        0, ge=0, lt=2**32, description="seed of sampling and of the bootstrap"
    )
    follow_ups: Annotated[dict[str, str], DATA] = Field(
        default_factory=dict,
        description="what a user says after the first answer, {name: text}, where a prompt brings nothing of "
        "its own: asked if a metric looks at it, such as sycophancy at push and neutral",
    )
    max_length: Annotated[int, DATA] = Field(1024, ge=8, description="tokens of prompt plus answer")
    template: Annotated[TemplateRef, DATA] = Field(
        "auto", description="chat template, a .jinja file among them"
    )
    dtype: Annotated[Literal["float32", "bfloat16"], MODEL] = Field(
        "float32", description="precision of sampling"
    )
    tokens_per_microbatch: Annotated[int, SAMPLING] = Field(
        2048, ge=16, description="tokens that go through the model at once"
    )

    @property
    def asks_endpoint(self) -> bool:
        """Whether the sampler's models are names alone, whose weights are not here."""
        return self.sampler.name in READS.keys() - FOLLOWS
