"""One method per file: pure tensor arithmetic over completion log-probs, values or scores."""

from kilter.objectives.bradley_terry import BradleyTerry
from kilter.objectives.cispo import CISPO
from kilter.objectives.dpo import DPO
from kilter.objectives.grpo import DAPO, GRPO, DrGRPO
from kilter.objectives.gspo import GSPO
from kilter.objectives.online_preference import XPO, NashMD, OnlineDPO
from kilter.objectives.ppo import PPO
from kilter.objectives.registry import build_objective, objectives
from kilter.objectives.reinforce import RLOO, Reinforce, ReinforcePP, ReMax
from kilter.objectives.sapo import SAPO
from kilter.objectives.sft import SFT
from kilter.objectives.vespo import VESPO

__all__ = [
    "CISPO",
    "DAPO",
    "DPO",
    "GRPO",
    "GSPO",
    "PPO",
    "RLOO",
    "SAPO",
    "SFT",
    "VESPO",
    "XPO",
    "BradleyTerry",
    "DrGRPO",
    "NashMD",
    "OnlineDPO",
    "ReMax",
    "Reinforce",
    "ReinforcePP",
    "build_objective",
    "objectives",
]
