"""Watches runs for collapse and reward hacking.

Monitors against collapse and reward hacking: cheap signals each step, gold evidence every few steps.
"""

from kilter.training.monitors.energy import EnergyProbe
from kilter.training.monitors.events import Event, EventLog
from kilter.training.monitors.gold import GoldEvaluator, GoldHistory
from kilter.training.monitors.signals import signals
from kilter.training.monitors.watch import Monitors

__all__ = ["EnergyProbe", "Event", "EventLog", "GoldEvaluator", "GoldHistory", "Monitors", "signals"]
