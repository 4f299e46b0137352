"""What an audit leaves on disk, and a data set without the rows that it flags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kilter.artifacts import append_lines, sha256_file, write_by, write_json
from kilter.data import store
from kilter.data.audit.run import Audit
from kilter.data.lineage import with_entry
from kilter.data.read import content_of
from kilter.data.reading import ROW
from kilter.errors import UserError
from kilter.types import Group

AUDIT, FLAGS = "audit.json", "flags.jsonl"

COLUMN = "flags"
"""Of a row that is kept: the names of the checks that flag it."""


def write(found: Audit, folder: Path) -> None:
    """Writes audit.json, and flags.jsonl with a line for every row."""
    write_json(folder / AUDIT, found.to_json(), indent=1)
    write_by(folder / FLAGS, lambda partial: append_lines(partial, found.flag_lines(), flush=True))


@dataclass
class Filtered:
    """What a filter left out.

    Args:
        kept: rows that were written.
        dropped: rows by the name of the check that they were dropped for; a row may count under several.
        rows: (place, id, flags) of every row that was dropped.
    """

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rows: list[tuple[str, str, list[str]]] = field(default_factory=list)


def filtered(found: Audit, drop: Collection[str], target: Path) -> Filtered:
    """Writes the rows that none of these checks flags, each with its flags and its history.

    Beside the rows lies TARGET.filter.json: source and hashes, what was dropped, and why.

    Args:
        found: the audit of the rows.
        drop: names of checks.
        target: a file of groups.

    Raises:
        UserError: one of the checks was not made, or no row is left.
    """
    unmade = {f.check: f.value for f in found.findings if f.level == "not checked"}
    for name in drop:
        if name in unmade:
            raise UserError(
                "--drop", name, f"was not checked: {unmade[name]}", "give what it needs, or drop others"
            )
    done = Filtered()
    flagged = found.rows_flagged()
    kept = [i for i in range(len(found.groups)) if not set(drop) & set(flagged.get(i, ()))]
    if not kept:
        raise UserError("--drop", ", ".join(drop), "leaves zero rows", "drop fewer kinds of rows")
    write_by(target, lambda partial: store.append(partial, _kept(found, drop, flagged, done)))
    write_json(target.with_name(f"{target.name}.filter.json"), _note(found, drop, target, done), indent=1)
    return done


def _kept(
    found: Audit, drop: Collection[str], flagged: dict[int, list[str]], done: Filtered
) -> Iterator[Group]:
    """The rows that stay; the others are counted."""
    entry = {"stage": "filter", "kind": "filter", "data_hash": found.data_hash, "drop": sorted(drop)}
    for index, group in enumerate(found.groups):
        flags, place = flagged.get(index, []), found.context.place(index)
        reasons = [name for name in flags if name in drop]
        if reasons:
            done.dropped.update(reasons)
            done.rows.append((place, group.prompt.id, reasons))
            continue
        done.kept += 1
        prompt = with_entry(group.prompt, {**entry, "row": group.prompt.id or place})
        metadata = {k: v for k, v in prompt.metadata.items() if k != ROW}
        columns = {**prompt.columns, **({COLUMN: flags} if flags else {})}
        yield replace(group, prompt=replace(prompt, metadata=metadata, columns=columns))


def _note(found: Audit, drop: Collection[str], target: Path, done: Filtered) -> dict[str, Any]:
    """What has to be known to make the same file again."""
    spec = found.context.spec
    sources = [path for part in spec.sources() for path in content_of(part)] if spec else []
    return {
        "schema": 1,
        "source": found.path,
        "files": {str(path): sha256_file(path) for path in sources},
        "data_hash": found.data_hash,
        "drop": sorted(drop),
        "kept": done.kept,
        "dropped": dict(done.dropped),
        "rows": done.rows,
        "sha256": sha256_file(target),
    }
