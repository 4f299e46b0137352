"""Recomputes a run's chain from data to verdict, and names each link that does not hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilter import chain
from kilter import manifest as manifests
from kilter.artifacts import sha256_file
from kilter.chain import Break
from kilter.errors import UserError
from kilter.hashes import code_hash
from kilter.manifest import Manifest
from kilter.release import exported, signature


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found.

    Args:
        broken: links that do not hold, the first of the chain first.
        unseen: what could not be computed again, each with the reason.
        notes: what a person should know, and what breaks nothing.
        stages: finished stages.
        files: files that were read.
    """

    broken: Sequence[Break]
    unseen: Sequence[str]
    notes: Sequence[str]
    stages: int
    files: int

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        links = [{"path": str(b.path), "problem": b.problem} for b in self.broken]
        state = "broken" if links else "unseen" if self.unseen else "whole"
        return {"state": state, "broken": links, "unseen": list(self.unseen), "notes": list(self.notes)} | {
            "stages": self.stages,
            "files": self.files,
        }


def verify(run: Path, key: Path | None = None) -> Verdict:
    """Reads every file of a run, or of an exported folder, again: no cache of hashes is asked.

    Args:
        run: the run's folder, or what `kilter export` wrote.
        key: a public key; the signature must be there and be of that key.

    Raises:
        UserError: it is not a run's folder, or the key cannot be read.
    """
    known = chain.stages_below(run) if run.is_dir() else []
    alone = not known and not (run / chain.CHAIN).is_file()
    if alone and not exported.is_export(run):
        problem = "is not a run folder: no stage in it has a manifest.json"
        raise UserError("RUN", str(run), problem, "give a folder that `kilter run` made, such as runs/NAME")
    if alone and key is not None:
        problem = "is of a run, and this is an exported folder, which nobody signs"
        raise UserError("--key", str(key), problem, "leave --key out, and verify the run that it came from")

    # Files first: what a damaged manifest says of its inputs is worth nothing.
    files = 0

    def hash_of(path: Path) -> str:
        nonlocal files
        files += 1
        return sha256_file(path)

    if alone:
        return Verdict(list(exported.breaks(run, hash_of)), [], [], 0, files)
    broken = list(chain.breaks(run, hash_of))
    entries = _entries(run, known)
    broken += _links(run, entries)

    # What lies outside the run may have moved away, which proves nothing either way.
    changed, unseen = _sources(run, entries)
    notes = _notes(entries)
    said, problems = signature.check(run, key)
    return Verdict([*broken, *changed, *problems], unseen, [*notes, *said], len(entries), files)


def _entries(run: Path, stages: Sequence[str]) -> dict[str, Manifest]:
    """The manifests of finished stages that can be read, in the order in which they began."""
    found = {}
    for stage in stages:
        try:
            entry = manifests.read(run / stage)
        except UserError:  # the chain has named it
            continue
        if entry is not None and entry.status == "done":
            found[stage] = entry
    return dict(sorted(found.items(), key=lambda item: item[1].started))


def _links(run: Path, entries: dict[str, Manifest]) -> Iterator[Break]:
    """Stages that read another result of an earlier stage than the one that lies there."""
    for stage, entry in entries.items():
        path = run / stage / chain.MANIFEST
        for name, digest in entry.inputs.items():
            what, _, where = name.partition(":")
            other = entries.get(where)
            # A data set may bear the name of a stage that makes something else.
            if other is None or what not in ("stage", *other.outputs):
                continue
            if digest not in (*other.outputs.values(), other.key):
                yield Break(path, f"is of another result of {other.stage} than the one that lies there")


def _sources(run: Path, entries: dict[str, Manifest]) -> tuple[list[Break], list[str]]:
    """Data, base models and code of the user's own: what changed, and what is not here."""
    changed, unseen = list[Break](), list[str]()
    for name, digest in {n: d for entry in entries.values() for n, d in entry.sources.items()}.items():
        what, _, where = name.partition(":")
        now = _source(what, where)
        if now is None:
            unseen.append(f"{where} is not here, so that it could not be computed again")
        elif now and now != digest:
            changed.append(Break(Path(where), "was changed since it was read"))
    return changed, unseen


def _source(what: str, where: str) -> str | None:
    """The hash of a source as it is now; None where it is not here, "" where it is no link."""
    if what == "file":
        return sha256_file(Path(where)) if Path(where).is_file() else None
    if what == "model":
        from kilter.models.fingerprint import reference_hash

        try:
            return reference_hash(where, here=True)
        except UserError:
            return None
    return ""


def _notes(entries: dict[str, Manifest]) -> list[str]:
    codes = {entry.sources["code"] for entry in entries.values() if "code" in entry.sources}
    others = bool(codes - {code_hash()})
    foreign = any("remote_code" in entry.sources for entry in entries.values())
    return [
        *["Kilter's code here is another than the code that made this run"] * others,
        *["models were allowed to run code of their own (--trust-remote-code)"] * foreign,
    ]
