"""One model of an evaluation: what it is called, and where its weights lie, if they lie here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kilter.models.descent import descent
from kilter.models.fingerprint import model_hash


@dataclass(frozen=True)
class Subject:
    """A model that is asked.

    Args:
        name: under which it is reported.
        reference: what the user named: a stage, a folder, a Hub id, or an endpoint's name for the model.
        folder: of its weights; None where an endpoint holds them.
    """

    name: str
    reference: str
    folder: Path | None

    @property
    def path(self) -> str:
        """Absolute path of the model's folder; its reference if it has no folder."""
        return self.reference if self.folder is None else str(self.folder.resolve())

    @property
    def hash(self) -> str:
        """Of its weights; of its name where nothing else is known of it."""
        if self.folder is None:
            return hashlib.sha256(self.reference.encode()).hexdigest()
        return model_hash(self.folder)

    @property
    def descent(self) -> list[str]:
        """Hashes of the model and of those that it began as, as far as they are known."""
        return [] if self.folder is None else descent(self.folder)
