"""Whether an exported folder is still what `kilter export` wrote: evidence/export.json lists its files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kilter import chain
from kilter.artifacts import write_json
from kilter.chain import Break
from kilter.hashes import digest_of, file_hash, files_below

EVIDENCE = "evidence"
"""Subfolder of what is not the model, so that a copied model keeps its hash."""

RECORD = f"{EVIDENCE}/export.json"


def is_export(folder: Path) -> bool:
    """Whether an export wrote this folder."""
    return (folder / RECORD).is_file()


def seal(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes the record of an export beside its files, last of all: it lists their hashes.

    Args:
        folder: the exported folder, otherwise whole.
        record: where the weights come from.
    """
    files = {path.relative_to(folder).as_posix(): file_hash(path) for path in files_below(folder)}
    held = dict(record) | {"files": files}
    write_json(folder / RECORD, held | {"seal": digest_of(held)}, indent=1)


def breaks(folder: Path, hash_of: chain.Hash = file_hash) -> Iterator[Break]:
    """Every file of an export that is not what the export wrote.

    What begins with a dot is not looked at: git and the Hub's client keep their notes there.

    Args:
        folder: for which `is_export` holds.
        hash_of: of a file; `file_hash` is quick where nothing changed.
    """
    files, problem = _listed(folder)
    if problem:
        yield Break(folder / RECORD, problem)
        return
    found = (chain.unlike(folder, name, digest, hash_of) for name, digest in files.items())
    yield from (link for link in found if link is not None)
    for path in chain.things_below(folder):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if name.as_posix() not in (*files, RECORD) and not hidden:
            yield Break(path, "was added since the export")


def _listed(folder: Path) -> tuple[dict[str, str], str]:
    """The hash of each file as the record has it, and what is wrong with the record."""
    try:
        text = (folder / RECORD).read_text(encoding="utf-8")
        held = json.loads(text)
        seal, files = held.pop("seal", None), held.get("files")
        if seal is None and files is None:
            return {}, "lists no hashes of its folder's files: it is of an older Kilter"
        if seal != digest_of(held) or text != json.dumps(held | {"seal": seal}, indent=1):
            return {}, "was changed since: its own checksum does not fit"
        return {str(name): str(digest) for name, digest in files.items()}, ""
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}, "is damaged, so that nothing says what the export's files were"
