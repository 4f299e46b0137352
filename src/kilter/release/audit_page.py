"""The page of an audit: one self-contained HTML file, the verdict first, no text of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kilter.artifacts import write_text
from kilter.release.report import fill

ORDER = ("error", "waived", "warn", "ok", "not checked")
"""Levels in the order of the page: what has to be done first stands first."""

SAID = {
    "error": "Not fit for training",
    "warn": "Usable, with warnings",
    "ok": "No defect found",
}


def level_of(finding: Mapping[str, Any]) -> str:
    """The level that a person reads."""
    return "waived" if finding["waived"] else str(finding["level"])


def ordered(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Findings with the worst first, each with the level that a person reads."""
    shown = [f | {"shown": level_of(f)} for f in findings]
    return sorted(shown, key=lambda f: ORDER.index(f["shown"]))


def page(audit: Mapping[str, Any]) -> str:
    """The page of what stands in audit.json."""
    findings = ordered(list(audit["findings"]))
    counts = Counter(f["shown"] for f in findings)
    levels = [(level, [f for f in findings if f["shown"] == level]) for level in ORDER if counts[level]]
    return fill(
        "audit.html.j2",
        audit=audit,
        levels=levels,
        counts=[(level, counts[level]) for level in ORDER],
        said=SAID[audit["verdict"]],
    )


def write(audit: Mapping[str, Any], folder: Path) -> Path:
    """Writes audit.html into a folder, and returns its path."""
    write_text(folder / "audit.html", page(audit))
    return folder / "audit.html"
