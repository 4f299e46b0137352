"""Rules of SamplingParams for every sampler: valid values, and a seed for each sample. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from kilter.errors import UserError
from kilter.types import SamplingParams


def check_params(params: SamplingParams) -> None:
    """Raises UserError on values that have no meaning."""
    checks = [
        ("max_new_tokens", params.max_new_tokens >= 1, "at least 1"),
        ("temperature", params.temperature >= 0, "0 (greedy) or more"),
        ("top_p", 0 < params.top_p <= 1, "in (0, 1]"),
        ("top_k", params.top_k >= 0, "0 (off) or more"),
        ("stop", all(params.stop), "that is not empty"),
    ]
    for name, good, fix in checks:
        if not good:
            raise UserError(
                f"sampling.{name}", getattr(params, name), "is out of range", f"use a value {fix}"
            )


def request_seed(params: SamplingParams, prompt: Sequence[int], sample: int) -> int:
    """56 bits from (seed, prompt tokens, sample index) alone: the rest of the batch does not matter."""
    # A hash rather than a sum: neighbouring seeds and indices must not share their numbers.
    digest = hashlib.sha256(f"{params.seed}|{sample}|{tuple(prompt)}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
