"""The policy's weights as vLLM reads them: plain, whole, in one file, adapters added in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kilter.errors import UserError


@torch.no_grad()
def merged_state(model: Any, dtype: torch.dtype) -> tuple[Any, dict[str, torch.Tensor]]:
    """The plain transformers model, and its weights with any LoRA added in.

    The trained model is left exactly as it is: merging in place and back would round its weights.
    """
    if not hasattr(model, "peft_config"):
        return model, {k: v.detach().to(dtype) for k, v in model.state_dict().items()}
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    if tied(base) and any(isinstance(end, LoraLayer) for end in ends):
        raise UserError(
            "sampler.name",
            "vllm",
            "has one matrix for both ends of this model, and the adapter changes one of them",
            "use sampler.name: local, or leave lm_head and embed_tokens out of adapter.target",
        )
    deltas = {}
    for name, module in base.named_modules():
        if isinstance(module, LoraLayer):
            deltas[f"{name}.weight"] = sum(
                module.get_delta_weight(a)
                for a in module.active_adapters
                if a in module.lora_A or a in module.lora_embedding_A
            )

    # peft keeps the weights that it wraps one level further down.
    state = {}
    for name, value in base.state_dict().items():
        if "lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        value = value.detach()
        state[plain] = (value + deltas[plain] if plain in deltas else value).to(dtype)
    return base, state


def tied(model: Any) -> bool:
    """Whether input embedding and output projection share one matrix."""
    return bool(model.config.get_text_config().tie_word_embeddings)


def untie(base: Any, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Gives a tied output projection in `folder` weights of its own.

    On a CPU, vLLM 0.32 re-arranges the head's weights when it loads them, and misses them when it reloads.
    """
    if not tied(base):
        return
    head = next(name for name, module in base.named_modules() if module is base.get_output_embeddings())
    embedding = next(name for name, module in base.named_modules() if module is base.get_input_embeddings())
    # A file beside the model's own: vLLM reads every *.safetensors of the folder.
    save_file(
        {f"{head}.weight": state[f"{embedding}.weight"].contiguous()},
        str(folder / "head.safetensors"),
        metadata={"format": "pt"},
    )
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": False}))
