"""What stages leave and announce: artifacts, outcomes, plans; and the base of their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict

from kilter.errors import Exit
from kilter.validation import Settings

Makes = Literal["data", "model", "evaluation", "certificate", "verdict", "report"]

ARTIFACT: Mapping[str, str] = {
    "data": "groups.jsonl",
    "model": "model",
    "evaluation": "evaluation.json",
    "certificate": "judge.json",
}
"""Where later stages find what a stage made, inside its folder; other stages leave files for people alone."""


class StageSpec(Settings):
    """Base of a user's own settings: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of a stage left.

    facts: numbers and words for the manifest, which JSON can hold.
    outputs: content hashes by name. Later stages are hashed by the one named after what the kind
        makes; if it is left out, it is the hash of the artifact.
    code: the exit code of the whole run, unless an earlier stage set one.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    code: Exit = Exit.OK


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One line of --dry-run; None where nothing can be said before the stages above have run.

    rows: prompts or groups. tokens: over all passes. memory_gb, seconds: estimates.
    warnings: what a run would do, and cannot come to. name, kind: the pipeline fills them in.
    """

    what: str = ""
    rows: int | None = None
    tokens: int | None = None
    steps: int | None = None
    memory_gb: float | None = None
    seconds: float | None = None
    warnings: Sequence[str] = ()
    name: str = ""
    kind: str = ""
