"""How completions are sampled: the fields of `sampler`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SamplerSpec(BaseModel):
    """How completions are sampled in training."""

    model_config = ConfigDict(extra="forbid")
    name: Literal["local", "vllm"] = Field(
        "local", description="local shares the learner's weights; vllm is an engine of its own"
    )
    samples: int = Field(8, ge=1, description="completions per prompt (num_generations)")
    max_new_tokens: int = Field(128, ge=1, description="tokens of a completion")
    temperature: float = Field(
        1.0, gt=0, description="log-probs in the loss are taken at this temperature too"
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="nucleus; below 1 the log-probs stay those of the full distribution"
    )
    top_k: int = Field(0, ge=0, description="0: off")
    stop: list[str] = Field(default_factory=list, description="strings that end a completion")
    tokens_per_batch: int = Field(1 << 14, ge=64, description="cached tokens in flight (local)")
    url: str | None = Field(None, description="address of a running vLLM server; none: in process (vllm)")
    timeout: float = Field(120.0, gt=0, description="seconds for one weight update or one request (vllm)")
    memory: float | None = Field(
        None,
        gt=0,
        description="GB of key-value cache on a CPU, share of the GPU's memory (0 to 1) on a GPU (vllm)",
    )
