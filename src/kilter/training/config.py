"""Fields of a train stage; the same names are the options of `kilter train`."""

from __future__ import annotations

import importlib.util
import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, field_validator, model_validator

from kilter.data.worlds.registry import sources
from kilter.errors import UserError
from kilter.launch.spec import ClusterSpec
from kilter.models.config import AdapterSpec
from kilter.objectives.registry import unfolded
from kilter.options import DATA, METHOD, MODEL, MONITORING, OPTIMISATION, OUTPUT, SAMPLING
from kilter.refs import BaseRef, DataRef, FeedbackRef, ModelRef, ReferenceRef, TemplateRef
from kilter.sampling.config import SamplerSpec
from kilter.validation import Settings, with_fix

FREE = frozenset(
    {
        "allow_uncertified",
        "save_every",
        "trackers",
        "engine",
        "processes",
        "fsdp",
        "zero",
        "eval_every",
        "eval_limit",
        "tokens_per_microbatch",
        "gradient_checkpointing",
        "activation_offloading",
        "cluster",
    }
)
"""Settings that may differ between a stop and its resumption: they change no number of the run."""


class FsdpSpec(Settings):
    """How weights, gradients and optimizer are divided over the processes (FSDP2)."""

    # True stands for all defaults, and False for none.
    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, json_schema_extra={"switch": True, "type": ["object", "boolean"]}
    )
    shard: int | None = Field(
        None,
        ge=2,
        description="processes that hold one copy of the weights together, as those of a node do; "
        "the processes must be a multiple of it; default: all of them",
    )
    gathers: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="precision in which weights of layers travel to a forward; auto: as `dtype`. "
        "Gradients are summed in float32",
    )

    def uneven(self, processes: int) -> tuple[str, str] | None:
        """What is wrong with the number of processes, and the fix; None where they divide evenly."""
        if self.shard is None or processes % self.shard == 0:
            return None
        problem = f"does not divide the {processes} processes into groups of equal size"
        return problem, f"use a number of processes that is a multiple of {self.shard}, or another shard"


class CriticSpec(Settings):
    """The value model of methods that have one."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    start: ModelRef | None = Field(
        None,
        alias="from",
        description="reward model to begin from; default: the feedback's, else the policy with a fresh head",
    )
    learning_rate: float = Field(9e-6, gt=0, description="its own peak learning rate")
    warmup_steps: int = Field(0, ge=0, description="first steps in which the critic alone learns")


class KLControl(Settings):
    """How the KL coefficient moves."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    mode: Literal["fixed", "adaptive", "budget"] = Field(
        "fixed", description="fixed; adaptive: towards the target (Ziegler 2019); budget: rises only above it"
    )
    target: float = Field(6.0, gt=0, description="KL to the reference in nats per completion")
    horizon: float = Field(1000.0, gt=0, description="completions over which the coefficient adapts")
    max_coef: float = Field(10.0, gt=0, description="the coefficient never exceeds this")


class MonitorSpec(Settings):
    """What watches the run; see docs/monitors.md."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    enabled: bool = Field(True, description="watch for NaN, collapse and reward hacking")
    gold: FeedbackRef = Field(
        None,
        description="feedback that judges held-out answers independently of the reward; "
        "a built-in world brings its own",
    )
    gold_every: int = Field(20, ge=1, description="steps between gold evaluations")
    gold_prompts: int = Field(48, ge=4, description="training prompts set aside for gold evaluations")
    stop: bool = Field(
        True, description="stop when the proxy is up and gold is down twice, or a tier-0 limit is passed"
    )
    keep_best: bool | None = Field(
        None,
        description="the finished model is the checkpoint with the best gold score; "
        "default: where something judges the answers",
    )
    pin: bool = Field(
        True,
        description="keep the checkpoints of the first and the last step that a signal named, under pinned/",
    )
    allow_truncation: bool = Field(
        False, description="answers that hit the length limit are no reason to stop"
    )
    kl_budget: float | None = Field(
        None, gt=0, description="nats per completion; three times it stops the run"
    )


class EarlyStopping(Settings):
    """When a run on fixed data ends before its last step; it keeps the best weights that it saw."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    patience: int = Field(
        3, ge=1, description="evaluations in a row without an improvement after which the run ends"
    )
    metric: str = Field(
        "loss",
        min_length=1,
        description="held-out metric that has to improve, such as loss or rewards/accuracies",
    )
    better: Literal["auto", "lower", "higher"] = Field(
        "auto", description="direction of an improvement; auto: lower for loss and nll, else higher"
    )
    threshold: float = Field(0.0, ge=0, description="the least change that counts as an improvement")


def _algorithm_too(schema: dict[str, Any]) -> None:
    """In the schema, `algorithm` is another name for `method`, and one of them is required."""
    schema["properties"]["algorithm"] = {
        **schema["properties"]["method"],
        "description": "another name for method",
    }
    schema["anyOf"] = [{"required": ["method"]}, {"required": ["algorithm"]}]
    schema["required"] = [name for name in schema.get("required", []) if name != "method"]


