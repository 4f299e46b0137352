"""THE way to write a model: what transformers refuses to save is mended first, and the caller can say so."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from kilter.artifacts import write_text
from kilter.models.folder import quiet_transformers

log = logging.getLogger("kilter")


def save(model: Any, tokenizer: Any, folder: Path, **extra: Any) -> None:
    """Weights with their configuration, or an adapter alone, and the tokenizer, in transformers' layout.

    Args:
        model: a transformers model, with or without a peft wrapper.
        tokenizer: written beside it.
        folder: exists.
        extra: of transformers' `save_pretrained`.
    """
    left_out = mend_generation(model)
    if left_out:
        names = ", ".join(left_out)
        log.warning("generation_config.json: %s would have no effect and is left out", names)
    with quiet_transformers():
        if hasattr(model, "peft_config"):
            # The embeddings beneath an adapter are the base's own, and stay there.
            model.save_pretrained(str(folder), save_embedding_layers=False, **extra)
        else:
            model.save_pretrained(str(folder), **extra)
        tokenizer.save_pretrained(str(folder))


SWITCHES = ("do_sample", "num_beams", "return_dict_in_generate", "use_cache")
"""Generation settings that decide which others make sense."""


def mend_generation(model: Any) -> dict[str, Any]:
    """Leaves out the generation settings that transformers refuses to write: they have no effect.

    A temperature without `do_sample`, as many published models have it, is the best known of them.

    Returns:
        The settings that were left out, by name.
    """
    from transformers import GenerationConfig

    base = model.get_base_model() if hasattr(model, "peft_config") else model
    asked = getattr(base, "generation_config", None)
    if asked is None or _valid(asked):
        return {}

    # Those that decide come first. Each of the others has to go with what is there already.
    values = asked.to_diff_dict()
    kept, left_out = GenerationConfig(), {}
    for name in sorted(values, key=lambda n: (n not in SWITCHES, n)):
        before = getattr(kept, name, None)
        setattr(kept, name, values[name])
        if not _valid(kept):
            setattr(kept, name, before)
            left_out[name] = values[name]
    base.generation_config = kept
    return left_out


def _valid(settings: Any) -> bool:
    try:
        with quiet_transformers():
            settings.validate(strict=True)
    except ValueError:
        return False
    return True


def rounded(state: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The weights in another precision. Tied weights stay one tensor, so that they are saved once."""
    target: torch.dtype = getattr(torch, dtype)
    known: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for value in state.values():
        if value.is_floating_point():
            known.setdefault((value.data_ptr(), value.shape), value.to(target))
    return {
        name: known[value.data_ptr(), value.shape] if value.is_floating_point() else value
        for name, value in state.items()
    }


def name_dtype(config: Path, dtype: str) -> None:
    """transformers writes the precision of the model in memory; the file says that of the saved weights."""
    # An adapter's folder has no such file: its weights are read in the precision of the base.
    if config.is_file():
        known = json.loads(config.read_text(encoding="utf-8"))
        write_text(config, json.dumps(known | {"dtype": dtype}, indent=2) + "\n")
