"""Whether what a stage made is still what it wrote: the links of the chain from data to verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kilter import manifest as manifests
from kilter.artifacts import sha256_file
from kilter.errors import UserError
from kilter.manifest import Manifest
from kilter.stages.kind import Workspace
from kilter.stages.outcome import ARTIFACT, Makes


def content_hash(folder: Path, makes: Makes) -> str | None:
    """Hash of what a stage of this kind leaves for others; None where it leaves nothing, or nothing is there.

    Args:
        folder: of the stage.
        makes: what the kind makes.
    """
    from kilter.models.load import model_hash

    path = folder / ARTIFACT.get(makes, "")
    if makes not in ARTIFACT or not path.exists():
        return None
    return model_hash(path) if path.is_dir() else sha256_file(path)


PASSING = ("manifest.json", "recipe.yaml", "report.html", "checkpoints", "pinned")
"""What a stage's folder may hold that is written anew, or goes, after the stage has finished."""


def file_hashes(folder: Path, makes: Makes) -> dict[str, str]:
    """Hash of every file that a finished stage leaves, by its path inside the stage's folder."""
    names = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
    kept = [n for n in names if n.parts[0] not in PASSING and not any(x.startswith(".") for x in n.parts)]
    return {name.as_posix(): _digest(folder / name, makes) for name in kept}


def _digest(path: Path, makes: Makes) -> str:
    """A file's hash. Weights are big, so theirs is remembered; other stages need not wait for torch."""
    if makes != "model":
        return sha256_file(path)
    from kilter.models.load import file_hash

    return file_hash(path)


def altered(folder: Path, makes: Makes, entry: Manifest) -> Iterator[Path]:
    """Files of a finished stage that are gone, or hold something else than the stage wrote.

    Args:
        folder: of the stage.
        makes: what the kind makes.
        entry: its manifest. Those of earlier versions list no files.
    """
    for name, noted in entry.outputs.items():
        path = folder / name
        # What has no ending is what the kind makes as a whole, such as `model`.
        if path.suffix and not (path.is_file() and _digest(path, makes) == noted):
            yield path


def broken(work: Workspace, names: Sequence[str]) -> list[Path]:
    """What has changed, or is gone, since the stage of that name finished: files where they are on record.

    Args:
        work: the run.
        names: stages; those that have not finished count for nothing.
    """
    found = []
    for name in names:
        folder, makes = work.stage(name), work.stages[name].maker.makes
        entry = manifests.read(folder)
        if entry is None or entry.status != "done" or makes not in ARTIFACT:
            continue
        if content_hash(folder, makes) != entry.outputs.get(makes):
            artifact = folder / ARTIFACT[makes]
            found += [p for p in altered(folder, makes, entry) if p.is_relative_to(artifact)] or [artifact]
    return found


def check_links(work: Workspace) -> None:
    """Raises UserError if what this stage reads is not what the stage that made it wrote."""
    for item in work.inputs():
        if item.ref.to == "file":
            continue
        names = work.made_by(str(item.value)) if item.ref.to == "data" else [item.value]
        for name in (str(name) for name in names if work.is_stage(name)):
            for path in broken(work, [name]):
                raise UserError(
                    work.where(item.field),
                    item.value,
                    f"is not what its stage wrote: {path} was changed or damaged since",
                    f"put it back, or remove {work.stage(name)} to make it anew",
                )
