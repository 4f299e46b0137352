"""Groups of options: under which heading `--help` and the schema show a field of a stage."""

from __future__ import annotations

from typing import Any

from pydantic import Field


def group(name: str) -> Any:
    """A marker for Annotated: the field belongs under this heading."""
    return Field(json_schema_extra={"group": name})


MODEL = group("model")
DATA = group("data")
METHOD = group("method")
OPTIMISATION = group("optimisation")
SAMPLING = group("sampling")
MONITORING = group("monitoring")
OUTPUT = group("output")

GROUPS = ("model", "data", "method", "optimisation", "sampling", "monitoring", "output")
"""The headings in the order in which they are shown."""


def group_of(extra: Any) -> str:
    """The heading of a field, from its json_schema_extra; "method" where its author named none."""
    return str(extra["group"]) if isinstance(extra, dict) and "group" in extra else "method"
