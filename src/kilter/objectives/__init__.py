"""One method per file: pure tensor arithmetic over completion log-probs or scores."""

from kilter.objectives.bradley_terry import BradleyTerry
from kilter.objectives.dpo import DPO
from kilter.objectives.registry import build_objective, objectives
from kilter.objectives.sft import SFT

__all__ = ["DPO", "SFT", "BradleyTerry", "build_objective", "objectives"]
