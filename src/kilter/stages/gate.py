"""gate: decides from an evaluation whether the candidate may ship."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.text import Text

from kilter import manifest as manifests
from kilter.artifacts import sha256_file
from kilter.errors import UserError, nearest
from kilter.manifest import Manifest
from kilter.options import METHOD, MODEL
from kilter.refs import EvaluationRef, PolicyRef
from kilter.screen import many, styled
from kilter.stages.kind import StageKind, Workspace
from kilter.stages.links import broken
from kilter.stages.outcome import Outcome, StagePlan, StageSpec
from kilter.stages.registry import stage

COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


class GateSpec(StageSpec):
    """Decides whether the candidate may ship."""

    policy: Annotated[PolicyRef | dict[str, Any], METHOD] = Field(
        description="a YAML file, the name of a shipped policy, or the policy itself: {conditions: [...]}"
    )
    allow_means: Annotated[bool, METHOD] = Field(
        False, description="conditions may read means, which say nothing of how sure they are"
    )
    candidate: Annotated[str | None, MODEL] = Field(
        None, description="model under test; default: the only one that is not the baseline"
    )
    baseline: Annotated[str | None, MODEL] = Field(None, description="must be the evaluation's baseline")
    evaluation: Annotated[EvaluationRef, METHOD] = Field(
        None, description="evaluate stage to read; default: the last one"
    )


@stage("gate")
class Gate(StageKind[GateSpec]):
    """Reads evaluation.json, never a model."""

    Spec = GateSpec
    makes = "verdict"
    judges_links = True

    def inputs(self, spec: GateSpec, work: Workspace) -> dict[str, str]:
        """A link that broke since the last verdict, or another certificate, asks for another one."""
        from kilter.release.gate import load_policy

        own = load_policy(spec.policy).certificate
        paths = [*work.certificates(), *([Path(own)] if own else [])]
        known = {f"certificate:{path}": sha256_file(path) for path in paths if path.is_file()}
        return known | {f"changed:{link.path}": "" for link in broken(work, work.earlier())}

    def check(self, spec: GateSpec, work: Workspace) -> None:
        """The policy can be read and can be met, and the candidate is evaluated."""
        from kilter.release.gate import check_known, load_policy, refuse_means

        named = work.input("evaluation")
        if named not in work.stages:
            fix = nearest(named.removeprefix("$"), work.stages, none="add an evaluate stage above")
            raise UserError(work.where("evaluation"), named, "names no stage", fix)
        evaluation = work.stages[named]
        names = evaluation.maker.names(evaluation.spec)
        if spec.candidate is not None and names and spec.candidate not in names:
            raise UserError(
                work.where("candidate"), spec.candidate, "is not evaluated", nearest(spec.candidate, names)
            )
        compared = evaluation.maker.baseline(evaluation.spec)
        if spec.baseline is not None and compared is not None and spec.baseline != compared:
            raise UserError(
                work.where("baseline"),
                spec.baseline,
                f"is not the baseline of the evaluation, {compared!r}",
                f"use {compared!r}, or set baseline of the evaluate stage",
            )
        policy = load_policy(spec.policy, work.where("policy"))
        refuse_means(policy, work.where("policy"), spec.allow_means)
        reported = evaluation.maker.reports(evaluation.spec)
        if reported is not None:
            check_known(policy, reported, work.where("policy"))

    def preflight(self, spec: GateSpec, work: Workspace) -> None:
        """Before any generation: can these prompts pass the gate at all?"""
        for line in _power(spec, work):
            work.console.print(styled("  [yellow]power[/] {}", line))

    def plan(self, spec: GateSpec, work: Workspace) -> StagePlan:
        """The policy's name or the number of its conditions, and what cannot pass; it takes no time."""
        power = _power(spec, work)
        if isinstance(spec.policy, str):
            return StagePlan(spec.policy, seconds=0, warnings=power)
        n = len(spec.policy["conditions"])
        return StagePlan(many(n, "conditions"), seconds=0, warnings=power)

    def run(self, spec: GateSpec, work: Workspace, folder: Path) -> Outcome:
        """Writes gate.json and gate.xml."""
        from kilter.release import gate as gates

        evaluation = gates.read(work.stage(work.input("evaluation")) / "evaluation.json")
        policy = gates.load_policy(spec.policy)
        changed, done = broken(work, work.earlier()), _done(work)
        result = gates.decide(
            policy,
            evaluation,
            spec.candidate,
            baseline=spec.baseline,
            broken=list(map(str, changed)),
            certificates=work.certificates(),
            uncertified=gates.uncertified(done),
            refused=gates.refused(done),
            evaded=gates.evaded(done),
            allow_means=spec.allow_means,
        )
        gates.write(result, folder)
        facts = {
            "verdict": result["verdict"],
            "candidate": result["candidate"],
            "lines": [
                *(f"{c['state']:<12} {c['condition']}   {c['why']}" for c in result["conditions"]),
                *(f"note: {note}" for note in result["notes"]),
            ],
        }
        digest = hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()
        return Outcome(facts, {"verdict": digest}, gates.exit_code(result["verdict"]))

    def summary(self, facts: Mapping[str, Any]) -> Sequence[str | Text]:
        """The verdict, then every condition."""
        word, colour = facts["verdict"].upper(), COLOURS[facts["verdict"]]
        first = styled(f"  verdict: [bold {colour}]{{}}[/] for {{}}", word, facts["candidate"])
        return [first, *(f"    {line}" for line in facts["lines"])]


def _power(spec: GateSpec, work: Workspace) -> list[str]:
    """What cannot pass on the prompts of the evaluation, as far as they are there already."""
    from kilter.release.gate import load_policy, power_warnings

    return power_warnings(load_policy(spec.policy), work.asks(work.input("evaluation")))


def _done(work: Workspace) -> dict[str, Manifest]:
    """Earlier stages that have ended, by name."""
    entries = {name: manifests.read(work.stage(name)) for name in work.earlier()}
    return {n: e for n, e in entries.items() if e is not None and e.status == "done"}
