"""Opens a judge for its audit: everything that it says is read, whatever its mass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kilter.errors import UserError
from kilter.feedback.context import Context
from kilter.feedback.judge.build import build, check, load_spec
from kilter.feedback.judge.spec import JudgeSpec
from kilter.feedback.judge.verdict import Judge
from kilter.redaction import redacted
from kilter.registry import Registry
from kilter.roles.paid import Bill

own: Registry[Any] = Registry("judge")
"""Judges of users' files, as my_file.py:NAME."""


@dataclass(frozen=True)
class Opened:
    """A judge under audit.

    Args:
        judge: who is asked.
        fingerprint: of the judge as others use it.
        min_mass: below which a verdict of it counts as unscored.
        settings: judge.yaml.
        bill: what it costs.
    """

    judge: Judge
    fingerprint: str
    min_mass: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    bill: Bill = field(default_factory=Bill)


def is_own(judge: str | JudgeSpec) -> bool:
    """Whether a judge is an object in a file of the user's."""
    return isinstance(judge, str) and ":" in judge and judge.rpartition(":")[0].endswith(".py")


def settings_of(judge: str | JudgeSpec, where: str = "judge") -> JudgeSpec | None:
    """The settings of a judge, from its file where it names one; None of an object of the user's.

    Raises:
        UserError: the file is missing or wrong.
    """
    if isinstance(judge, str):
        return None if is_own(judge) else load_spec(Path(judge), where)
    check(judge, where)
    return judge


def opened(judge: str | JudgeSpec, context: Context, where: str = "judge") -> Opened:
    """The judge that a file, settings or my_file.py:NAME describe; no weights are read before it is asked.

    Args:
        judge: what the user wrote.
        context: finds models, and keeps replies in its folder.
        where: the field, for messages.
    """
    spec = settings_of(judge, where)
    if spec is None:
        found = own.get(str(judge), where)
        for name in ("compare", "fingerprint", "name"):
            if not hasattr(found, name):
                fix = (
                    "name an object with compare, grade, fingerprint and name (kilter.feedback.judge.verdict)"
                )
                raise UserError(where, judge, f"is not a judge: it has no {name}", fix)
        return Opened(found, found.fingerprint)

    # What a judge would rather say something else than is read too: a bias for a place shows there first.
    bill, file = Bill(), judge if isinstance(judge, str) else None
    asked = build(spec, context, where, bill, min_mass=0.0, file=file)
    settings = redacted(spec.model_dump(mode="json", exclude_unset=True))
    return Opened(
        asked, build(spec, context, where, bill, file=file).fingerprint, spec.min_mass, settings, bill
    )
