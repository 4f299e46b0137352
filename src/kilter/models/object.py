"""A model that is a Python object: it becomes a folder, named by its weights, like any other model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from kilter.artifacts import whole_folder
from kilter.errors import UserError
from kilter.hashes import cache_root, discard, seal, sealed
from kilter.models.remote_code import trusted
from kilter.models.save import save

FIX = "free disk space, then run again"


def as_folder(model: Any, tokenizer: Any = None, field: str = "model") -> Path:
    """The folder of a transformers model with its tokenizer; the same weights give the same folder.

    Args:
        model: a PreTrainedModel.
        tokenizer: its tokenizer; default: that of the folder or Hub name that the model was loaded from.
        field: that holds the model, for messages.

    Raises:
        UserError: the object is not a model, or its tokenizer cannot be found.
    """
    from transformers import AutoTokenizer, PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise UserError(
            field,
            type(model).__name__,
            "is not a model",
            "give builtin:NAME, a folder, a .gguf file, a Hub id, or a transformers PreTrainedModel",
        )
    if tokenizer is None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(model.name_or_path, trust_remote_code=trusted())
        except (OSError, ValueError) as error:
            raise UserError(
                field,
                model.name_or_path or "(made in memory)",
                "is where the model says that it comes from, and no tokenizer is there",
                "give its tokenizer as well: tokenizer=...",
            ) from error
    folder = cache_root() / "objects" / _name(model, tokenizer)
    if not sealed(folder):
        discard(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        # What transformers refuses to write is mended in the copy alone.
        before = model.generation_config
        try:
            with whole_folder(folder, what="the model object", fix=FIX) as partial:
                save(model, tokenizer, partial)
                seal(partial)
        finally:
            model.generation_config = before
    return folder


def _name(model: Any, tokenizer: Any) -> str:
    """Hash of weights, configurations, and what the tokenizer makes of a text."""
    import torch

    digest = hashlib.sha256(f"{model.config.to_json_string()} {model.generation_config}".encode())
    words = sorted(tokenizer.get_vocab().items())
    digest.update(f"{words} {tokenizer.special_tokens_map} {tokenizer.chat_template}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
