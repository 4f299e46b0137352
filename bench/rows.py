"""The rows of a benchmark: real pairs (HH-RLHF) where a file is given, else the support desk; as token ids, the same for both sides."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from kilter.data.dataset import DataSpec, load
from kilter.roles.open import OpenSpec, open_encoder
from kilter.types import Group

HH = Path(__file__).resolve().parents[2] / "shared" / "data" / "hh_harmless" / "pairs.jsonl.gz"


def rows_of(data: str | None, count: int, kind: str) -> tuple[str, Iterable[Group]]:
    """(where the rows come from, the rows): `data`, else HH-RLHF beside the checkout, else a desk of `count` requests."""
    source = data or (str(HH) if HH.is_file() else "builtin:support-desk")
    dials = {"world": {"n": count}} if source.startswith("builtin:") else {}
    return source, load(DataSpec(path=source, heldout=0, on_bad_row="skip", **dials), kind).train


def write_rows(model: Path, data: str | None, count: int, max_length: int, path: Path) -> str:
    """Writes {prompt_ids, chosen_ids, rejected_ids} per line; returns where the rows come from."""
    source, groups = rows_of(data, 2 * count, "pairs")
    encoder = open_encoder(OpenSpec(model, max_length=max_length))
    encoded = []
    for group in groups:
        e = encoder.encode(group)
        # Both sides must see the same tokens: rows that either would cut are left out, and multi-turn masks, which TRL lacks.
        if e is not None and not encoder.counts["prompts cut"] and all(all(m) for m in e.masks):
            encoded.append(e)
        encoder.counts.clear()
        if len(encoded) == count:
            break
    rows = [
        {"prompt_ids": e.prompt_ids, "chosen_ids": e.completion_ids[0], "rejected_ids": e.completion_ids[1]}
        for e in encoded
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return Path(source).name if "/" in source else source
