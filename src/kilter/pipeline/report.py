"""report.html of a run folder: the page of release/, with the section that each stage's kind writes."""

from __future__ import annotations

from pathlib import Path

from kilter import chain
from kilter import manifest as manifests
from kilter.artifacts import write_text
from kilter.errors import UserError
from kilter.release import report
from kilter.release.evidence import gather, stage_folders
from kilter.stages import Section, kind_of

_DRAWN: dict[Path, tuple[frozenset[tuple[str, int, int]], Section | None]] = {}
"""Stage folder to its files, by name, time and size, and the section that was made of them.

The page is written after every stage: a comparison of many would draw the curves of the first ones each time.
"""


def write_report(run: Path) -> Path:
    """Renders run/report.html from what the stages have left there, and returns its path."""
    with chain.noting(chain.root_of(run) or run, run / "report.html"):
        return report.write(run, sections(run))


def write_comparison(first: Path, second: Path, out: Path | None = None) -> Path:
    """Writes the page that sets the second run against the first, and returns its path.

    Args:
        first: folder of the yardstick.
        second: folder of the other run.
        out: the file; default: report-FIRST-SECOND.html beside the second run.
    """
    # Statistics are slow to import, and a run's own page needs none.
    from kilter.release import comparison

    names = (first.resolve().name, second.resolve().name)
    path = out or second.resolve().parent / f"report-{names[0]}-{names[1]}.html"
    write_text(path, comparison.render(first, second))
    return path


def run_body(run: Path, key: str = "", several: bool = False) -> str:
    """A run's part of a page that may show several."""
    return report.body(gather(run), sections(run), key, several)


def require_run(run: Path, field: str = "folder") -> None:
    """Raises UserError where a folder holds no stage."""
    if not run.is_dir() or not stage_folders(run):
        raise UserError(
            field,
            str(run),
            "is not a run folder: no stage in it has a manifest.json",
            "give a folder that `kilter run` made, such as runs/quickstart",
        )


def sections(run: Path) -> dict[str, Section | None]:
    """What the stages themselves have to say, by name."""
    return {folder.resolve().name: _section(folder) for folder in stage_folders(run)}


def _section(folder: Path) -> Section | None:
    """A stage's section; none where the file of a user's own kind is gone."""
    entry = manifests.read(folder)
    if entry is None:
        return None
    try:
        kind = kind_of(entry.kind)
    except UserError:
        return None
    files = frozenset(stamps(folder))
    place = folder.resolve()
    if place not in _DRAWN or _DRAWN[place][0] != files:
        _DRAWN[place] = files, kind.section(folder)
    return _DRAWN[place][1]


def stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Name, time and size of each file of a stage: equal stamps, equal section."""
    facts = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in facts]
