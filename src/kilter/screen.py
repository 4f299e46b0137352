"""What people read in a terminal: text from outside is shown as it is, and only our own words have a style.

A file, an answer or an error message may hold square brackets, which rich reads as markup, or escape
sequences, which a terminal obeys. Neither happens: a Screen shows every string letter by letter. Styled text
is made with `styled`, whose template is ours and whose values are not.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import re
import sys
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]|\r(?!\n)")
"""What a terminal obeys instead of showing: control characters, and marks that turn the direction of text."""


def plain(text: str) -> str:
    r"""The text with its control characters written out, as `\x1b`; line ends and tabs stay."""
    return CONTROL.sub(_spelt, text.replace("\r\n", "\n"))


def _spelt(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


@functools.cache
def warn_once(text: str) -> None:
    """Warns of it once, however often a process comes upon it."""
    logging.getLogger("kilter").warning("%s", text)


def many(count: int, nouns: str, form: str = "") -> str:
    """A count with what it counts: 1 row, 2 rows.

    Args:
        count: of anything.
        nouns: its plural, which ends in s; a word that does not, such as distinct, stays as it is.
        form: of the number, such as ",".
    """
    return f"{count:{form}} {nouns.removesuffix('s') if count == 1 else nouns}"


PLACE = "\ue000"
"""Stands in a template for a value while its markup is read."""


def styled(template: str, *values: object) -> Text:
    """Text with a style: `styled("[bold]{}[/]: {}", name, problem)`.

    Args:
        template: ours, with rich's markup and a `{}` for each value.
        values: anyone's; shown letter by letter.
    """
    result = Text()
    places = Text.from_markup(template.replace("{}", PLACE), emoji=False).split(PLACE, include_separator=True)
    for number, part in enumerate(places):
        if not part.plain.endswith(PLACE):
            result.append_text(part)
            continue

        # The value takes the styles of its place; one that is styled already keeps its own on top.
        value = values[number]
        shown = value.copy() if isinstance(value, Text) else Text(plain(str(value)))
        for span in part.spans:
            if span.end == len(part):
                shown.stylize_before(span.style)
        part.right_crop()
        result.append_text(part).append_text(shown)
    return result


class _Pipe(io.FileIO):
    """A pipe, or whatever stands in its place, whose reader may leave."""

    def write(self, data: Any, /) -> int:
        """Writes; whoever read along has seen enough, as `head` has: the rest goes nowhere."""
        try:
            return super().write(data)
        except BrokenPipeError:
            _to_nowhere(self.fileno())
            return len(data)


def _to_nowhere(descriptor: int) -> None:
    """From now on, what is written there is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def outlive_readers() -> None:
    """Lets the process go on, and end as it would, after the reader of its output has left.

    The parser ends a process with 1 then, which here means that a gate says no. Python adds a traceback.
    """
    if sys.stdout is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _patient(sys.stdout)
    if sys.stderr is not None and sys.stderr is sys.__stderr__:
        sys.stderr = _patient(sys.stderr)


def _patient(stream: Any) -> TextIO:
    """The same stream over a pipe whose reader may leave."""
    stream.flush()
    raw = _Pipe(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class Screen(Console):
    """A console whose strings are never markup, neither printed nor in a table."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        """As `outlive_readers`, for whoever calls Kilter from Python."""
        _to_nowhere(self.file.fileno())

    def render_str(self, text: str, **options: Any) -> Text:
        """The string letter by letter."""
        return super().render_str(plain(text), **options | {"markup": False, "emoji": False})


def screen_of(console: Console | None, stderr: bool = True) -> Screen:
    """A Screen where a caller's console writes; without one, on stderr or stdout."""
    if console is None:
        return Screen(stderr=stderr)
    if isinstance(console, Screen):
        return console
    return Screen(
        file=console.file,
        width=None if console.is_terminal else console.width,
        force_terminal=console.is_terminal,
        quiet=console.quiet,
    )
