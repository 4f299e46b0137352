"""What people read in a terminal: text from outside is shown as it is, and only our own words have a style.

A file, an answer or an error message may hold square brackets, which rich reads as markup, or escape
sequences, which a terminal obeys. Neither happens: a Screen shows every string letter by letter. Styled text
is made with `styled`, whose template is ours and whose values are not.
"""

from __future__ import annotations

import os
import re
from typing import Any

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


class Screen(Console):
    """A console whose strings are never markup, neither printed nor in a table."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        """Whoever read along has seen enough, as `head` has: the rest goes nowhere, and the work goes on."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)

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
