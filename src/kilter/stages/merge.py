"""merge: an adapter folded into its base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from kilter.options import MODEL
from kilter.refs import ModelRef
from kilter.stages.kind import StageKind, Workspace
from kilter.stages.outcome import ARTIFACT, Outcome, StagePlan, StageSpec
from kilter.stages.registry import stage


class MergeSpec(StageSpec):
    """Folds an adapter into its base, for engines that load plain weights."""

    model: Annotated[ModelRef, MODEL] = Field(
        description="stage or folder of an adapter; with untie any model"
    )
    untie: Annotated[bool, MODEL] = Field(
        False, description="give the output head weights of its own, as a vLLM server on a CPU needs them"
    )


@stage("merge")
class Merge(StageKind[MergeSpec]):
    """Writes full weights in Hugging Face layout."""

    Spec = MergeSpec
    makes = "model"

    def preflight(self, spec: MergeSpec, work: Workspace) -> None:
        """A model that is there already can be merged."""
        from kilter.models.merge import check_merge

        if not work.is_stage(spec.model):
            check_merge(work.model(spec.model, "model"), spec.untie, work.where("model"))

    def plan(self, spec: MergeSpec, work: Workspace) -> StagePlan:
        """It takes as long as writing the weights."""
        return StagePlan(spec.model)

    def run(self, spec: MergeSpec, work: Workspace, folder: Path) -> Outcome:
        """Writes model/, and beside it what the adapter and its ancestors learned from."""
        from kilter.models.descent import descent
        from kilter.models.fingerprint import model_hash
        from kilter.models.merge import check_merge, merge
        from kilter.models.noted import hashes, note

        source = work.model(spec.model, "model")
        check_merge(source, spec.untie, work.where("model"))
        merge(source, folder / ARTIFACT["model"], spec.untie)
        note(folder, {}, [source])
        outputs = {"model": model_hash(folder / ARTIFACT["model"]), **hashes(folder)}
        return Outcome({"descent": descent(source)}, outputs)
