"""Methods, one per file: tensor arithmetic on completions.

Rooms: imitation, pairs, unpaired, lists, reward_models, rl. What they share: `pairwise`, `mixture`, `ops`,
`knobs`, `registry`. Importing this package declares every method below it. A method's file, and torch with
it, is read when the method is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kilter.objectives import index
from kilter.objectives.registry import build_objective, fitted, method, method_name, objectives

if TYPE_CHECKING:
    from kilter.objectives.imitation.sft import SFT
    from kilter.objectives.pairs.dpo import DPO
    from kilter.objectives.reward_models.bradley_terry import BradleyTerry

__all__ = [
    "DPO",
    "SFT",
    "BradleyTerry",
    "build_objective",
    "fitted",
    "method",
    "method_name",
    "objectives",
]

_CLASSES = {
    "SFT": "kilter.objectives.imitation.sft",
    "DPO": "kilter.objectives.pairs.dpo",
    "BradleyTerry": "kilter.objectives.reward_models.bradley_terry",
}


def __getattr__(name: str) -> Any:
    """A class that people derive from, read when it is asked for."""
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_CLASSES[name]), name)


for _module in index.modules():
    if _module in index.listed():
        objectives.declare(_module, *index.listed()[_module])
    else:  # a file added since the index was written
        importlib.import_module(_module)
