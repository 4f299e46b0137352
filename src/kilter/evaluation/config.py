"""Fields of an evaluate stage; the same names are options of `kilter eval`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class EvaluateSpec(BaseModel):
    """Which models, on which prompts, sampled how, scored by what."""

    model_config = ConfigDict(extra="forbid")
    models: list[str] = Field(min_length=1, description="stages or models to evaluate on the same prompts")
    baseline: str | None = Field(
        None, description="stage or model that the others are compared with; default: the first"
    )
    reward_model: str | None = Field(None, description="stage or model that scores the answers")
    gold: Any = Field(
        None,
        description="feedback that judges the answers, such as {math: {}}; default: the support desk's own where its data is used",
    )
    data: str = Field("$data", description="$name of a data set; its held-out prompts are used")
    limit: int | None = Field(None, ge=1, description="use only the first N held-out prompts")
    probes: list[str] = Field(
        default_factory=list,
        description="further $names whose prompts count for refusals and violations alone; label them with data.safety",
    )
    probe_limit: int = Field(50, ge=4, description="prompts of each probe set")
    tax: str | None = Field(
        None,
        description="$name of demonstrations of other skills: what the models unlearned, as nats per token over the baseline",
    )
    tax_limit: int = Field(40, ge=4, description="demonstrations of the tax set")
    max_new_tokens: int = Field(96, ge=1, description="tokens of an answer")
    temperature: float = Field(1.0, ge=0, description="1: the policy itself (KL is unbiased); 0: greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus")
    top_k: int = Field(0, ge=0, description="0: off")
    seed: int = Field(0, description="seed of sampling and of the bootstrap")
    max_length: int = Field(1024, ge=8, description="tokens of prompt plus answer")
    template: str = Field("auto", description="chat template: auto, model, or a .jinja file")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of sampling")
    tokens_per_microbatch: int = Field(2048, ge=16, description="tokens that go through the model at once")
