"""Judges that read answers of their own model: they may prefer them, so they are named everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kilter.feedback.context import Context
from kilter.feedback.judge.build import members
from kilter.feedback.judge.spec import JudgeSpec


def models_of(spec: JudgeSpec, context: Context) -> list[str]:
    """Hashes of the models in memory that judge, those of a panel included."""
    names = [one.model for one in members(spec) or [spec] if one.model is not None]
    if not names:
        return []
    # Hashing a model needs torch, for which a command that only prints, or asks an endpoint, must not wait.
    from kilter.models.descent import DIGITS
    from kilter.models.fingerprint import model_hash

    return [model_hash(context.model(name))[:DIGITS] for name in dict.fromkeys(names)]


def judging_itself(history: Mapping[str, Any], wrote: Iterable[str]) -> list[str]:
    """A sentence for each judge whose model wrote what it judges.

    Args:
        history: of a feedback source; of several judges, all are in it.
        wrote: hashes of the models whose answers are judged, and of the models that they began as.
    """
    if not (named := [digest for digest in wrote if digest]):
        return []
    from kilter.models.descent import DIGITS

    known = {digest[:DIGITS] for digest in named}
    return [
        f"{judge['judge_name']} judges its own answers: it may prefer them"
        for judge in history.get("judges", [history])
        if known & set(judge.get("judge_models", ()))
    ]
