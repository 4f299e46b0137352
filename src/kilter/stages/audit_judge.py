"""audit_judge: measures a judge on labelled pairs, and writes judge.json, which a gate asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_serializer
from rich.text import Text

from kilter.artifacts import read_json, sha256_file, write_json
from kilter.errors import Exit, UserError, nearest
from kilter.feedback.judge.spec import JudgeSpec
from kilter.options import DATA, METHOD, OUTPUT
from kilter.refs import CertificateRef, DataRef, FileRef
from kilter.release.section import Section
from kilter.screen import many, styled
from kilter.stages.kind import StageKind, Workspace
from kilter.stages.outcome import ARTIFACT, Outcome, StagePlan, StageSpec
from kilter.stages.registry import stage
from kilter.types import Shape

if TYPE_CHECKING:
    from kilter.evaluation.judge_audit.run import Plan
    from kilter.feedback.judge.certificate import Certificate

CODES = {"pass": Exit.OK, "refused": Exit.GATE_FAILED, "inconclusive": Exit.INCONCLUSIVE}
COLOURS = {"pass": "green", "refused": "red", "inconclusive": "yellow"}
CHANGES = "changes.json"


class AuditJudgeSpec(StageSpec):
    """Measures a judge on pairs that people have labelled."""

    judge: Annotated[str | JudgeSpec, METHOD] = Field(
        description="judge.yaml, the settings themselves, or my_file.py:NAME of a judge of your own"
    )
    data: Annotated[DataRef, DATA] = Field("$data", description="$name of labelled pairs or ranked answers")
    limit: Annotated[int, DATA] = Field(400, ge=2, description="labelled pairs, the first ones")
    probe_limit: Annotated[int, DATA] = Field(
        100, ge=2, description="pairs of each probe that does not need all of them, and triples of answers"
    )
    own: Annotated[str | None, DATA] = Field(
        None, description="what the data calls the judge's own model (columns chosen_model, rejected_model)"
    )
    probes: Annotated[list[str], METHOD] = Field(
        default_factory=list, description="only these probes are made; a certificate needs all of them"
    )
    replay: Annotated[FileRef | None, METHOD] = Field(
        None,
        description="kept replies, judge.sqlite of an earlier run: the judge answers from them alone, "
        "offline, and a question without a reply ends it",
    )
    days: Annotated[int, OUTPUT] = Field(90, ge=1, le=3650, description="how long the certificate holds")
    gates: Annotated[bool, OUTPUT] = Field(
        True, description="end with code 1 or 3 unless the judge passes; false leaves that to a gate"
    )
    before: Annotated[CertificateRef, METHOD] = Field(
        None, description="an earlier audit of the same rows: what changed since is shown with intervals"
    )
    seed: Annotated[int, DATA] = Field(0, ge=0, lt=2**32, description="which triples of answers are asked")

    @field_serializer("judge")
    def _judge_as_written(self, value: str | JudgeSpec) -> Any:
        return value.as_written() if isinstance(value, JudgeSpec) else value


@stage("audit_judge")
class AuditJudge(StageKind[AuditJudgeSpec]):
    """Asks the judge, and keeps every verdict as it comes."""

    Spec = AuditJudgeSpec
    makes = "certificate"
    free = frozenset({"replay"})

    def shape(self, spec: AuditJudgeSpec, field: str) -> Shape | None:
        """Two answers and which one people prefer."""
        return "pairs"

    def inputs(self, spec: AuditJudgeSpec, work: Workspace) -> dict[str, str]:
        """The judge's file, and the day: a certificate is as old as its verdicts."""
        from kilter.evaluation.judge_audit.opening import is_own

        if not isinstance(spec.judge, str) or is_own(spec.judge):
            return {}
        return {f"file:{spec.judge}": sha256_file(Path(spec.judge))}

    def check(self, spec: AuditJudgeSpec, work: Workspace) -> None:
        """The judge's settings can be read, and the probes are known."""
        from kilter.evaluation.judge_audit.opening import settings_of
        from kilter.evaluation.judge_audit.probes import PROBES
        from kilter.feedback import check_replay

        settings = settings_of(spec.judge, work.where("judge"))
        if spec.replay is not None and settings is None:
            problem = "is read by no judge of a user's own"
            raise UserError(work.where("replay"), spec.replay, problem, "leave it out")
        check_replay(spec.replay, "judge", work.where("replay"))
        for name in spec.probes:
            if name not in PROBES:
                raise UserError(work.where("probes"), name, "is not a known probe", nearest(name, PROBES))

    def plan(self, spec: AuditJudgeSpec, work: Workspace) -> StagePlan:
        """How many verdicts it takes."""
        name = spec.judge if isinstance(spec.judge, str) else spec.judge.model or spec.judge.sampler.name
        if not work.ready(spec.data):
            return StagePlan(str(name))
        made = plan_of(spec, work)
        return StagePlan(f"{name}, {many(made.calls(), 'verdicts', ',')}", len(made.material.cases))

    def run(self, spec: AuditJudgeSpec, work: Workspace, folder: Path) -> Outcome:
        """Writes verdicts.jsonl as the judge answers, then judge.json."""
        from kilter.evaluation.judge_audit.opening import opened
        from kilter.evaluation.judge_audit.run import Audit, certificate
        from kilter.feedback.context import Context
        from kilter.feedback.judge.certificate import Certificate, sealed

        replay = None if spec.replay is None else Path(spec.replay)
        context = Context(lambda name: work.model(name, "judge"), folder=folder, replay=replay)
        found = opened(spec.judge, context, work.where("judge"))
        audit = Audit(
            found.judge,
            found.fingerprint,
            plan_of(spec, work),
            folder,
            work.console,
            f"{work.name}: verdicts",
            found.min_mass,
        )
        judge = {"name": found.judge.name, "settings": found.settings}
        made = certificate(audit, judge, work.data(spec.data).path, spec.days)
        bill = found.bill
        made["cost"] |= {
            "calls": bill.calls,
            "paid": round(bill.spent, 6),
            "prompt_tokens": bill.usage.prompt_tokens,
            "tokens": bill.usage.tokens,
        }
        certified = Certificate.model_validate(made)
        changed = [] if spec.before is None else _write_changes(work, certified, folder)
        write_json(folder / ARTIFACT["certificate"], sealed(made), indent=1)
        facts = {
            "verdict": made["verdict"],
            "failures": made["failures"],
            "undecided": made["undecided"],
            "pairs": made["pairs"],
            "lines": [*lines(certified), *changed],
        }
        return Outcome(facts, code=CODES[made["verdict"]] if spec.gates else Exit.OK)

    def summary(self, facts: Mapping[str, Any]) -> Sequence[str | Text]:
        """The verdict, then every metric that is beyond its limit or undecided."""
        word, colour = facts["verdict"].upper(), COLOURS[facts["verdict"]]
        first, *rest = facts["lines"]
        return [styled(f"  verdict: [bold {colour}]{{}}[/]   {{}}", word, first), *map(_indented, rest)]

    def section(self, folder: Path) -> Section | None:
        """Every metric with its limit and a sentence, and what changed since an earlier audit."""
        from kilter.evaluation.judge_audit.report import CHANGE_HEAD, HEAD, change_rows, rows, sentence
        from kilter.feedback.judge.certificate import read
        from kilter.release.report import fill

        path = folder / ARTIFACT["certificate"]
        if not path.is_file():
            return None
        found = read(path)
        changes = folder / CHANGES
        html = ""
        if changes.is_file():
            changed = change_rows(read_json(changes)["changes"])
            html = fill("judge_changes.html.j2", head=CHANGE_HEAD, rows=changed)
        chip = "fail" if found.verdict == "refused" else found.verdict
        return Section("Audit of the judge", sentence(found), chip, HEAD, rows(found), html, "evaluation")


