"""Runs the checks over a data set and writes audit.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kilter.artifacts import write_json
from kilter.data.audit import checks
from kilter.data.audit.checks import Finding
from kilter.data.dataset import Dataset
from kilter.data.encode import Encoder


def audit(
    data: Dataset, encoder: Encoder | None, progress: Callable[[str], None] = lambda name: None
) -> dict[str, Any]:
    """Findings as plain data. With an encoder the truncation check counts real tokens."""
    groups = data.train
    findings: list[Finding] = []

    def add(name: str, found: Finding | list[Finding] | None) -> None:
        progress(name)
        findings.extend(found if isinstance(found, list) else [found] if found is not None else [])

    left_out = sum(data.skipped.values())
    findings.append(
        Finding(
            "rows left out",
            "warn" if left_out else "ok",
            f"{left_out} rows" + (f" ({_counts(data.skipped)})" if left_out else ""),
            "rows that could not be used",
            {"count": left_out},
        )
    )
    add("roles", checks.roles(groups))
    add("identity", checks.identical_sides(groups))
    add("contradictions", checks.contradictions(groups))
    add("near-duplicates", checks.near_duplicates(groups, data.heldout))
    add("length bias", checks.length_bias(groups))
    add("shortcut probe", checks.shortcut_probe(groups))
    add("source confound", checks.source_confound(groups))
    if encoder is not None:
        add("truncation", _truncation(data, encoder))
    levels = Counter(f.level for f in findings)
    verdict = "error" if levels["error"] else "warn" if levels["warn"] else "ok"
    return {
        "schema": 1,
        "data": data.spec.path,
        "format": data.format,
        "data_hash": data.content_hash()[:16],
        "verdict": verdict,
        "train": len(groups),
        "heldout": len(data.heldout),
        "findings": [f.to_json() for f in findings],
    }


def _truncation(data: Dataset, encoder: Encoder) -> Finding:
    before = Counter(encoder.counts)
    encoded = encoder.encode_rows(data.train)
    cut = encoder.counts - before
    if not encoded:
        return Finding(
            "truncation", "error", "no group survives", f"raise max_length (now {encoder.max_length})"
        )
    lengths = np.array([len(e.prompt_ids) + max(map(len, e.completion_ids), default=0) for e in encoded])
    p50, p95, p99 = (int(np.percentile(lengths, q)) for q in (50, 95, 99))
    equal = cut["groups dropped: sides equal after the cut"]
    cuts = f"cuts {cut['prompts cut']} prompts and {cut['completions cut']} completions"
    text = f"tokens p50 {p50}, p95 {p95}, p99 {p99}; max_length {encoder.max_length} {cuts}"
    level: checks.Level = "error" if equal else "warn" if cut["completions cut"] else "ok"
    return Finding(
        "truncation",
        level,
        text,
        "a cut completion teaches no ending; sides made equal teach nothing",
        {"p50": p50, "p95": p95, "p99": p99, "equal": equal},
    )


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counter.items())


def write(result: dict[str, Any], folder: Path) -> None:
    """Writes the result to audit.json in `folder`."""
    write_json(folder / "audit.json", result, indent=1)
