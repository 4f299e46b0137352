"""The verdict: the worst state of all conditions. Fail and error beat inconclusive, which beats pass."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kilter.errors import UserError
from kilter.evaluation.metrics import facts_of
from kilter.release.gate.condition import Case, check
from kilter.release.gate.family import corrected
from kilter.release.gate.policy import GUARDS, Policy, base_name
from kilter.release.gate.standing import changed, evasive, imported, leaks, unvouched
from kilter.release.subjects import baseline_of, subjects

SCHEMA = 1


def decide(
    policy: Policy,
    evaluation: Mapping[str, Any],
    candidate: str | None = None,
    today: dt.date | None = None,
    baseline: str | None = None,
    broken: Sequence[str] = (),
    certificates: Sequence[str | Path] = (),
    uncertified: Sequence[str] = (),
    refused: Sequence[str] = (),
    evaded: Sequence[tuple[str, int, int]] = (),
    allow_means: bool = False,
    sources: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The gate's verdict as plain data (gate.json).

    Args:
        policy: what must hold.
        evaluation: what evaluation.json holds.
        candidate: model under test; None: the only one that is not the baseline.
        today: the day that waivers are compared with.
        baseline: what the candidate must have been compared with.
        broken: links of the run's chain that do not hold, a sentence each.
        certificates: judge.json files beside the policy's own.
        uncertified: judges of the run that no certificate vouches for.
        refused: audits of the run that refused their judge, with what it failed.
        evaded: stages of the run whose revisions mostly evade; see standing.evaded.
        allow_means: whether a condition may read a mean; the verdict says so.
        sources: SHA-256 of what an imported evaluation was read from, as its manifest has it.
    """
    candidate = _candidate(evaluation, candidate, baseline)
    vouching = [*([policy.certificate] if policy.certificate else []), *certificates]
    today = today or dt.date.today()
    case = Case(evaluation, candidate, today, vouching, allow_means)

    # Families first: what is claimed together is corrected together.
    p_values = corrected(policy.conditions, case)
    results = [check(c, case, p) for c, p in zip(policy.conditions, p_values, strict=True)]
    results += [
        *leaks(evaluation, candidate, policy.unmeasured_leakage, today),
        *imported(evaluation, sources),
        *changed(broken),
        *unvouched(uncertified, refused),
        *evasive(evaded),
    ]
    states = {r["state"] for r in results}
    verdict = "fail" if states & {"fail", "error"} else "inconclusive" if "inconclusive" in states else "pass"
    return {
        "schema": SCHEMA,
        "policy": policy.name,
        "candidate": candidate,
        "baseline": baseline_of(evaluation),
        "verdict": verdict,
        "data_hash": evaluation["data_hash"],
        "model_hash": subjects(evaluation)[candidate].get("model_hash", ""),
        "conditions": results,
        "notes": _of_others(evaluation) + notes(policy, allow_means, bool(evaluation["models"]), case),
    }


def notes(
    policy: Policy, allow_means: bool = False, answers: bool = True, case: Case | None = None
) -> list[str]:
    """What a reader of the verdict has to know of the policy itself, a sentence each.

    Args:
        policy: what must hold.
        allow_means: whether a condition may read a mean.
        answers: whether the verdict is of a model that answers; a reward model refuses nothing.
        case: what was measured, if that is known.
    """
    found = []
    if answers and (missing := policy.not_asked()):
        add = ", ".join(GUARDS[name] for name in missing)
        found.append(
            f"This policy has no condition on {_listed(missing)}, with which gains are often bought; "
            f"add one on {add}."
        )
    if allow_means and policy.means():
        listed = ", ".join(policy.means())
        found.append(f"Means were allowed, which say nothing of how sure they are: {listed}.")
    if case is not None and (worse := _losses(policy, case)):
        found.append(f"Worse than the baseline, and no condition asks about it: {', '.join(worse)}.")
    return found


def _of_others(evaluation: Mapping[str, Any]) -> list[str]:
    """Whose numbers an imported evaluation holds."""
    given = evaluation.get("imported") or []
    if not given:
        return []
    makers = _listed(list(dict.fromkeys(str(g.get("made_by", "another program")).strip() for g in given)))
    files = ", ".join(str(g["file"]) for g in given)
    return [
        f"The numbers are imported, and not recomputed: {makers} asked and scored, and wrote {files}. "
        "Kilter computed intervals and differences from its values of single prompts."
    ]


def _losses(policy: Policy, case: Case) -> list[str]:
    """What is worse than the baseline beyond doubt at this n, and what no condition asks about."""
    asked = {base_name(c.metric) for c in policy.conditions}
    found = []
    for name, difference in case.differences().items():
        facts = facts_of(base_name(name))
        if facts is None or facts.better is None or base_name(name) in asked:
            continue
        low, value, high = (difference.get(k) for k in ("ci_low", "value", "ci_high"))
        if low is None or high is None or value is None:
            continue
        if high < 0 if facts.better == "higher" else low > 0:
            found.append(f"{name} by {value:+.3g} [{low:.3g}, {high:.3g}]")
    return found


def _listed(names: Sequence[str]) -> str:
    """a, b or c."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _candidate(evaluation: Mapping[str, Any], candidate: str | None, baseline: str | None) -> str:
    """The model under test. Raises UserError where it was not evaluated, or against another baseline."""
    models, compared = subjects(evaluation), baseline_of(evaluation)
    known = ", ".join(models)
    if candidate is None:
        others = [n for n in models if n != compared]
        if len(others) != 1:
            problem = f"is needed: the evaluation has {len(others)} candidates"
            fix = f"Name one of: {known}." if known else "Evaluate models, with one of them as baseline."
            raise UserError("gate.candidate", None, problem, fix)
        candidate = others[0]
    if candidate not in models:
        fix = f"Name one of: {known}." if known else "Evaluate it: the evaluation holds no model."
        raise UserError("gate.candidate", candidate, "was not evaluated", fix)
    if baseline is not None and baseline != compared:
        problem = f"is not the baseline of the evaluation, {compared!r}"
        raise UserError("gate.baseline", baseline, problem, f"Use {compared!r}, or evaluate again.")
    return candidate
