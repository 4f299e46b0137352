"""The checks by family, in the order of the page: importing this registers them all."""

# isort: skip_file
from __future__ import annotations

from kilter.data.audit.checks import (
    schema,
    sides,
    contradictions,
    duplicates,
    leakage,
    truncation,
    annotators,
    length,
    shortcut,
    source,
    position,
    drift,
    language,
    templates,
    damage,
    sensitive,
)

__all__ = [
    "annotators",
    "contradictions",
    "damage",
    "drift",
    "duplicates",
    "language",
    "leakage",
    "length",
    "position",
    "schema",
    "sensitive",
    "shortcut",
    "sides",
    "source",
    "templates",
    "truncation",
]
