"""A model folder, read without noise: transformers is quiet, and what is broken gives one message."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kilter.errors import UserError
from kilter.models.remote_code import refusal


@contextlib.contextmanager
def readable(folder: Path, field: str = "model") -> Iterator[None]:
    """Turns what transformers raises on a broken folder into one message."""
    try:
        with quiet_transformers():
            yield
    except UserError:
        raise
    # Whatever it is: a file that is not what transformers expects fails anywhere in its code.
    except Exception as error:
        if (refused := refusal(error, field, str(folder))) is not None:
            raise refused from None
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            field,
            str(folder),
            f"cannot be loaded ({type(error).__name__}: {reason})",
            "check that config.json, tokenizer and weights are whole and belong together",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            "model", str(path), f"cannot be read ({error})", f"copy {path.name} from the original model"
        ) from error
    return found if isinstance(found, dict) else {}


class quiet_transformers:
    """Silences transformers' bars and its note on a fresh score head: a run has its own display."""

    def __enter__(self) -> None:
        from transformers.utils import logging as hf_logging

        self.level, self.bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging as hf_logging

        hf_logging.set_verbosity(self.level)
        if self.bars:
            hf_logging.enable_progress_bar()
