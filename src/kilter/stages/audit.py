"""audit: checks of a data set before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from kilter.artifacts import read_json
from kilter.errors import UserError
from kilter.options import DATA, METHOD, MODEL
from kilter.refs import BaseRef, DataRef
from kilter.release.section import Section
from kilter.screen import styled
from kilter.stages.kind import StageKind, Workspace
from kilter.stages.outcome import Outcome, StagePlan, StageSpec
from kilter.stages.registry import stage
from kilter.types import Shape


class AuditSpec(StageSpec):
    """Checks a data set before anything is trained on it."""

    data: Annotated[DataRef, DATA] = Field("$data", description="$name of a data set")
    model: Annotated[BaseRef, MODEL] = Field(
        None, description="model whose tokens the truncation check counts; default: the recipe's"
    )
    max_length: Annotated[int, DATA] = Field(
        1024, ge=8, description="length at which the truncation check cuts, in tokens"
    )
    fail_on_error: Annotated[bool, METHOD] = Field(
        False, description="end the run with code 2 when a finding has level error"
    )


@stage("audit")
class Audit(StageKind[AuditSpec]):
    """Looks at the rows as the stages that learn from them will see them."""

    Spec = AuditSpec
    makes = "report"

    def shape(self, spec: AuditSpec, field: str) -> Shape | None:
        """It takes the shape that others read."""
        return None

    def inputs(self, spec: AuditSpec, work: Workspace) -> dict[str, str]:
        """The shape depends on the stages around it."""
        return {"shape": _shape(spec, work)}

    def plan(self, spec: AuditSpec, work: Workspace) -> StagePlan:
        """Its rows; the checks take seconds."""
        rows = len(work.load(spec.data, "prompts").train) if work.ready(spec.data) else None
        return StagePlan(spec.data, rows)

    def run(self, spec: AuditSpec, work: Workspace, folder: Path) -> Outcome:
        """Writes audit.json, and ends the run where the settings say so."""
        from kilter.data.audit.run import audit, write
        from kilter.roles.open import OpenSpec, open_encoder

        data = work.load(spec.data, _shape(spec, work))
        work.announce(spec.data, data)
        encoder = open_encoder(OpenSpec(work.model(spec.model), max_length=spec.max_length))
        result = audit(data, encoder, lambda check: work.console.print(f"  checking {check}"))
        write(result, folder)

        # A warning is for the reader; an error may end the run.
        bad = [f for f in result["findings"] if f["level"] == "error"]
        for finding in result["findings"]:
            if finding["level"] != "ok":
                line = (finding["level"], finding["check"], finding["value"])
                work.console.print(styled("  [yellow]{}[/] {}: {}", *line))
        if spec.fail_on_error and bad:
            raise UserError(
                f"{spec.data} {bad[0]['check']}",
                bad[0]["value"],
                f"fails the audit: {bad[0]['meaning']}",
                f"mend the data ({folder / 'audit.json'} lists the ids), or set fail_on_error: false",
            )
        facts = {name: result[name] for name in ("verdict", "train", "heldout")}
        return Outcome(facts, {"report": result["data_hash"]})

    def section(self, folder: Path) -> Section | None:
        """Every finding with what it means."""
        path = folder / "audit.json"
        if not path.is_file():
            return None
        found = read_json(path)
        counts = f"{found['train']} training and {found['heldout']} held-out groups, split by prompt"
        return Section(
            "Data audit",
            f"{found['data']} ({found['format']}): {counts}. Hash {found['data_hash']}.",
            found["verdict"],
            ("Level", "Check", "Found", "What it means"),
            [(f["level"], f["check"], f["value"], f["meaning"]) for f in found["findings"]],
        )


def _shape(spec: AuditSpec, work: Workspace) -> Shape:
    """Pairs where a stage learns from pairs of this data set, or none learns from it; else demonstrations."""
    learned = work.shapes(spec.data) - {"prompts"}
    return "demonstrations" if learned and "pairs" not in learned else "pairs"
