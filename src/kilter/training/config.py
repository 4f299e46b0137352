"""Fields of a train stage; the same names are the options of `kilter train`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kilter.models.adapters import AdapterSpec


class TrainSpec(BaseModel):
    """What to train, on what, how long and how."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)
    method: str | dict[str, Any] = Field(description="a method by name, or {name: dpo, beta: 0.1}")
    start: str | None = Field(None, alias="from", description="stage or model to start from; default: the recipe's model")
    reference: str | None = Field(None, description="stage or model of the reference policy; default: where training starts")
    data: str = Field("$data", description="$name of a data set of the recipe")
    epochs: float = Field(1.0, gt=0, description="passes over the training groups")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps; overrides epochs")
    batch_size: int = Field(16, ge=1, description="groups (prompts) per optimizer step, over all processes")
    tokens_per_microbatch: int = Field(
        1024, ge=16, description="tokens that go through the model at once; changes memory and speed, never the gradient"
    )
    learning_rate: float | None = Field(None, gt=0, description="peak learning rate; default: the method's own")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="decay after the warm-up, to 0")
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="share of the steps with rising learning rate")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay; never on norms and biases")
    max_grad_norm: float = Field(1.0, ge=0, description="gradient norm above which it is scaled down; 0 switches clipping off")
    max_length: int = Field(1024, ge=8, description="tokens of prompt plus completion; completions lose their end, prompts their beginning")
    template: str = Field("auto", description="chat template: auto, model, or a .jinja file")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: autocast over float32 weights")
    adapter: AdapterSpec | None = Field(None, description="train LoRA adapters instead of all weights")
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward: less memory, about a third slower")
    shuffle: bool = Field(True, description="new order each epoch, from the seed")
    seed: int = Field(0, description="order of the data, initial heads, dropout")
    limit: int | None = Field(None, ge=1, description="use only the first N training groups")
    eval_every: int | None = Field(None, ge=1, description="steps between evaluations on the held-out groups; always once at the end")
    save_every: int | Literal["auto"] = Field("auto", description="steps between checkpoints; auto: as often as costs under 5 % of the time")
    trackers: list[str] = Field(default_factory=list, description="tensorboard, wandb, trackio, ... (any accelerate tracker)")
    engine: Literal["auto", "local", "accelerate"] = Field("auto", description="auto: accelerate under `accelerate launch`, else local")
    fsdp: bool = Field(False, description="shard weights, gradients and optimizer over the processes (FSDP2)")

    @model_validator(mode="before")
    @classmethod
    def _algorithm_is_method(cls, value: Any) -> Any:
        if isinstance(value, dict) and "algorithm" in value:
            if "method" in value:
                raise ValueError("give method or algorithm, not both")
            value = {("method" if k == "algorithm" else k): v for k, v in value.items()}
        return value

    @model_validator(mode="after")
    def _save_every_positive(self) -> TrainSpec:
        if isinstance(self.save_every, int) and self.save_every < 1:
            raise ValueError("save_every must be at least 1, or auto")
        return self
