"""LoRA through peft: attach, load, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class AdapterSpec(BaseModel):
    """Low-rank adapters: h = W x + (alpha / r) B A x, only A and B are trained (Hu et al. 2021)."""

    model_config = ConfigDict(extra="forbid")
    r: int = Field(16, ge=1, description="rank")
    alpha: float = Field(32, gt=0, description="scale numerator; the update is multiplied by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    target: str | list[str] = Field("all-linear", description="module names, or all-linear")


def attach(model: Any, spec: AdapterSpec, classifier: bool) -> Any:
    """Wraps `model` with fresh adapters; a reward head is trained in full beside them."""
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        r=spec.r,
        lora_alpha=int(spec.alpha) if float(spec.alpha).is_integer() else spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=spec.target,
        task_type=TaskType.SEQ_CLS if classifier else TaskType.CAUSAL_LM,
    )
    return get_peft_model(model, config)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a peft adapter rather than full weights."""
    return (folder / "adapter_config.json").is_file()


def load_merged(base: Any, folder: Path) -> Any:
    """`base` with the adapter of `folder` folded into its weights: a plain transformers model again."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
