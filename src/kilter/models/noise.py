"""Dropout, switched off: log-probs of policy and reference must be those of one function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

WORD = "drop"
"""Part of the names by which models call their rates: dropout, attn_pdrop, hidden_dropout_prob, layerdrop."""


def switch_off_dropout(model: Any) -> None:
    """Sets every rate of a dropout to 0, in the model's modules and in its configurations.

    Another noise shows itself in the proof: its module then stays in evaluation mode. A router's jitter is
    left alone, for some models read it in evaluation as well.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for holder in _holders(module):
            for name, value in list(vars(holder).items()):
                if is_rate(name, value):
                    setattr(holder, name, 0.0)


def is_rate(name: str, value: object) -> bool:
    """Whether this is the rate of a dropout."""
    return isinstance(value, float) and WORD in name


def _holders(module: Any) -> Iterator[Any]:
    """A module, its configuration, and the parts of that."""
    yield module
    config = getattr(module, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return
    yield config
    yield from (part for part in vars(config).values() if hasattr(part, "to_dict"))