def plan_of(spec: AuditJudgeSpec, work: Workspace) -> Plan:
    """What is asked: all labelled pairs, and a triple of each prompt that has three answers or more."""
    from kilter.evaluation.judge_audit.cases import cases_of, triples_of
    from kilter.evaluation.judge_audit.probes import PROBES, Material
    from kilter.evaluation.judge_audit.run import Plan

    pairs = work.load(spec.data, "pairs")
    work.announce(spec.data, pairs)
    cases = cases_of([*pairs.train, *pairs.heldout], spec.limit)
    try:
        ranked = work.load(spec.data, "ranked")
        triples = triples_of([*ranked.train, *ranked.heldout], spec.probe_limit, spec.seed)
    except UserError:
        # Pairs alone have no third answer: circles and order are then not measured, and said to be so.
        triples = []
    return Plan(Material(cases, triples, spec.own or ""), tuple(spec.probes or PROBES), spec.probe_limit)


def lines(certificate: Certificate) -> list[str]:
    """The verdict in a sentence; then a line for each metric that does not simply pass."""
    from kilter.evaluation.judge_audit.report import row, sentence

    found = []
    for name, metric in certificate.metrics.items():
        state, _, _, limit, says = row(metric)
        if state in ("refused", "inconclusive"):
            found.append(f"{state:<12} {name:<12} {says} Limit: {limit}.")
    unmeasured = [name for name, m in certificate.metrics.items() if m.state == "not measured"]
    if unmeasured:
        found.append(f"not measured {', '.join(unmeasured)}")
    if certificate.failed:
        found.append(
            f"{'failed':<12} {many(certificate.failed, 'calls')} of the judge, which no metric counts"
        )
    return [sentence(certificate), *found]


def _indented(line: str) -> str:
    return f"    {line}"


def _write_changes(work: Workspace, made: Certificate, folder: Path) -> list[str]:
    """Keeps what changed since the earlier audit, metric by metric, and says what is worse."""
    from kilter.evaluation.judge_audit.report import change_lines, changes
    from kilter.feedback.judge.certificate import read

    before = str(work.input("before"))
    found = changes(read(work.stage(before) / ARTIFACT["certificate"]), made)
    write_json(folder / CHANGES, {"changes": found}, indent=1)
    return change_lines(found, before)
