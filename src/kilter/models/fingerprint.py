"""The hashes by which a model is known: all of its files, or only what changes numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kilter.artifacts import sha256_file
from kilter.errors import UserError
from kilter.hashes import file_hash
from kilter.models.builtin import BUILTIN
from kilter.models.folder import read_json
from kilter.models.resolve import base_of, builtin_file, resolve


def model_hash(folder: Path) -> str:
    """Content hash of a model folder: config, weights and tokenizer, but not file times or the folder's name.

    Raises:
        UserError: if there is nothing to hash. An empty hash would make unlike models look alike.
    """
    files = sorted(
        p
        for p in folder.iterdir()
        if p.suffix in (".safetensors", ".bin", ".json", ".jinja", ".model", ".py")
    )
    if not files:
        raise UserError("model", str(folder), "holds no model files", "give a Hugging Face model folder")
    lines = [f"{p.name} {file_hash(p)}" for p in files]
    # The same adapter over another base is another model.
    base, adapter = base_of(folder)
    if adapter is not None:
        lines.append(f"base {model_hash(base)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def numbers_hash(folder: Path) -> str:
    """Hash of what decides a model's numbers: weights, architecture, tokenizer, tokens that end an answer.

    Other settings of generation, notes and the version that wrote the files are no part of it, so that they
    may be mended in the middle of a run.
    """
    lines = []
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".jinja", ".model", ".py")
    ):
        lines.append(f"{path.name} {file_hash(path)}")
    for path in sorted(folder.glob("*.json")):
        read = READ_KEYS.get(path.name)
        values = read_json(path) if read is None else read(read_json(path))
        if values is not None:
            lines.append(f"{path.name} {json.dumps(values, sort_keys=True)}")
    base, adapter = base_of(folder)
    if adapter is not None:
        lines.append(f"base {numbers_hash(base)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def reference_hash(reference: str, here: bool = False) -> str:
    """Hash of what decides a model's numbers; of a built-in one without unpacking it.

    Args:
        reference: as for `resolve`.
        here: nothing is fetched from the Hub, and a built-in one's package must be there.

    Raises:
        UserError: there is no such model.
    """
    name = reference.removeprefix("builtin:")
    if reference.startswith("builtin:") and name in BUILTIN and not here:
        return BUILTIN[name].sha256
    if reference.startswith("builtin:"):
        return sha256_file(builtin_file(reference, "model"))
    return numbers_hash(resolve(reference, fetch=not here))


def _without(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what names, versions and precisions it was written with."""
    unread = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache")
    return {k: _without(v) if isinstance(v, dict) else v for k, v in values.items() if k not in unread}


TOKENIZER_KEYS = (
    "tokenizer_class",
    "chat_template",
    "added_tokens_decoder",
    "extra_special_tokens",
    "additional_special_tokens",
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "legacy",
)
"""What of a tokenizer's settings decides tokens."""

READ_KEYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "config.json": _without,
    "generation_config.json": lambda values: values.get("eos_token_id"),
    "adapter_config.json": lambda values: {
        k: v for k, v in values.items() if k not in ("base_model_name_or_path", "revision", "peft_version")
    },
    "kilter.json": lambda values: values.get("reads"),
    "tokenizer_config.json": lambda values: {k: values[k] for k in TOKENIZER_KEYS if k in values},
    "model.safetensors.index.json": lambda values: None,
    "special_tokens_map.json": lambda values: None,
}
"""File of a model folder to what of it decides a number; other JSON files count whole."""
