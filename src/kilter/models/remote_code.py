"""Code that a model's folder or repository brings along. It runs only if the user asked for it by name."""

from __future__ import annotations

import os

from kilter.errors import UserError

FLAG = "--trust-remote-code"
VARIABLE = "KILTER_TRUST_REMOTE_CODE"
"""Set to 1 it says the same as the flag, also to the processes that a run starts."""


def trusted() -> bool:
    """Whether the user lets models bring code of their own."""
    return os.environ.get(VARIABLE) == "1"


def refusal(error: Exception, field: str, model: str) -> UserError | None:
    """What to tell where transformers wants to run code of a model's own; None for any other error."""
    if "trust_remote_code" not in str(error):
        return None
    return UserError(
        field,
        model,
        "needs Python code of its own (auto_map in its files), which is not run",
        f"give {FLAG} once you have read that code, or use a model that transformers has itself",
    )
