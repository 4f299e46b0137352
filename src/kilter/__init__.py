"""Kilter aligns language models with preferences and proves it."""

__version__ = "0.1.0"
