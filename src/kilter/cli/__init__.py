"""The command line. Every command: --help with examples, exit codes of kilter.errors, no traceback for a user's mistake."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from typing import Any

import typer
from rich.logging import RichHandler

from kilter.cli import advise, compare, data, evaluate, merge, methods, monitor, run, sample, train
from kilter.cli.app import app, err, out
from kilter.errors import Exit, KilterError
from kilter.registry import user_file, user_line

__all__ = [
    "advise",
    "app",
    "compare",
    "data",
    "err",
    "evaluate",
    "main",
    "merge",
    "methods",
    "monitor",
    "out",
    "run",
    "sample",
    "train",
]

USAGE_ERROR: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""Base of what the command line's own parser raises; typer brings that parser along or takes it from click, by version."""


def main() -> None:
    """Entry point. One message for a user's mistake; --debug (anywhere) shows the traceback."""
    debug = "--debug" in sys.argv or os.environ.get("KILTER_DEBUG") == "1"
    sys.argv = [a for a in sys.argv if a != "--debug"]
    logging.basicConfig(
        level=logging.INFO if not debug else logging.DEBUG,
        format="%(message)s",
        handlers=[RichHandler(console=err, show_time=False, show_path=False, show_level=False)],
        force=True,
    )
    for noisy in (
        "httpx",
        "urllib3",
        "filelock",
        "fsspec",
        "matplotlib",
        "datasets",
        "huggingface_hub",
        "transformers",
        "torch",
        "asyncio",
        "PIL",
        "torchelastic-events-null",
    ):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except USAGE_ERROR as error:
        _show_usage_error(error)
        sys.exit(int(Exit.BAD_INPUT))
    except KilterError as error:
        if debug:
            raise
        err.print(f"[red bold]{'error' if error.code == Exit.BAD_INPUT else 'stopped'}[/]: ", end="")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(int(error.code))
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted; run the same command again to resume")
        sys.exit(int(Exit.RUN_FAILED))
    except OSError as error:
        if debug:
            raise
        err.print(
            f"[red bold]stopped[/]: {error}\n  fix: check disk space and permissions, then run the same command again to resume",
            highlight=False,
        )
        sys.exit(int(Exit.RUN_FAILED))
    except Exception as error:  # a defect of ours, or of a file that the user named: one line, the run's state is on disk, and the way to see more
        if debug:
            raise
        if (path := user_file(error)) is not None:
            err.print(
                f"[red bold]stopped[/]: {path} line {user_line(error)}: {type(error).__name__}: {error}",
                highlight=False,
                soft_wrap=True,
            )
            err.print(f"  fix: correct {path}; --debug shows the whole way there", highlight=False)
            sys.exit(int(Exit.RUN_FAILED))
        err.print(
            f"[red bold]stopped[/]: {type(error).__name__}: {error}\n  this is a defect in Kilter; --debug shows where",
            highlight=False,
        )
        sys.exit(int(Exit.RUN_FAILED))


def _show_usage_error(error: Any) -> None:
    """A missing, unknown or unreadable argument, in the form of every other mistake; a group of commands without a command shows its help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        return
    command = "kilter" if context is None else context.command_path
    names = getattr(getattr(error, "param", None), "opts", ())
    given = next((f" (found {value!r})" for name, value in itertools.pairwise(sys.argv) if name in names), "")
    err.print("[red bold]error[/]: ", end="")
    err.print(
        f"{' '.join(error.format_message().split())}{given}\n  fix: see {command} --help",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
