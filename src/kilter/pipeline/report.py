"""report.html of a run folder: the page of release/, with the section that each stage's kind writes."""

from __future__ import annotations

from pathlib import Path

from kilter import manifest as manifests
from kilter.errors import UserError
from kilter.release import report
from kilter.stages import Section, kind_of

_DRAWN: dict[Path, tuple[frozenset[tuple[str, int, int]], Section | None]] = {}
"""Stage folder to its files, by name, time and size, and the section that was made of them.

The page is written after every stage: a comparison of many would draw the curves of the first ones each time.
"""


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
    facts = ((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    files = frozenset((name, stat.st_mtime_ns, stat.st_size) for name, stat in facts)
    place = folder.resolve()
    if place not in _DRAWN or _DRAWN[place][0] != files:
        _DRAWN[place] = files, kind.section(folder)
    return _DRAWN[place][1]
