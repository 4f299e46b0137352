"""Scores completions: verifiers, reward models, one's own functions.

Feedback sources: whoever scores completions. A source's file is read when a recipe names the source.
"""

from kilter.feedback import worlds
from kilter.feedback.context import Context
from kilter.feedback.registry import (
    Weighted,
    build,
    check,
    check_columns,
    check_names,
    check_replay,
    feedback_sources,
    forecast,
    gives_odds,
    live,
    model_references,
    parse,
    reads_length,
    uncertified,
    wants_policy,
)

feedback_sources.declare("kilter.feedback.judge.source", "judge")
feedback_sources.declare("kilter.feedback.preference_model", "preference_model")
feedback_sources.declare("kilter.feedback.process_reward", "process_reward")
feedback_sources.declare("kilter.feedback.reward_model", "reward_model")
feedback_sources.declare("kilter.feedback.self_reward", "self_reward")
feedback_sources.declare("kilter.feedback.shaping", "length", "repetition")
feedback_sources.declare(
    "kilter.feedback.verifiers",
    "exact",
    "format",
    "instructions",
    "json_schema",
    "math",
    "regex",
)

__all__ = [
    "Context",
    "Weighted",
    "build",
    "check",
    "check_columns",
    "check_names",
    "check_replay",
    "feedback_sources",
    "forecast",
    "gives_odds",
    "live",
    "model_references",
    "parse",
    "reads_length",
    "uncertified",
    "wants_policy",
    "worlds",
]
