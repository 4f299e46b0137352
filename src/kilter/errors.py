"""What a user can cause, what a run can suffer, and the exit code each one ends with.

Exit codes are the same for every command: 0 done or pass, 1 the gate says no, 2 invalid input or usage,
3 inconclusive, 4 the run failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

from kilter.redaction import redact, shown


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

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What makes the same error once more, plain enough for JSON; see `made_again`."""
        return (str(self),)


class UserError(KilterError, ValueError):
    """Invalid input, in two sentences: what is wrong with which field, and the fix.

    Ends the process with code 2.

    Args:
        field: what the user wrote, as in `stages.dpo.train.beta` or `--out`. It is the subject of the
            message.
        value: the value found. Text in parentheses, such as "(absent)", stands for no value and is not shown.
        problem: begins with a verb whose subject is the field: "is empty", "names no file".
        fix: what to do, in the imperative: "give a number above 0".
    """

    code = Exit.BAD_INPUT

    def __init__(self, field: str, value: object, problem: str, fix: str) -> None:
        self.field, self.value, self.problem, self.fix = field, value, problem, fix
        # Secrets go before the text is cut: of a password that begins, nothing says where it ends.
        said = _shorten(shown(field.rpartition(".")[2], value))
        subject = f"`{field}`" if _stands_for_none(value) else f"`{field}` = {said}"
        # A sentence of pydantic's brings its own subject.
        joint = ": " if problem[:1].isupper() else " "
        super().__init__(redact(f"{subject}{joint}{_end(problem)}\n{_advice(fix)}"))

    @property
    def arguments(self) -> tuple[Any, ...]:
        """A value that is not plain is carried as its text."""
        plain = isinstance(self.value, int | float | bool | str | None)
        return (self.field, self.value if plain else repr(self.value), self.problem, self.fix)


class RunFailed(KilterError):  # noqa: N818
    """A run that started well and could not go on (NaN, full disk). Ends the process with code 4.

    Args:
        problem: a whole sentence, its subject first.
        fix: what to do, in the imperative.
        note: a line between them, such as the last good checkpoint.
    """

    def __init__(self, problem: str, fix: str, note: str = "") -> None:
        self.problem, self.fix, self.note = problem, fix, note
        lines = [_end(problem), *([note] if note else []), _advice(fix)]
        super().__init__(redact("\n".join(lines)))

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As they were given."""
        return (self.problem, self.fix, self.note)


class RoleLost(RunFailed):
    """What a role alone has learned is gone with it: the run can begin anew, from its last checkpoint."""


class Interrupted(KilterError):  # noqa: N818
    """Ctrl-C or SIGTERM: the state was saved; the message says how to resume. Code 4."""


def made_again(kind: str, arguments: Iterable[Any]) -> KilterError | None:
    """An error that another process raised, from the name of its class and its `arguments`.

    Errors travel as data, for an exception of several arguments does not survive a pickle.

    Returns:
        None where the class is not one of these.
    """
    kinds: dict[str, type[KilterError]] = {
        c.__name__: c for c in (UserError, RunFailed, RoleLost, Interrupted)
    }
    return kinds[kind](*arguments) if kind in kinds else None


def nearest(word: str, choices: Iterable[str], none: str = "leave it out: nothing can be named here") -> str:
    """A fix for a word that is not valid: the closest of `choices`, else all of them.

    Args:
        word: what was written.
        choices: what could have been.
        none: the fix where there is no choice at all.
    """
    options = sorted(map(str, choices))
    if not options:
        return none
    close = difflib.get_close_matches(str(word), options, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(options)}"


def _stands_for_none(value: object) -> bool:
    return isinstance(value, str) and value.startswith("(") and value.endswith(")")


def _shorten(shown: str) -> str:
    return shown if len(shown) <= 160 else shown[:150] + "...'"


def _advice(fix: str) -> str:
    return f"Fix: {fix[:1].upper()}{_end(fix)[1:]}"


def _end(sentence: str) -> str:
    """The sentence with its full stop."""
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."
