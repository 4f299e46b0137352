"""One method per file: pure tensor arithmetic over completion log-probs, values or scores.

Rooms: imitation, pairs, unpaired, lists, rewards, rl. What they share: `pairwise`, `mixture`, `ops`, `knobs`, `registry`.
Importing this package registers every method below it.
"""

import importlib
import pkgutil

from kilter.objectives.imitation.sft import SFT
from kilter.objectives.pairs.dpo import DPO
from kilter.objectives.registry import build_objective, method, method_name, objectives
from kilter.objectives.reward_models.bradley_terry import BradleyTerry

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

__all__ = ["DPO", "SFT", "BradleyTerry", "build_objective", "method", "method_name", "objectives"]