class TrainSpec(Settings):
    """What to train, on what, how long and how."""

    model_config = ConfigDict(
        extra="forbid", populate_by_name=True, allow_inf_nan=False, json_schema_extra=_algorithm_too
    )
    method: Annotated[str | dict[str, Any], METHOD] = Field(
        description="a method by name, or {name: dpo, beta: 0.1}; dpo+sft:0.5 is a weighted sum of two"
    )
    start: Annotated[BaseRef, MODEL] = Field(
        None, alias="from", description="stage or model to start from; default: the recipe's model"
    )
    reference: Annotated[ReferenceRef, MODEL] = Field(
        None, description="stage or model of the reference policy; default: where training starts"
    )
    teacher: Annotated[ModelRef | None, MODEL] = Field(
        None, description="stage or model to learn from (distill)"
    )
    data: Annotated[DataRef, DATA] = Field("$data", description="$name of a data set of the recipe")
    prompts: Annotated[DataRef | None, DATA] = Field(
        None, description="$name of a data set whose prompts are answered by the policy (online)"
    )
    feedback: Annotated[FeedbackRef, METHOD] = Field(
        None,
        description="who scores sampled completions: "
        f"{', '.join(sources())}, math, {{reward_model: rm}}, my_file.py:reward, or a weighted list",
    )
    replay: Annotated[bool, DATA] = Field(
        False,
        description="learn from the scored rollouts in `data`, the groups.jsonl of an earlier run, "
        "and sample nothing (ppo, grpo and relatives)",
    )
    sampler: Annotated[SamplerSpec, SAMPLING] = Field(
        default_factory=lambda: SamplerSpec(), description="how completions are sampled (online)"
    )
    select: Annotated[Literal["auto", "all", "best_of", "best_worst", "drop_constant"], SAMPLING] = Field(
        "auto", description="which completions train (online); auto: what the method needs"
    )
    refill: Annotated[int, SAMPLING] = Field(
        3, ge=0, description="rounds of further sampling when drop_constant leaves too few groups"
    )
    minibatches: Annotated[int, OPTIMISATION] = Field(
        1, ge=1, description="optimizer steps per pass over a batch of rollouts (online)"
    )
    inner_epochs: Annotated[int | None, OPTIMISATION] = Field(
        None, ge=1, description="passes over a batch of rollouts; default: the method's own (online)"
    )
    kl_control: Annotated[KLControl, METHOD] = Field(
        default_factory=lambda: KLControl(), description="how the KL coefficient moves (online)"
    )
    critic: Annotated[CriticSpec, MODEL] = Field(
        default_factory=lambda: CriticSpec(), description="the value model (ppo)"
    )
    monitors: Annotated[MonitorSpec, MONITORING] = Field(
        default_factory=lambda: MonitorSpec(), description="what watches the run (online)"
    )
    refresh_reference_every: Annotated[int | None, METHOD] = Field(
        None, ge=1, description="steps after which the reference becomes the present policy (iterative DPO)"
    )
    epochs: Annotated[float, OPTIMISATION] = Field(1.0, gt=0, description="passes over the training groups")
    max_steps: Annotated[int | None, OPTIMISATION] = Field(
        None, ge=1, description="optimizer steps; overrides epochs"
    )
    batch_size: Annotated[int, OPTIMISATION] = Field(
        16, ge=1, description="groups (prompts) per optimizer step, over all processes"
    )
    tokens_per_microbatch: Annotated[int, OPTIMISATION] = Field(
        1024,
        ge=16,
        description="tokens that go through the model at once; changes memory and speed, never the gradient",
    )
    learning_rate: Annotated[float | None, OPTIMISATION] = Field(
        None, gt=0, description="peak learning rate; default: the method's own, ten times that for adapters"
    )
    schedule: Annotated[Literal["linear", "cosine", "constant"], OPTIMISATION] = Field(
        "linear", description="decay after the warm-up, to 0 or to min_lr_rate"
    )
    min_lr_rate: Annotated[float, OPTIMISATION] = Field(
        0.0, ge=0, lt=1, description="where linear and cosine end, as a share of the peak learning rate"
    )
    warmup_ratio: Annotated[float, OPTIMISATION] = Field(
        0.05, ge=0, lt=1, description="share of the steps with rising learning rate"
    )
    warmup_steps: Annotated[int | None, OPTIMISATION] = Field(
        None, ge=0, description="optimizer steps with rising learning rate, in place of warmup_ratio"
    )
    weight_decay: Annotated[float, OPTIMISATION] = Field(
        0.0, ge=0, description="AdamW weight decay; never on norms and biases"
    )
    max_grad_norm: Annotated[float, OPTIMISATION] = Field(
        1.0, ge=0, description="gradient norm above which it is scaled down; 0 switches clipping off"
    )
    max_length: Annotated[int, DATA] = Field(
        1024,
        ge=8,
        description="tokens of prompt plus completion; completions lose their end, prompts their beginning",
    )
    template: Annotated[TemplateRef, DATA] = Field(
        "auto", description="chat template, a .jinja file among them"
    )
    dtype: Annotated[Literal["float32", "bfloat16"], MODEL] = Field(
        "float32", description="bfloat16: autocast over float32 weights"
    )
    adapter: Annotated[AdapterSpec | None, MODEL] = Field(
        None, description="train LoRA adapters instead of all weights"
    )
    router_aux_loss: Annotated[float | Literal["auto"], OPTIMISATION] = Field(
        0.0,
        description="weight of the load-balancing loss of a mixture of experts; "
        "auto: the model's own, as TRL has it",
    )
    gradient_checkpointing: Annotated[bool, OPTIMISATION] = Field(
        False, description="recompute activations in the backward: less memory, about a third slower"
    )
    activation_offloading: Annotated[bool, OPTIMISATION] = Field(
        False,
        description="keep activations in host memory until the backward needs them: less GPU memory, slower",
    )
    shuffle: Annotated[bool, DATA] = Field(True, description="new order each epoch, from the seed")
    seed: Annotated[int, OPTIMISATION] = Field(
        0, ge=0, lt=2**32, description="order of the data, initial heads, dropout"
    )
    allow_uncertified: Annotated[bool, DATA] = Field(
        False, description="learn from labels or rewards of a judge without a valid certificate"
    )
    limit: Annotated[int | None, DATA] = Field(None, ge=1, description="use only the first N training groups")
    eval_every: Annotated[int | None, MONITORING] = Field(
        None, ge=1, description="steps between evaluations on the held-out groups; always once at the end"
    )
    eval_limit: Annotated[int | None, MONITORING] = Field(
        None, ge=1, description="use only the first N held-out groups in these evaluations; default: all"
    )
    early_stopping: Annotated[EarlyStopping | None, MONITORING] = Field(
        None,
        description="end early where a metric stops to improve on rows set aside for it, and keep the best "
        "weights; needs eval_every",
    )
    export_dtype: Annotated[Literal["float32", "bfloat16"], OUTPUT] = Field(
        "float32", description="precision of the saved weights; bfloat16 takes half the disk"
    )
    save_every: Annotated[PositiveInt | Literal["auto"], OUTPUT] = Field(
        "auto", description="steps between checkpoints; auto: as often as costs under 5 % of the time"
    )
    trackers: Annotated[list[str], MONITORING] = Field(
        default_factory=list, description="tensorboard, wandb, trackio, ... (any accelerate tracker)"
    )
    engine: Annotated[Literal["auto", "local", "accelerate"], OPTIMISATION] = Field(
        "auto",
        description="auto: accelerate with several processes (`processes`, or accelerate launch, "
        "or torchrun), else local",
    )
    processes: Annotated[int, OPTIMISATION] = Field(
        1,
        ge=1,
        description="start this many processes, one per GPU or share of the CPU cores (engine accelerate)",
    )
    fsdp: Annotated[FsdpSpec | None, OPTIMISATION] = Field(
        None,
        description="shard weights, gradients and optimizer over the processes (FSDP2); "
        "{shard: 8} within groups of 8, each with a copy",
    )
    zero: Annotated[Literal[1, 2] | None, OPTIMISATION] = Field(
        None,
        description="DeepSpeed ZeRO stage: 1 shards the optimizer, 2 gradients as well (extra deepspeed); "
        "fsdp shards weights too",
    )
    cluster: Annotated[ClusterSpec | None, OPTIMISATION] = Field(
        None, description="roles on other processes and machines, by Ray; see docs/cluster.md"
    )

    @model_validator(mode="before")
    @classmethod
    def _algorithm_is_method(cls, value: Any) -> Any:
        if isinstance(value, dict) and "algorithm" in value:
            if "method" in value:
                raise ValueError("has both method and algorithm, which are one setting")
            value = {("method" if k == "algorithm" else k): v for k, v in value.items()}
        return value

    @field_validator("fsdp", mode="before")
    @classmethod
    def _fsdp_is_a_switch(cls, value: Any) -> Any:
        """True has all defaults."""
        return (FsdpSpec() if value else None) if isinstance(value, bool) else value

    @field_validator("method")
    @classmethod
    def _mixture_has_parts(cls, value: Any) -> Any:
        """One spelling of a mixture, so that a run has one identity."""
        try:
            found = unfolded({"name": value} if isinstance(value, str) else value)
        except UserError as error:
            raise with_fix(error) from error
        return found if "mix" in found else value

    @field_validator("router_aux_loss")
    @classmethod
    def _aux_loss_is_a_weight(cls, value: float | str) -> float | str:
        """A loss is added, never taken away."""
        if not isinstance(value, str) and not 0 <= value < math.inf:
            raise ValueError("should be a number of at least 0, or auto")
        return value


def check_zero(stage: int, where: str = "") -> None:
    """Raises UserError where DeepSpeed is not installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f"{where}zero",
            stage,
            "needs deepspeed, which is not installed",
            "run: pip install 'kilter[deepspeed]', or use fsdp, or leave zero out",
        )
