"""Protocols between the pools of a run and whatever starts their workers: this process, or Ray.

A worker is a plain object that some process holds. It begins its calls in the order in which they were sent,
one after the other or a few at once. Control calls go past that queue.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kilter import errors
from kilter.errors import KilterError, RunFailed, UserError

Factory = Callable[..., Any]
"""Makes the object that a worker holds; importable by name, its arguments plain enough to be sent."""

JOIN = "KILTER_RAY"
"""Variable by which a rank of the learner finds the Ray that it was started on."""

HOST = "KILTER_HOST"
"""Variable by which a rank of the learner finds the actor that it runs in, and that owns its workers."""

LOST = "lost"
"""The kind of a report whose worker is gone: the call may run again elsewhere."""


class LostError(Exception):
    """A worker cannot go on, such as one whose engine has died. Its calls run again elsewhere."""


@dataclass(frozen=True)
class Report:
    """The end of a call. Errors travel as data: an exception of four arguments does not survive a pickle.

    Args:
        value: what the call returned.
        kind: "" where it returned; LOST; or the name of an error.
        arguments: of the error.
        where: role, node and process of the worker.
    """

    value: Any = None
    kind: str = ""
    arguments: tuple[Any, ...] = ()
    where: str = ""


class Call(Protocol):
    """A call under way on one worker."""

    def done(self) -> bool:
        """Whether its report is there. Never waits."""
        ...

    def report(self) -> Report:
        """How it ended; only after `done`."""
        ...


class Handle(Protocol):
    """One worker."""

    where: str
    """Role, node and process, for people."""
    address: str
    """Of its node, where other nodes reach it."""
    log: str
    """File on its node that has what it printed; "" where there is none."""
    name: str
    """By which processes that it starts find it; "" where they cannot."""

    def call(self, method: str, *arguments: Any) -> Call:
        """Sends a call, which begins when the earlier ones have ended."""
        ...

    def control(self, method: str, *arguments: Any) -> Call:
        """Sends a call that does not wait for the others, such as `pulse`."""
        ...

    def kill(self) -> None:
        """Ends the worker's process at once, also one that hangs."""
        ...


class Backend(Protocol):
    """Starts workers and waits for them."""

    address: str
    """Where other processes join the same backend; "" where they cannot."""
    host: str
    """This process's machine, where workers on others reach it."""

    def start(
        self,
        role: str,
        numbers: Sequence[int],
        make: Factory,
        arguments: Mapping[str, Any],
        at_once: int = 1,
        anew: bool = False,
    ) -> Sequence[Handle]:
        """Starts workers of a role, together. The first call of each makes what it holds.

        One that an earlier learner of the run has left is taken over, with what it holds where it says that
        it serves another one as it is.

        Args:
            role: its settings say what the worker takes.
            numbers: of the workers.
            make: makes the object that each holds.
            arguments: of `make`.
            at_once: calls that it does at the same time.
            anew: whether no earlier one will do, because it is bound to others that are gone.

        Raises:
            UserError: the resources that the role asks for did not come.
        """
        ...

    def share(self, value: Any) -> Callable[[], Any]:
        """Puts a large value where workers can read it; what is returned goes into calls and reads it."""
        ...

    def wait(self, calls: Sequence[Call], seconds: float) -> None:
        """Returns when one of the calls is done, or when the time has passed."""
        ...

    def now(self) -> float:
        """A clock that only goes forward, in seconds."""
        ...

    def release(self) -> None:
        """The learner is gone. Workers may serve the next one of the run, which `start` gives them to."""
        ...

    def close(self) -> None:
        """Ends all workers, and what was started for them."""
        ...


def run(target: Any, method: str, arguments: Sequence[Any], where: str) -> Report:
    """Calls a method of the object that a worker holds. Nothing is raised: what happens is in the report."""
    try:
        return Report(getattr(target, method)(*arguments), where=where)
    except LostError as error:
        return Report(kind=LOST, arguments=(str(error),), where=where)
    except KilterError as error:
        return Report(kind=type(error).__name__, arguments=error.arguments, where=where)
    except Exception as error:
        # The last lines say where it was; the whole trace stays in the worker's log.
        last = traceback.format_exception_only(error)[-1].strip()
        return Report(kind=type(error).__name__, arguments=(last,), where=where)


def raised(report: Report) -> KilterError:
    """The error that a report carries. One of input names the worker: a folder may be here, and not there."""
    arguments, cause = report.arguments, " ".join(map(str, report.arguments))
    if report.kind == UserError.__name__ and report.where:
        arguments = (*arguments[:2], f"{arguments[2]}, says {report.where}", *arguments[3:])
    return errors.made_again(report.kind, arguments) or RunFailed(
        f"{report.where} failed ({cause})", "look at its log, then run the same command again to resume"
    )
