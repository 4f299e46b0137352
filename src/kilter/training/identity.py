"""What makes a run this run, so that a checkpoint of another one is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kilter.artifacts import sha256_file
from kilter.errors import UserError
from kilter.models.fingerprint import numbers_hash
from kilter.registry import user_files
from kilter.training.checkpoint import CHECKPOINT_FORMAT
from kilter.training.config import FREE, TrainSpec
from kilter.training.job import Job
from kilter.types import Encoded, Prompt

UNCOUNTED: dict[str, Any] = dict.fromkeys(FREE, True) | {
    # What is left on disk.
    "adapter": {"merge"},
    "monitors": {"pin"},
    # Names: what they lead to is hashed instead.
    "start": True,
    "reference": True,
    "teacher": True,
    "critic": {"start"},
    "data": True,
    "prompts": True,
}
"""Settings that are no part of a run's identity."""


def identity(
    job: Job, groups: Iterable[Encoded], prompts: Sequence[tuple[tuple[int, ...], Prompt]] = ()
) -> str:
    """Hash of everything that changes a number: settings, models, and the data as tokens with its labels.

    Args:
        job: names settings and models.
        groups: rows that are learned from, or held out.
        prompts: those that are answered, each with its tokens.
    """
    spec = job.spec
    digest = hashlib.sha256(spec.model_dump_json(exclude=UNCOUNTED).encode())
    digest.update(f"{CHECKPOINT_FORMAT}|{spec.prompts is not None}".encode())
    # Where a role runs changes no number; answers of older weights do.
    if spec.cluster is not None:
        digest.update(spec.cluster.numbers().encode())
    for field, folder in _models(job):
        digest.update(f"{field} {numbers_hash(folder)}".encode())

    # The file of a reward is no part of it: one that failed may be mended, and the run goes on.
    for path in _files(spec, "method"):
        digest.update(path.read_bytes())
    # Tokens rather than text: another template or length is another run.
    for group in groups:
        scores = [f.score for f in group.group.feedback]
        digest.update(repr((group.prompt_ids, group.completion_ids, group.masks, scores)).encode())
        if odds := [f.against for f in group.group.feedback if f.against]:
            digest.update(repr(odds).encode())
    for ids, prompt in prompts:
        columns = json.dumps(prompt.metadata, sort_keys=True, default=str)
        digest.update(f"{ids}{columns}".encode())
    return digest.hexdigest()


def _models(job: Job) -> Iterator[tuple[str, Path]]:
    """Every model that the run's numbers come from, apart from those that score its answers."""
    yield "start", job.start
    if job.reference is not None:
        yield "reference", job.reference
    for field, name in (("teacher", job.spec.teacher), ("critic", job.spec.critic.start)):
        if name is not None:
            yield field, job.resolve(name)


def refuse_another_run(job: Job, mine: str) -> None:
    """Raises UserError if the folder holds a checkpoint that this run cannot take up, before long work."""
    found = job.checkpoints.find()
    if found is None:
        return
    meta = found[1]
    if meta["identity"] != mine:
        raise UserError(
            "out",
            str(job.out),
            f"holds a checkpoint of another run (method {meta['method']}, step {meta['step']})",
            "choose another folder, use the same settings to resume it, or remove its checkpoints/",
        )
    there, here = meta.get("critic"), place_of_critic(job)
    if there not in (None, here):
        problem = (
            f"is not where the checkpoint of step {meta['step']} has the critic ({there}): a critic cannot "
            "move while its weights are divided over processes"
        )
        raise UserError(
            "cluster.critic.place",
            here,
            problem,
            f"use {there} to resume, or remove the checkpoints/ of this folder",
        )


def place_of_critic(job: Job) -> str:
    """Where the critic lives: "apart", or "here" beside the policy."""
    return "apart" if job.apart("critic") is not None else "here"


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
