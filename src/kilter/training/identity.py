"""What makes a run this run, so that a checkpoint of another one is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from kilter.artifacts import sha256_file
from kilter.errors import UserError
from kilter.models.load import model_hash
from kilter.registry import user_files
from kilter.training.checkpoint import CHECKPOINT_FORMAT, Checkpoints
from kilter.training.config import FREE, TrainSpec
from kilter.types import Encoded, Prompt


def identity(spec: TrainSpec, start: Path, groups: Iterable[Encoded], prompts: Sequence[Prompt]) -> str:
    """Hash of settings, start weights and data: tokens if they are fixed, prompts if they are answered."""
    # Only what changes a number: a run may go on with other trackers or on other machines.
    digest = hashlib.sha256(spec.model_dump_json(exclude=set(FREE)).encode())
    digest.update(f"{CHECKPOINT_FORMAT}|{model_hash(start)}".encode())
    # The file of a reward is no part of it: one that failed may be mended, and the run goes on.
    for path in _files(spec, "method"):
        digest.update(path.read_bytes())
    # Tokens rather than text: another template or length is another run.
    for group in groups:
        digest.update(repr((group.prompt_ids, group.completion_ids)).encode())
        if not all(map(all, group.masks)):
            digest.update(repr(group.masks).encode())
    for prompt in prompts:
        digest.update(repr((prompt.messages, prompt.text)).encode())
        if prompt.tools or prompt.template_kwargs:
            digest.update(repr((prompt.tools, prompt.template_kwargs)).encode())
    return digest.hexdigest()


def refuse_another_run(checkpoints: Checkpoints, out: Path, mine: str) -> None:
    """Raises UserError if the folder holds a checkpoint of a run with other settings, before long work."""
    meta = checkpoints.meta()
    if meta is not None and meta["identity"] != mine:
        raise UserError(
            "out",
            str(out),
            f"holds a checkpoint of another run (method {meta['method']}, step {meta['step']})",
            "choose another folder, use the same settings to resume it, or remove its checkpoints/",
        )


def reward_files(spec: TrainSpec) -> dict[str, str]:
    """The user's reward functions by file, with a hash of each.

    They may change between a stop and its resumption.
    """
    return {str(path): sha256_file(path) for path in feedback_files(spec)}


def feedback_files(spec: TrainSpec) -> list[Path]:
    """The user's own files that score answers."""
    return _files(spec, "feedback")


def _files(spec: TrainSpec, field: str) -> list[Path]:
    """The user's own files that a field names."""
    return user_files(json.loads(spec.model_dump_json(include={field})))
