"""The command line: one file per command.

Every command has examples in its --help and the exit codes of kilter.errors. A user's mistake shows no
traceback.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any

import typer
from rich.logging import RichHandler

from kilter.cli import (
    advise,
    audit,
    audit_classifier,
    audit_judge,
    chat,
    cluster,
    compare,
    constitution,
    data,
    evaluate,
    export,
    made,
    methods,
    monitor,
    report,
    results,
    run,
    sample,
    submit,
    trace,
    train,
    verify,
    watch,
)
from kilter.cli.app import app, err, out
from kilter.errors import Exit, KilterError
from kilter.launch import jobs
from kilter.models.remote_code import FLAG, VARIABLE
from kilter.redaction import redact
from kilter.registry import user_file, user_line
from kilter.runtime import keeping
from kilter.screen import outlive_readers, styled

__all__ = [
    "advise",
    "app",
    "audit",
    "audit_classifier",
    "audit_judge",
    "chat",
    "cluster",
    "compare",
    "constitution",
    "data",
    "err",
    "evaluate",
    "export",
    "made",
    "main",
    "methods",
    "monitor",
    "out",
    "report",
    "results",
    "run",
    "sample",
    "submit",
    "trace",
    "train",
    "verify",
    "watch",
]

USAGE_ERROR: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""Base of what the parser raises. typer has no public name for it."""


INTERRUPTED = 130
"""What newer versions of the parser make of Ctrl-C."""


NOISY = (
    *(
        "httpx",
        "httpx2",
        "openai",
        "urllib3",
        "filelock",
        "fsspec",
        "matplotlib",
        "datasets",
        "huggingface_hub",
        "transformers",
    ),
    *("torch", "asyncio", "PIL", "torchelastic-events-null"),
)
"""Libraries whose log is kept to errors."""


def main() -> None:
    """Entry point. One message for a user's mistake; --debug (anywhere) shows the traceback."""
    # Python's own code for an exception that nobody caught is 1, which here means that a gate says no.
    code = int(Exit.RUN_FAILED)
    outlive_readers()
    try:
        with keeping(signal.SIGTERM):
            _hear_sigterm()
            code = _command()
        jobs.leave(code)
    except BaseException:
        traceback.print_exc()
    sys.exit(code)


def _hear_sigterm() -> None:
    """SIGTERM ends a command as Ctrl-C does: with a line, and with all that it started. A step ends first."""
    process = os.getpid()

    def heard(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise KeyboardInterrupt
        # A process that was forked off has inherited this, and is nobody's command.
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    # Only the main thread may; elsewhere a command ends as its host wants.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, heard)


def _command() -> int:
    """The exit code of what was typed."""
    debug = "--debug" in sys.argv or os.environ.get("KILTER_DEBUG") == "1"
    if FLAG in sys.argv:
        os.environ[VARIABLE] = "1"
    sys.argv = [a for a in sys.argv if a not in ("--debug", FLAG)]
    _configure_logging(debug)
    try:
        jobs.arrive()
        code = app(prog_name="kilter", standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted; run the same command again to resume")
        return int(Exit.RUN_FAILED)
    except USAGE_ERROR as error:
        _show_usage_error(error)
        return int(Exit.BAD_INPUT)
    except BaseException as error:
        if isinstance(error, SystemExit) and _is_parsers(error):
            return int(error.code or 0)
        # Kilter's own commands end by returning: whoever leaves the process here was called by them.
        if debug:
            traceback.print_exc()
        _show_failure(error)
        return int(error.code if isinstance(error, KilterError) else Exit.RUN_FAILED)


def _is_parsers(error: BaseException) -> bool:
    """Whether the parser raised it, as it does once a shell's completion is installed or answered."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "typer"


def _configure_logging(debug: bool) -> None:
    """Messages of the library go to stderr in the style of the command line."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=err, show_time=False, show_path=False, show_level=False)],
        force=True,
    )
    logging.getLogger().handlers[0].addFilter(_without_secrets)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _without_secrets(record: logging.LogRecord) -> bool:
    """Every message passes, what is secret in it does not."""
    record.msg, record.args = redact(record.getMessage()), None
    return True


def _show_failure(error: BaseException) -> None:
    """What stopped a command, in one message with the next step."""
    if isinstance(error, KilterError):
        mistake = error.code == Exit.BAD_INPUT
        err.print(styled("[red bold]{}[/]: ", "error" if mistake else "stopped"), end="")
        err.print(str(error), soft_wrap=True)
        return

    # A full disk is not a defect; neither is an error in a file that the user named. All else is ours.
    problem, fix = (
        f"{type(error).__name__}: {error}",
        "Report it with what --debug shows: this is a defect in Kilter.",
    )
    if isinstance(error, SystemExit):
        problem, fix = f"Something ended the process by sys.exit({error.code!r}).", "See --debug for where."
    if (path := user_file(error)) is not None:
        problem = f"{path} line {user_line(error)}: {problem}"
        fix = f"Correct {path}. --debug shows the whole way there."
    elif isinstance(error, OSError):
        problem = str(error)
        fix = "Check disk space and permissions, then run the same command again to resume."
    err.print(styled("[red bold]stopped[/]: "), end="")
    err.print(redact(f"{problem}\nFix: {fix}"), soft_wrap=True)


def _takes_model(context: Any) -> bool:
    """Whether a command has its model as an option, where others have it as an argument."""
    return context is not None and any("--model" in p.opts for p in context.command.params)


def _show_usage_error(error: Any) -> None:
    """A missing, unknown or unreadable argument, in the form of every other mistake."""
    context, param = getattr(error, "ctx", None), getattr(error, "param", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        return
    command = "kilter" if context is None else context.command_path
    names: list[str] = getattr(param, "opts", [])
    given = next((f" (found {value!r})" for name, value in itertools.pairwise(sys.argv) if name in names), "")
    meaning = getattr(param, "help", None)
    if "unexpected extra argument" in error.format_message() and _takes_model(context):
        meaning, names = "the model; this command has no argument of its own for it", ["--model"]
    fix = f"See {command} --help." + (f" {names[0]} means: {meaning}." if meaning else "")
    err.print(styled("[red bold]error[/]: "), end="")
    err.print(
        redact(f"{' '.join(error.format_message().split())}{given}\nFix: {fix}"),
        soft_wrap=True,
    )
