"""Up to which position a row's rotary embedding does not depend on the other rows of its batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kilter.errors import UserError

CHANGING = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies change once a batch's longest row passes the original context."""


def steady_positions(config: Any) -> int | None:
    """Positions within which log-probs depend on the row alone; None where that is everywhere."""
    limits = []
    # transformers 5 says `rope_parameters`; the folders of older models still say `rope_scaling`.
    for rope in _ropes(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)):
        if rope.get("rope_type", rope.get("type")) in CHANGING:
            original = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            limits.append(int(original or config.max_position_embeddings))
    return min(limits) if limits else None


def _ropes(value: Any) -> Iterator[Mapping[str, Any]]:
    """The embedding's settings, or those of each type of layer."""
    # A model with sliding and full attention nests one set of settings per type of layer.
    if isinstance(value, Mapping):
        if "rope_type" in value or "type" in value:
            yield value
        for part in value.values():
            yield from _ropes(part)


def require_steady(config: Any, length: int, field: str) -> None:
    """Refuses rows so long that they would change the embedding of every other row in their batch.

    Args:
        config: the model's text configuration.
        length: longest row, in tokens.
        field: the option that says so.

    Raises:
        UserError: if `length` is beyond the steady positions.
    """
    limit = steady_positions(config)
    if limit is not None and length > limit:
        raise UserError(
            field,
            length,
            f"goes beyond the {limit} positions within which the rotary embedding stays the same",
            f"keep prompt and answer within {limit} tokens",
        )
