"""The look of every --help: usage, purpose, examples, options under headings, in at most 100 columns."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from kilter.errors import UserError
from kilter.options import GROUPS

WIDEST = 100
COLUMN = 32
"""Where descriptions begin. A longer option stands on a line of its own."""

Row = tuple[str, str]
"""What is typed, and what it means."""

SECTIONS = (
    ("first steps", ("audit", "advise", "run", "methods", "data")),
    ("one stage", ("train", "eval", "sample", "generate", "label", "revise")),
    (
        "what came out",
        (
            *("chat", "gate", "report", "watch", "compare", "monitor", "trace"),
            *("audit-judge", "audit-classifier", "verify", "sign", "export", "results", "lm-eval"),
        ),
    ),
    ("cluster", ("cluster", "submit")),
    ("tools", ("constitution", "schema", "check-method")),
)
"""Headings of `kilter --help`, and the commands below each, in order. A test holds that each is named."""


PATHS = {"--out", "--runs", "--to", "--cluster", "--replay", "--certificate"}
"""Options that name a file or a folder in every command that has them."""

FORMER = {"merge": "`kilter export MODEL --to FOLDER --merge`, or a merge stage for several models"}
"""Names that people try, and the command that does the work."""


class Command(TyperCommand):
    """A command whose epilog holds its examples, one a line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuses paths that name nothing: an empty one would be the folder in which one stands."""
        paths = {flag for p in self.params for flag in p.opts if flag in PATHS}
        split = (a.split("=", 1) for a in args if a.startswith("--") and "=" in a)
        for flag, value in [*itertools.pairwise(args), *split]:
            if flag in paths and (not value.strip() or not value.isprintable()):
                problem = "holds characters that no name should have" if value.strip() else "is empty"
                raise UserError(flag, value, problem, "give a path, or leave the option out")
        return list(super().parse_args(ctx, args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Examples first: a reader copies one more often than he reads a list of options."""
        page = Page()
        page.opening(ctx, self)
        for heading, rows in _headed(self.get_params(ctx)):
            page.section(heading, rows)
        formatter.write(page.text())


class Group(TyperGroup):
    """A command with commands below it, whose help page lists them under headings."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of that name. Raises UserError for one that was given up, with what does its work."""
        if args and args[0] in FORMER and self.get_command(ctx, args[0]) is None:
            raise UserError(args[0], "(gone)", "is no command", f"use {FORMER[args[0]]}")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The commands under their headings, each with its first sentence."""
        page = Page()
        page.opening(ctx, self)
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        known = {name: command for name, command in found if command is not None and not command.hidden}
        named = [(heading, [n for n in names if n in known]) for heading, names in SECTIONS]
        unnamed = [n for n in known if not any(n in names for _, names in named)]
        for heading, names in [*named, ("commands", unnamed)]:
            page.section(heading, [(n, _first_sentence(known[n].help or "")) for n in names], column=16)
        for heading, rows in _headed(self.get_params(ctx)):
            page.section(heading, rows)
        formatter.write(page.text())


class Page:
    """Lines of help, wrapped by hand: a terminal that wraps breaks the column of descriptions."""

    def __init__(self) -> None:
        self.console = Console()
        self.width = min(self.console.width, WIDEST)
        self.lines: list[Text] = []

    def opening(self, ctx: Any, command: Any) -> None:
        """Usage, what the command does, and its examples."""
        self.lines.append(Text.assemble(("Usage: ", "bold"), _usage(ctx, command)))
        for paragraph in (command.help or "").split("\n\n"):
            self.lines += [Text(), *map(Text, _wrapped(" ".join(paragraph.split()), self.width))]
        if command.epilog:
            self.lines += [Text(), Text("Examples", "bold")]
            self.lines += [Text(f"  $ {line}", "green") for line in command.epilog.splitlines()]

    def section(self, heading: str, rows: Sequence[Row], column: int = COLUMN) -> None:
        """A heading with a line or more for each row; nothing without rows."""
        if not rows:
            return
        self.lines += [Text(), Text(heading.capitalize(), "bold")]
        for typed, meaning in rows:
            wrapped = _wrapped(meaning, self.width - column) or [""]
            if len(typed) > column - 4:
                self.lines.append(Text(f"  {typed}", "cyan"))
            else:
                self.lines.append(Text.assemble((f"  {typed}".ljust(column), "cyan"), wrapped.pop(0)))
            self.lines += [Text(" " * column + line) for line in wrapped]

    def text(self) -> str:
        """The page, in colour where the terminal has any."""
        with self.console.capture() as captured:
            for line in self.lines:
                self.console.print(line, no_wrap=True, crop=False, overflow="ignore", soft_wrap=True)
        return captured.get()


def _usage(ctx: Any, command: Any) -> str:
    """The command with what it cannot do without."""
    params = [p for p in command.get_params(ctx) if not getattr(p, "hidden", False)]
    needed = [
        _metavar(p) if p.param_type_name == "argument" else f"{p.opts[0]} {_metavar(p)}"
        for p in params
        if p.required
    ]
    spare = [f"[{_metavar(p)}]" for p in params if p.param_type_name == "argument" and not p.required]
    below = ["COMMAND"] if hasattr(command, "list_commands") else []
    return " ".join([ctx.command_path, *needed, *spare, "[options]", *below])


def _headed(params: Sequence[Any]) -> Iterator[tuple[str, list[Row]]]:
    """Headings with their rows: arguments, the groups of kilter.options in order, then all other options."""
    found: dict[str, list[Row]] = {name: [] for name in ("arguments", *GROUPS)}
    for p in params:
        if getattr(p, "hidden", False):
            continue
        heading = (
            "arguments"
            if p.param_type_name == "argument"
            else getattr(p, "rich_help_panel", None) or "options"
        )
        found.setdefault(heading, []).append((_typed(p), _meaning(p)))
    yield from found.items()


def _typed(p: Any) -> str:
    """What a person types; the metavar of a switch shows its two names where it is on by default."""
    if p.param_type_name == "argument":
        return _metavar(p)
    if p.is_flag:
        return str(p.metavar or p.opts[0])
    return f"{', '.join(p.opts)} {_metavar(p)}"


def _metavar(p: Any) -> str:
    """What stands for a value: the type that its command declared, or the name."""
    return str(p.metavar or p.name.strip("_").upper())


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _meaning(p: Any) -> str:
    """The description, with the default where it does not say one itself."""
    text, default = p.help or "", p.default
    if p.required and p.param_type_name == "option":
        return f"{text} (required)"
    if isinstance(default, bool | None) or callable(default) or default in ("", [], ()) or "default" in text:
        return text
    return f"{text} (default {default})"


def _first_sentence(text: str) -> str:
    """Up to the first full stop, without it."""
    return " ".join(text.split()).partition(". ")[0].rstrip(".")
