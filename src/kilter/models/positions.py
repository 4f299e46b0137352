"""Up to which position a model's rotary embedding is the same whatever stands beside a row in the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kilter.errors import UserError

CHANGING = ("dynamic", "longrope")
"""Rotary embeddings that take other frequencies once the longest row of a batch passes the original context."""


def steady_positions(config: Any) -> int | None:
    """Positions within which log-probs depend on the row alone; None where that is everywhere."""
    limits = []
    for rope in _ropes(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)):
        if rope.get("rope_type", rope.get("type")) in CHANGING:
            original = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            limits.append(int(original or config.max_position_embeddings))
    return min(limits) if limits else None


def _ropes(value: Any) -> Iterator[Mapping[str, Any]]:
    """The embedding's settings, or those of each type of layer."""
    if isinstance(value, Mapping):
        if "rope_type" in value or "type" in value:
            yield value
        for part in value.values():
            yield from _ropes(part)


def require_steady(config: Any, length: int, field: str) -> None:
    """Raises UserError where rows of `length` tokens would change the embedding of all that shares their batch."""
    limit = steady_positions(config)
    if limit is not None and length > limit:
        raise UserError(
            field,
            length,
            f"goes beyond the {limit} positions within which this model's rotary embedding is the same in every batch",
            f"keep prompt and answer within {limit} tokens",
        )
