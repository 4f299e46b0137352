"""How long rows may be: where positions end, where they change for other rows, and where windows begin."""

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


def windows(config: Any) -> list[int]:
    """Lengths at which a model begins to read a row differently: windows, chunks, scaled positions."""
    found: set[int] = set()
    _collect(config.to_dict(), found)
    return sorted(found)


WINDOW_WORDS = ("window", "chunk", "local", "floor", "block_size", "span", "original_max_position")
"""Parts of the names by which configurations call such lengths."""


def _collect(value: Any, found: set[int]) -> None:
    items = value.items() if isinstance(value, Mapping) else ()
    for name, inner in items:
        if isinstance(inner, Mapping):
            _collect(inner, found)
        lengths = inner if isinstance(inner, list | tuple) else [inner]
        if any(word in str(name) for word in WINDOW_WORDS):
            found.update(x for x in lengths if isinstance(x, int) and not isinstance(x, bool) and x > 1)


def positions(config: Any) -> int | None:
    """Tokens that a row may have, prompt and answer together; None where the model sets no end.

    A rotary embedding that is stretched by a factor reaches as much further, unless the number is that
    of the stretched embedding already.
    """
    limit = next(
        (v for n in POSITION_NAMES if isinstance(v := getattr(config, n, None), int) and v > 0), None
    )
    if limit is None:
        return None
    ropes = _ropes(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
    factors = [
        float(rope["factor"])
        for rope in ropes
        if rope.get("rope_type", rope.get("type")) in STRETCHED
        and isinstance(rope.get("factor"), int | float)
        and rope.get("original_max_position_embeddings", limit) == limit
    ]
    return int(limit * max([1.0, *factors]))


POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length")
"""What configurations call the number of their positions."""
STRETCHED = ("linear", "yarn", "dynamic")
"""Rotary embeddings that reach beyond the positions of the configuration, by a factor."""
