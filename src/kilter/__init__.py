"""Kilter aligns language models with preferences and proves it.

    import kilter
    result = kilter.train(model="builtin:smollm2-135m", data="pairs.jsonl", method="dpo")

The nouns are in `kilter.types`, the seams beside them; importing the package itself is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kilter.version import __version__

__all__ = [
    "DataSpec",
    "TrainResult",
    "TrainSpec",
    "__version__",
    "evaluate",
    "export",
    "generate",
    "label",
    "load_data",
    "run",
    "train",
]

if TYPE_CHECKING:
    from kilter.api import evaluate, export, generate, label, run, train
    from kilter.data.dataset import DataSpec
    from kilter.data.dataset import load as load_data
    from kilter.training.config import TrainSpec
    from kilter.training.result import TrainResult

_WHERE = {
    "train": ("kilter.api", "train"),
    "evaluate": ("kilter.api", "evaluate"),
    "generate": ("kilter.api", "generate"),
    "label": ("kilter.api", "label"),
    "export": ("kilter.api", "export"),
    "run": ("kilter.api", "run"),
    "DataSpec": ("kilter.data.dataset", "DataSpec"),
    "load_data": ("kilter.data.dataset", "load"),
    "TrainSpec": ("kilter.training.config", "TrainSpec"),
    "TrainResult": ("kilter.training.result", "TrainResult"),
}


def __getattr__(name: str) -> Any:
    """Loads torch and friends only when something that needs them is asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module 'kilter' has no attribute {name!r}")
    import importlib

    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
