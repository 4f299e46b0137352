"""Feedback sources: whoever scores completions."""

from kilter.feedback import preference_model, process_reward, reward_model, self_reward, shaping, verifiers
from kilter.feedback.registry import (
    Context,
    Weighted,
    build,
    check,
    feedback_sources,
    model_references,
    parse,
)

__all__ = [
    "Context",
    "Weighted",
    "build",
    "check",
    "feedback_sources",
    "model_references",
    "parse",
    "preference_model",
    "process_reward",
    "reward_model",
    "self_reward",
    "shaping",
    "verifiers",
]
