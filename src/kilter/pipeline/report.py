"""report.html of a run folder: the page of release/, with the section that each stage's kind writes."""

from __future__ import annotations

from pathlib import Path

from kilter import manifest as manifests
from kilter.errors import UserError
from kilter.release import report
from kilter.stages import Section, kind_of


def write_report(run: Path) -> Path:
    """Renders run/report.html from what the stages have left there, and returns its path."""
    return report.write(run, {f.resolve().name: _section(f) for f in report.stage_folders(run)})


def _section(folder: Path) -> Section | None:
    """A stage's section; none where the file of a user's own kind is gone."""
    entry = manifests.read(folder)
    if entry is None:
        return None
    try:
        kind = kind_of(entry.kind)
    except UserError:
        return None
    return kind.section(folder)
