"""What a stage adds to the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Part = Literal["evaluation", "training", "data"]
PARTS: Sequence[Part] = ("evaluation", "training", "data")
"""The order of the page: what came out, how it was learned, and from what."""


@dataclass(frozen=True, slots=True)
class Section:
    """A stage's part of report.html: a heading, a sentence, a table, and ready HTML such as a figure.

    chip: one word beside the heading, coloured by what it says (ok, warn, error). rows: cells of the table
    under `head`. part: where on the page it stands; sections of one part are in the order of the run.
    """

    title: str
    lead: str = ""
    chip: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    html: str = ""
    part: Part = "data"
