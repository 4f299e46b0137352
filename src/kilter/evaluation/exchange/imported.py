"""Results of other evaluators in a folder of Kilter's own, with a manifest and a chain.

The manifest lists the hash of each file that numbers come from. A gate reads them as long as those hold, and
says that Kilter neither asked nor scored anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kilter import chain
from kilter import manifest as manifests
from kilter.artifacts import lock, remove, sha256_file
from kilter.errors import UserError
from kilter.evaluation.exchange.kilter import write_evaluation
from kilter.evaluation.exchange.outcome import Exchange, exchanges
from kilter.hashes import code_hash
from kilter.validation import TAKEN

KIND = "import"
"""What manifest.json calls such a folder's stage."""

STALE = ("gate.json", "gate.xml", "report.html", chain.CHAIN, chain.SIGNATURE)
"""What was made of an earlier import into the same folder."""


@dataclass(frozen=True, slots=True)
class Given:
    """A file of results. name: of its model; "" as the file says."""

    name: str
    path: Path


def import_results(given: Sequence[Given], folder: Path) -> dict[str, Any]:
    """Reads results of inspect_ai or lm-eval into a folder; returns what evaluation.json holds.

    Args:
        given: the files; the first model is the baseline.
        folder: where evaluation.json goes.

    Raises:
        UserError: a file is missing, damaged or of no known format, or the folder holds something else.
    """
    formats = [_format(g.path) for g in given]
    paths = [p for g, fitting in zip(given, formats, strict=True) for p in (g.path, *fitting.beside(g.path))]
    sources = {f"file:{path.resolve()}": sha256_file(path) for path in paths}

    # Hashed first, and read afterwards: a file that is edited in between no longer fits its hash.
    outcomes = [
        replace(outcome, model=g.name or outcome.model)
        for g, fitting in zip(given, formats, strict=True)
        for outcome in fitting.read(g.path)
    ]
    config = {"files": [f"{g.name}={g.path}" if g.name else str(g.path) for g in given]}
    with recorded(folder, config, sources) as entry:
        result = write_evaluation(outcomes, folder, [g.path for g in given])
        entry.facts = {"prompts": result["n_prompts"], "baseline": result["baseline"]}
    return result


def _format(path: Path) -> Exchange:
    """Whose file it is."""
    if not path.is_file():
        raise UserError("results", str(path), "names no file", "give a .eval, a .json log or results_*.json")
    fitting = next((e for _, e in exchanges if e.fits(path)), None)
    if fitting is None:
        known = " or ".join(e.title for _, e in exchanges)
        raise UserError("results", str(path), f"is not a result of {known}", "give a log or results_*.json")
    return fitting


@contextlib.contextmanager
def recorded(
    folder: Path, config: Mapping[str, Any], sources: Mapping[str, str]
) -> Iterator[manifests.Manifest]:
    """A folder whose evaluation.json the body writes, as a run of one stage.

    Args:
        folder: where evaluation.json goes.
        config: what was asked for.
        sources: SHA-256 of each `file:PATH` or `model:NAME` that the numbers come from.

    Raises:
        UserError: another process holds the folder, or it holds something else.
    """
    with lock(folder, "--out"):
        _refuse_other(folder)
        for name in STALE:
            remove(folder / name)
        entry = manifests.new(folder.resolve().name, KIND, dict(config), dict(sources))
        entry.sources = {"code": code_hash(), **sources}

        def ends(done: manifests.Manifest) -> None:
            chain.record(folder, ".", done.text(), done.files)

        with manifests.life(folder, entry, ends):
            yield entry
            entry.outputs = {"evaluation": sha256_file(folder / "evaluation.json")}


def _refuse_other(folder: Path) -> None:
    """Raises UserError where the folder holds what no import wrote."""
    before = manifests.read(folder)
    fix = "choose another folder, or move these files away"
    if before is not None and before.kind != KIND:
        raise UserError("--out", str(folder), f"holds what a stage of kind {before.kind} made", fix)
    held = {path.name for path in folder.iterdir() if path.name.casefold() in TAKEN}
    if before is None and held:
        problem = f"holds {', '.join(sorted(held)[:3])}, which Kilter would write and has not written here"
        raise UserError("--out", str(folder), problem, fix)
