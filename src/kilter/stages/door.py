"""How a kind of stage is started without a recipe: a kind that declares a Door has a command of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Door:
    """What `kilter KIND` says beside the fields of the kind's Spec, which are its options.

    Args:
        does: the help's first sentences.
        examples: command lines, the usual one first.
        often: fields that people set most, which come first under their heading.
        without: fields of nested parts that the kind refuses, such as sampler__samples.
    """

    does: str
    examples: Sequence[str]
    often: Sequence[str] = ()
    without: Sequence[str] = ()
