"""What is noted beside a model of what it and its ancestors learned from; models made of it carry it on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from kilter import manifest as manifests
from kilter.artifacts import remove, sha256_file, write_text
from kilter.errors import UserError

LINEAGE = "trained_prompts.txt"
"""Keys of all prompts."""

JUDGES = "uncertified_judges.txt"
"""Names of the judges without a certificate that gave labels or rewards; no file where there was none."""

NOTES: Mapping[str, str] = {LINEAGE: "on which prompts", JUDGES: "on whose labels"}
"""Each file, and what nobody knows without it."""


def trained_prompts(model: Path) -> set[str]:
    """Prompt keys that a model and its ancestors were trained on, from its folder or its stage's."""
    return _noted(model, LINEAGE)


def lineage_known(model: Path | None) -> bool:
    """Whether the prompts are on record that a model was trained on: Kilter trained it, and it lies here.

    Args:
        model: its folder; None where an endpoint holds it.
    """
    return model is not None and any((folder / LINEAGE).is_file() for folder in (model, model.parent))


def uncertified_judges(model: Path) -> set[str]:
    """Judges that nobody vouched for when a model or its ancestors learned from what they said."""
    return _noted(model, JUDGES)


def note(folder: Path, notes: Mapping[str, Iterable[str]], parents: Iterable[Path] = ()) -> None:
    """Writes notes, and those of the models that a model is made of, into its folder or its stage's.

    Args:
        folder: where the model lies or will lie.
        notes: lines by the name of their file.
        parents: folders of models.
    """
    models = list(parents)
    for name in NOTES:
        lines = set(notes.get(name, ())).union(*(_noted(model, name) for model in models))
        if lines:
            write_text(folder / name, "\n".join(sorted(lines)) + "\n")
        else:
            remove(folder / name)


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each note in a folder, for its manifest."""
    return {name: sha256_file(folder / name) for name in NOTES if (folder / name).is_file()}


def _noted(model: Path, name: str) -> set[str]:
    found: set[str] = set()
    for folder in (model, model.parent):
        path = folder / name
        entry = manifests.read(folder) if path.is_file() or folder == model.parent else None
        known = None if entry is None else entry.outputs.get(name)
        if known is not None and (not path.is_file() or sha256_file(path) != known):
            raise UserError(
                "model",
                str(path),
                f"is damaged or missing: nobody knows {NOTES[name]} this model was trained",
                f"put it back, or remove {folder} to train its model anew",
            )
        found |= set(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else set()
    return found - {""}
