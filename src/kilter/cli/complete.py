"""Words that the shell completes: methods, built-in models and data, feedback sources, choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Completion = Callable[[str], list[Any]]
"""From the beginning of a word to the words, or (word, what it means)."""


def among(words: Sequence[str]) -> Completion:
    """Completes to the words that begin as the typed text does."""

    def find(incomplete: str) -> list[Any]:
        return [word for word in words if word.startswith(incomplete)]

    return find


def methods(incomplete: str) -> list[Any]:
    """Names of methods with their first line."""
    from kilter.objectives import objectives
    from kilter.objectives.index import lookup

    return [(n, lookup(n).summary) for n in objectives.names() if n.startswith(incomplete)]


def models(incomplete: str) -> list[Any]:
    """Built-in models; folders are the shell's own to complete."""
    from kilter.models.builtin import BUILTIN

    return [word for name in BUILTIN if (word := f"builtin:{name}").startswith(incomplete)]


def data(incomplete: str) -> list[Any]:
    """Built-in data; files are the shell's own to complete."""
    from kilter.data.worlds.registry import paths, suite_paths

    return among([*paths(), *suite_paths()])(incomplete)


def sources(incomplete: str) -> list[Any]:
    """Completes to registered feedback sources."""
    from kilter.feedback import feedback_sources

    return among(feedback_sources.names())(incomplete)


def samplers(incomplete: str) -> list[Any]:
    """Completes to registered samplers."""
    from kilter.sampling.registry import samplers as registered

    return among(registered.names())(incomplete)


SOURCES: dict[str, Completion] = {
    "method": methods,
    "model": models,
    "data": data,
    "feedback": sources,
    "sampler": samplers,
}
"""Completions by what a value refers to, or by the name of the option."""
