"""Whether what a stage made is still what it wrote: the links of the chain from data to verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kilter import chain
from kilter import manifest as manifests
from kilter.artifacts import sha256_file
from kilter.errors import UserError
from kilter.stages.kind import Workspace
from kilter.stages.outcome import ARTIFACT, Makes


def content_hash(folder: Path, makes: Makes) -> str | None:
    """Hash of what a stage of this kind leaves for others; None where it leaves nothing, or nothing is there.

    Args:
        folder: of the stage.
        makes: what the kind makes.
    """
    path = folder / ARTIFACT.get(makes, "")
    if makes not in ARTIFACT or not path.exists():
        return None
    if path.is_file():
        return sha256_file(path)
    from kilter.models.fingerprint import model_hash

    return model_hash(path)


def broken(work: Workspace, names: Sequence[str]) -> list[chain.Break]:
    """What has changed, was added or is gone since the stages of these names finished.

    Quick where nothing changed: a large file is read again only when its size, times or inode are others.

    Args:
        work: the run.
        names: stages; those that have not finished count for nothing.
    """
    found = [b for name in names for b in chain.stage_breaks(work.folder, work.link(name))]
    for name in names:
        folder, makes = work.stage(name), work.stages[name].maker.makes
        entry = manifests.read(folder)
        if entry is None or entry.status != "done" or makes not in ARTIFACT:
            continue
        # A model is hashed with its base, which may lie outside the run.
        path = folder / ARTIFACT[makes]
        named = any(path == b.path or path in b.path.parents for b in found)
        if not named and content_hash(folder, makes) != entry.outputs.get(makes):
            found.append(chain.Break(path, "was changed since"))
    return found


def check_links(work: Workspace) -> None:
    """Raises UserError if what this stage reads is not what the stage that made it wrote."""
    for item in work.inputs():
        if item.ref.to == "file":
            continue
        names = work.made_by(str(item.value)) if item.ref.to == "data" else [item.value]
        for link in broken(work, [str(name) for name in names if work.is_stage(name)]):
            raise UserError(
                work.where(item.field),
                item.value,
                f"is not what its stage wrote: {link}",
                f"put it back, or remove the stage's folder in {work.folder} to make it anew",
            )
