"""What a user can cause, what a run can suffer, and the exit code each one ends with.

Exit codes are the same for every command: 0 done or pass, 1 the gate says no, 2 invalid input or usage,
3 inconclusive, 4 the run failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """Process exit codes shared by every command."""

    OK = 0
    GATE_FAILED = 1
    BAD_INPUT = 2
    INCONCLUSIVE = 3
    RUN_FAILED = 4


class KilterError(Exception):
    """Base of every error whose message is meant for a person; `code` is the process exit code."""

    code: Exit = Exit.RUN_FAILED


class UserError(KilterError, ValueError):
    """Invalid input: names the field, the value found and the fix. Ends the process with code 2."""

    code = Exit.BAD_INPUT

    def __init__(self, field: str, value: object, problem: str, fix: str) -> None:
        self.field, self.value, self.problem, self.fix = field, value, problem, fix
        shown = repr(value)
        shown = shown if len(shown) <= 160 else shown[:150] + "...'"
        super().__init__(f"{field} = {shown}: {problem}\n  fix: {fix}")


class RunFailed(KilterError):  # noqa: N818
    """A run that started well and could not go on (NaN, full disk); names the last good checkpoint.

    Code 4.
    """


class Interrupted(KilterError):  # noqa: N818
    """Ctrl-C or SIGTERM: the state was saved; the message says how to resume. Code 4."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """' did you mean X?' for the closest of `choices`, else the list of what is valid."""
    options = sorted(map(str, choices))
    close = difflib.get_close_matches(str(word), options, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(options)}"
