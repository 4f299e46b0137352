"""What a model began as, from the records of the runs that made it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from kilter import manifest
from kilter.errors import UserError
from kilter.models.fingerprint import model_hash
from kilter.models.resolve import base_of

DIGITS = 16
"""Of a model's hash in histories."""


def descent(folder: Path) -> list[str]:
    """Hashes of a model and of those that it began as, the youngest first.

    Args:
        folder: of the weights. What lies in no run's folder has no known parents, but for an adapter's base.
    """
    own = model_hash(folder)
    found = [own[:DIGITS]]
    base, adapter = base_of(folder)
    if adapter is not None:
        found += descent(base)
    # A stage leaves its model in `model`; a record of other weights says nothing of these.
    entry = None
    if folder.name == "model":
        with contextlib.suppress(UserError):
            entry = manifest.read(folder.parent)
    if entry is not None and entry.outputs.get("model") == own:
        found += map(str, entry.facts.get("descent", ()))
    return list(dict.fromkeys(found))
