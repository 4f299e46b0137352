"""Kinds of stages, one per file, and the base of one's own.

A kind's file is read when a recipe names the kind.
"""

from kilter.refs import DataRef, FeedbackRef, FileRef, ModelRef, StageRef
from kilter.release.section import Section
from kilter.stages.kind import Stage, StageKind, Workspace
from kilter.stages.outcome import Outcome, StagePlan, StageSpec
from kilter.stages.registry import kind_of, kinds, make, stage

for _kind in ("audit", "audit_judge", "generate", "label", "revise", "train", "merge", "evaluate", "gate"):
    kinds.declare(f"kilter.stages.{_kind}", _kind)

__all__ = [
    "DataRef",
    "FeedbackRef",
    "FileRef",
    "ModelRef",
    "Outcome",
    "Section",
    "Stage",
    "StageKind",
    "StagePlan",
    "StageRef",
    "StageSpec",
    "Workspace",
    "kind_of",
    "kinds",
    "make",
    "stage",
]
