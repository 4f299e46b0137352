"""audit: checks of a data set before anything is trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kilter.artifacts import read_json
from kilter.data.dataset import DataSpec
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
    """Checks a data set before anything is trained on it; an error ends the run."""

    data: Annotated[DataRef, DATA] = Field("$data", description="$name of a data set")
    model: Annotated[BaseRef, MODEL] = Field(
        None, description="model whose tokens the truncation check counts; default: the recipe's"
    )
    max_length: Annotated[int, DATA] = Field(
        1024, ge=8, description="length at which the truncation check cuts, in tokens"
    )
    look_for: Annotated[list[Literal["pii", "toxicity", "language"]], DATA] = Field(
        default_factory=list, description="what takes longer and an extra: pii, toxicity, language"
    )
    waive: Annotated[dict[str, str], METHOD] = Field(
        default_factory=dict,
        description="errors that do not end the run: the name of each check, and the reason",
    )


@stage("audit")
class Audit(StageKind[AuditSpec]):
    """Looks at the rows as the stages that learn from them will see them."""

    Spec = AuditSpec
    makes = "report"

    def shape(self, spec: AuditSpec, field: str) -> Shape | None:
        """It takes the shape that others read."""
        return None

    def one_shape(self, spec: AuditSpec) -> bool:
        """It looks at the rows as others read them."""
        return True

    def inputs(self, spec: AuditSpec, work: Workspace) -> dict[str, str]:
        """The shape and the evaluations depend on the stages around it."""
        suites = {f"against:{name}": _content(suite) for name, suite in _suites(spec, work).items()}
        return {"shape": _shape(spec, work), **suites}

    def check_names(self, spec: AuditSpec, work: Workspace) -> None:
        """Whoever waives a check names it, and says why."""
        from kilter.data.audit import extras
        from kilter.data.audit.run import check_names

        check_names(spec.waive, work.where("waive"))
        extras.require(spec.look_for, work.where("look_for"))
        for name, reason in spec.waive.items():
            if not reason.strip():
                raise UserError(
                    work.where(f"waive.{name}"),
                    reason,
                    "is empty",
                    "give the reason for which this error may pass",
                )

    def plan(self, spec: AuditSpec, work: Workspace) -> StagePlan:
        """Its rows; the checks take seconds."""
        rows = len(work.load(spec.data, "prompts").train) if work.ready(spec.data) else None
        return StagePlan(spec.data, rows)

    def run(self, spec: AuditSpec, work: Workspace, folder: Path) -> Outcome:
        """Writes audit.json, audit.html and flags.jsonl, and ends the run where an error is not waived."""
        from kilter.data.audit import files
        from kilter.data.audit.run import Settings, audit, counts
        from kilter.release import audit_page
        from kilter.roles.open import OpenSpec, open_encoder

        encoder = open_encoder(OpenSpec(work.model(spec.model), max_length=spec.max_length))
        settings = Settings(encoder, _suites(spec, work), frozenset(spec.look_for), waive=spec.waive)
        found = audit(
            work.data(spec.data),
            settings,
            _shape(spec, work),
            work.data_field(spec.data),
            lambda line: work.console.print(f"  {line}"),
        )
        files.write(found, folder)
        audit_page.write(found.to_json(), folder)

        # A warning is for the reader; an error ends the run.
        work.console.print(f"  {counts(found.findings)}; {folder / 'audit.html'}", soft_wrap=True)
        for finding in found.findings:
            if finding.level in ("warn", "error"):
                level = "waived" if finding.waived else finding.level
                said = styled("  [yellow]{}[/] {}: {}", level, finding.check, finding.value)
                work.console.print(said)
        if stopping := found.stopping():
            raise _refused(spec, work, stopping[0].check, stopping[0].value, stopping[0].fix)
        facts = {
            "verdict": found.verdict,
            "train": len(found.groups) - found.heldout,
            "heldout": found.heldout,
            "waived": dict(spec.waive),
        }
        return Outcome(facts, {"report": found.data_hash})

    def section(self, folder: Path) -> Section | None:
        """Every finding with what it means."""
        from kilter.release.audit_page import ordered

        path = folder / "audit.json"
        if not path.is_file():
            return None
        found = read_json(path)
        counts = f"{found['train']} training and {found['heldout']} held-out groups, split by prompt"
        rows = [
            (f["shown"], f["title"], f["value"], f["waived"] or f["meaning"])
            for f in ordered(found["findings"])
        ]
        return Section(
            "Data audit",
            f"{found['data']} ({found['format']}): {counts}. Hash {found['data_hash'][:16]}.",
            found["verdict"],
            ("Level", "Check", "Found", "What it means"),
            rows,
        )


def _refused(spec: AuditSpec, work: Workspace, check: str, value: str, fix: str) -> UserError:
    """What ends the run, how to mend it, and how to let it pass with a reason."""
    return UserError(
        f"{spec.data} {check}",
        value,
        "fails the audit",
        f"mend the data ({fix}), or let the error pass with {work.where('waive')}: {{{check}: the reason}}",
    )


def _suites(spec: AuditSpec, work: Workspace) -> Mapping[str, DataSpec]:
    """Data of the run's evaluations by name, as far as it is there: but for the audited data itself."""
    found: dict[str, DataSpec] = {}
    for stage_ in work.stages.values():
        if stage_.maker.makes != "evaluation":
            continue
        for item in stage_.maker.reads(stage_.spec):
            name = item.value
            if item.ref.to == "data" and name not in (None, spec.data) and work.ready(str(name)):
                found[str(name).removeprefix("$")] = work.data(str(name))
    return found


def _content(suite: Any) -> str:
    """The settings of an evaluation's data, by which the result stands or falls."""
    return str(suite.model_dump_json())


def _shape(spec: AuditSpec, work: Workspace) -> Shape:
    """Pairs where a stage learns from pairs of this data set, or none learns from it; else demonstrations."""
    learned = work.shapes(spec.data) - {"prompts"}
    return "demonstrations" if learned and "pairs" not in learned else "pairs"
