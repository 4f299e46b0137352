"""Low-rank adapters through peft: attach, list, load, merge."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from kilter.errors import UserError
from kilter.models.config import AdapterSpec


def quantization(spec: AdapterSpec | None) -> Any:
    """transformers' configuration for qlora (4-bit NF4, quantised twice, bfloat16 products), else None."""
    if spec is None or spec.kind != "qlora":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def attach(model: Any, spec: AdapterSpec, classifier: bool) -> Any:
    """Wraps `model` with fresh adapters; a reward head is trained in full beside them.

    Args:
        model: a transformers model; its layers are replaced in place.
        spec: which adapters, where.
        classifier: whether the model is a sequence classifier, whose head is trained in full.

    Raises:
        UserError: if `spec.target` names no layer of the model.
    """
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training

    from kilter.models.transformers_names import old_names_allowed

    if spec.kind == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(
        r=spec.r,
        # peft declares an integer. Only an alpha that is a fraction is passed as one.
        lora_alpha=int(spec.alpha) if float(spec.alpha).is_integer() else spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=spec.target,
        use_rslora=spec.kind == "rslora",
        use_dora=spec.kind == "dora",
        task_type=TaskType.SEQ_CLS if classifier else TaskType.CAUSAL_LM,
    )
    try:
        with old_names_allowed():
            return get_peft_model(model, config)
    except ValueError as error:
        # peft says only that nothing matched. Show what could have.
        linear = sorted(
            {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        )
        raise UserError(
            "adapter.target",
            spec.target,
            "names no layer of the model",
            f"use all-linear, or some of {', '.join(linear)}",
        ) from error


def adapted_modules(model: Any) -> str:
    """What the adapters sit on, for a person: 'q_proj x30, v_proj x30; score trained in full'."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    named = [(n.rpartition(".")[2], m) for n, m in model.named_modules()]
    # Every layer of a model repeats the same few names, so a count per name says it all.
    layers = Counter(n for n, m in named if isinstance(m, BaseTunerLayer))
    whole = sorted({n for n, m in named if isinstance(m, ModulesToSaveWrapper)})
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    text = ", ".join(f"{n} x{c}" for n, c in sorted(layers.items()))
    return (
        f"adapters on {text}"
        + (f"; {', '.join(whole)} trained in full" if whole else "")
        + f"; {trained:,} weights trained"
    )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a peft adapter rather than full weights."""
    return (folder / "adapter_config.json").is_file()


def load_merged(base: Any, folder: Path) -> Any:
    """`base` with the adapter of `folder` folded into its weights: a plain transformers model again."""
    from peft import PeftModel

    from kilter.models.transformers_names import old_names_allowed

    with old_names_allowed():
        return PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
