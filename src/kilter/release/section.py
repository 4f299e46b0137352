"""What a stage adds to the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """A stage's part of report.html: a heading, a sentence, a table, and ready HTML such as a figure.

    chip: one word beside the heading, coloured by what it says (ok, warn, error). rows: cells of the table
    under `head`.
    """

    title: str
    lead: str = ""
    chip: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    html: str = ""
