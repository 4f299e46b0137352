"""What transformers renamed, known here alone.

The newest release and the one that vLLM wants both work.

| until 5.23 | from 5.24 |
|---|---|
| `past_key_values=`, `output.past_key_values` | `cache=`, `output.cache` |
| `gradient_checkpointing_enable`, `is_gradient_checkpointing` | `activation_checkpointing_enable`, ... |

Each name is read once from the installed library, never from its version number.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

# The fields of an output are declared, so that no model needs to be built to know the word.
CACHE = "cache" if "cache" in {f.name for f in fields(CausalLMOutputWithPast)} else "past_key_values"
"""Keyword of a forward pass, and field of its output, that holds the key-value cache."""

_CHECKPOINTING = (
    "activation_checkpointing"
    if hasattr(PreTrainedModel, "activation_checkpointing_enable")
    else "gradient_checkpointing"
)


def checkpoint_activations(model: Any) -> None:
    """Makes the backward pass compute each layer's activations again instead of keeping them.

    Args:
        model: a transformers model, with or without adapters; changed in place.
    """
    enable = getattr(model, f"{_CHECKPOINTING}_enable")
    enable(**{f"{_CHECKPOINTING}_kwargs": {"use_reentrant": False}})


@contextlib.contextmanager
def old_names_allowed() -> Iterator[None]:
    """Silences transformers' note on an old name while peft, which still uses it, wraps a model."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
