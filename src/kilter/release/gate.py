"""The release gate: conditions on the BOUNDS of confidence intervals, never on means. Fails closed.

States of a condition: pass, fail, warn (failed, but severity warn), inconclusive (the interval straddles the
value, or n is too small), waived, error (metric missing). The verdict is the worst: fail and error beat
inconclusive beats pass.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kilter.artifacts import write_json, write_text
from kilter.errors import Exit, UserError
from kilter.evaluation.metrics import facts_of
from kilter.feedback.judge.certificate import valid
from kilter.screen import plain
from kilter.statistics import n_to_certify
from kilter.validation import as_user_error, load_yaml

SCHEMA = 1
State = Literal["pass", "fail", "warn", "inconclusive", "waived", "error"]
Bound = Literal["ci_low", "ci_high", "value", "diff_ci_low", "diff_ci_high", "diff_value"]
OPS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


class Waiver(BaseModel):
    """Who lets a failing condition pass, why, and until when."""

    model_config = ConfigDict(extra="forbid")
    owner: str = Field(min_length=1, description="person who answers for it")
    reason: str = Field(min_length=1, description="why it may pass")
    expires: dt.date = Field(description="last day on which it holds, YYYY-MM-DD")


class Condition(BaseModel):
    """`bound` of `metric` `op` `value`. diff_* bounds are those of the paired difference to the baseline."""

    model_config = ConfigDict(extra="forbid")
    metric: str = Field(description="a metric of evaluation.json, or reward_model.accuracy")
    bound: Bound = Field(description="which number is compared")
    op: Literal[">", ">=", "<", "<="] = Field(description="comparison")
    value: float = Field(allow_inf_nan=False, description="what it is compared with, in the metric's unit")
    min_n: int = Field(1, ge=1, description="with fewer scored prompts the condition is inconclusive")
    max_unscored: float = Field(
        0.02, ge=0, le=1, description="with a larger unscored share the condition is inconclusive"
    )
    severity: Literal["fail", "warn"] = Field(
        "fail", description="warn: a failure is reported, and does not fail the gate"
    )
    requires: list[str] = Field(
        default_factory=list, description="metrics that must be present for this one to count"
    )
    waiver: Waiver | None = None

    def text(self) -> str:
        """'gold diff_ci_low > 0'."""
        return f"{self.metric} {self.bound} {self.op} {self.value:g}"


class Policy(BaseModel):
    """What must hold for a release."""

    model_config = ConfigDict(extra="forbid")
    conditions: list[Condition] = Field(min_length=1, description="all of them must pass")
    name: str = Field("release", description="shown in the report")
    certificate: str | None = Field(
        None, description="judge.json of `kilter audit-judge`, for metrics that rest on that judge"
    )


def load_policy(source: str | Path | Mapping[str, Any], field: str = "gate.policy") -> Policy:
    """A policy from a YAML file or from plain data."""
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise UserError(
                field, str(source), "names no policy file", "give a YAML file with conditions: [...]"
            )
        try:
            source = load_yaml(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(
                field,
                str(path),
                f"is not YAML ({str(error).splitlines()[0]})",
                "check indentation and colons",
            ) from error
    try:
        return Policy.model_validate(source)
    except ValidationError as error:
        raise as_user_error(error, field, Policy) from error


def power_warnings(policy: Policy, n_prompts: int) -> list[str]:
    """Conditions that cannot pass with this many prompts, whatever the model does.

    Run before anything is generated.
    """
    out = []
    for c in policy.conditions:
        facts = facts_of(c.metric)
        share = facts is not None and facts.aggregate == "proportion"
        if share and c.bound == "ci_high" and c.op in ("<", "<=") and 0 < c.value < 1:
            needed = n_to_certify(c.value)
            if n_prompts < needed:
                out.append(
                    f"{c.text()}: even with no event at all it needs {needed} prompts (there are {n_prompts})"
                )
        if n_prompts < c.min_n:
            out.append(f"{c.text()}: min_n is {c.min_n}, there are {n_prompts} prompts")
    return out


def _find(evaluation: Mapping[str, Any], candidate: str, condition: Condition) -> Mapping[str, Any] | None:
    if condition.metric.startswith("reward_model."):
        found = evaluation.get("reward_model", {}).get("metrics", {}).get(condition.metric.partition(".")[2])
    else:
        model = evaluation["models"][candidate]
        found = model.get("difference" if condition.bound.startswith("diff_") else "metrics", {}).get(
            condition.metric
        )
    return found if isinstance(found, Mapping) else None


def check(
    condition: Condition,
    evaluation: Mapping[str, Any],
    candidate: str,
    today: dt.date,
    certificates: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """State of one condition, with the number compared and a sentence that says why.

    Args:
        condition: of the policy.
        evaluation: what evaluation.json holds.
        candidate: model under test.
        today: the day that waivers and certificates are compared with.
        certificates: judge.json files that may vouch for a judge.
    """
    metric = _without_errors(_find(evaluation, candidate, condition))
    state, why = _state(condition, metric, evaluation["models"][candidate]["metrics"])
    if state not in ("error", "inconclusive") and metric is not None:
        problem = _uncertified(metric, certificates, today)
        state, why = ("inconclusive", problem) if problem else (state, why)
    state, why = _waived(condition, state, why, today)
    if state in ("fail", "inconclusive") and condition.severity == "warn":
        state = "warn"
    return {
        "condition": condition.text(),
        "metric": condition.metric,
        "bound": condition.bound,
        "op": condition.op,
        "value": condition.value,
        "observed": None if metric is None else metric.get(condition.bound.removeprefix("diff_")),
        "n": None if metric is None else metric["n"],
        "state": state,
        "severity": condition.severity,
        "why": why,
    }


def _without_errors(metric: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A rate that an instrument with errors counted, as it is without them; any other as it stands."""
    if metric is None or metric.get("value") is None or metric.get("corrected") is None:
        return metric
    return {**metric, **metric["corrected"], "counted": metric["value"]}


def _uncertified(metric: Mapping[str, Any], certificates: Sequence[str | Path], today: dt.date) -> str:
    """Why a judge that the metric rests on is not certified; "" where all of them are, or there is none."""
    for judge in metric.get("judged_by", ()):
        problems = [valid(path, str(judge["judge"]), today) for path in certificates]
        own = str(judge.get("uncertified", ""))
        if not own and dt.date.fromisoformat(judge["expires"]) < today:
            own = f"the certificate expired on {judge['expires']}"
        if own and all(problems):
            return f"judge not certified: {judge['judge_name']}: {(problems or [own])[0]}"
    return ""


def _unread(metric: Mapping[str, Any]) -> str | None:
    """Why a rate that an instrument counted says nothing; None where it does."""
    if "instrument" not in metric:
        return None
    if metric["corrected"] is None:
        return f"{metric['instrument']} counted it, and its sensitivity and specificity were not measured"
    if metric["value"] is None:
        return f"{metric['instrument']} does not tell what it counts from the rest"
    return None


FEWEST = 15
"""Prompts below which a bootstrap interval is too narrow to decide.

Simulated without any effect, `diff_ci_low > 0` passes in 26 % of draws at n = 2, 6 % at 8, 4 % from 15 on.
"""


def _state(
    condition: Condition, metric: Mapping[str, Any] | None, measured: Mapping[str, Any]
) -> tuple[State, str]:
    """What the condition would say without waiver and severity, and why."""
    if metric is None or metric.get("counted", metric.get("value")) is None:
        against = " against a baseline" if condition.bound.startswith("diff_") else ""
        return "error", f"{condition.metric} was not measured{against}"
    missing = [r for r in condition.requires if r not in measured and not r.startswith("reward_model.")]
    if missing:
        return "error", f"requires {', '.join(missing)}, which was not measured"
    bound = condition.bound.removeprefix("diff_")
    if (unread := _unread(metric)) is not None:
        return "inconclusive", unread
    if metric.get(bound) is None:
        text = f"{condition.metric} has no confidence interval (n = {metric['n']})"
        return "inconclusive", f"{text}; use bound: value, or more prompts"
    if metric["n"] < condition.min_n:
        return "inconclusive", f"n = {metric['n']} is below min_n = {condition.min_n}"
    unscored = metric["n_unscored"] / max(1, metric["n"] + metric["n_unscored"])
    if unscored > condition.max_unscored:
        text = f"{unscored:.0%} of the prompts are unscored"
        return "inconclusive", f"{text}, at most {condition.max_unscored:.0%} may be"
    return _compared(condition, metric, bound)


def _compared(condition: Condition, metric: Mapping[str, Any], bound: str) -> tuple[State, str]:
    """The bound against the condition's value. If only the other end would pass, it is inconclusive."""
    holds, number = OPS[condition.op], float(metric[bound])
    beside = ""
    if "counted" in metric:
        people = f"by what people said of {metric.get('people')} answers"
        read = f"for sensitivity {metric.get('sensitivity')} and specificity {metric.get('specificity')}"
        beside = f" corrected {people if 'people' in metric else read}; counted {metric['counted']:.4g}"
    if holds(number, condition.value):
        if bound != "value" and "bootstrap" in metric.get("method", "") and metric["n"] < FEWEST:
            text = (
                f"n = {metric['n']} is below {FEWEST}, where a bootstrap interval passes by chance too often"
            )
            return "inconclusive", text
        return "pass", f"{bound} = {number:.4g}{beside}"
    other = metric.get("ci_high" if bound == "ci_low" else "ci_low")
    if bound == "value" or other is None or not holds(float(other), condition.value):
        return "fail", f"{bound} = {number:.4g}{beside}"
    text = f"the interval [{metric['ci_low']:.4g}, {metric['ci_high']:.4g}] straddles {condition.value:g}"
    text += beside
    return "inconclusive", f"{text}; {_n_needed(metric, condition)}"


def _waived(condition: Condition, state: State, why: str, today: dt.date) -> tuple[State, str]:
    """A waiver lets what does not pass count as passed, until the day it expires."""
    waiver = condition.waiver
    if waiver is None or state not in ("fail", "error", "inconclusive"):
        return state, why
    if waiver.expires < today:
        return state, f"{why}; the waiver of {waiver.owner} expired on {waiver.expires}"
    return "waived", f"{state} ({why}); waived by {waiver.owner} until {waiver.expires}: {waiver.reason}"


def _n_needed(metric: Mapping[str, Any], condition: Condition) -> str:
    """The n at which the present estimate would pass, as the interval's half width shrinks with sqrt(n)."""
    half = (metric["ci_high"] - metric["ci_low"]) / 2
    distance = abs(metric["value"] - condition.value)
    if not OPS[condition.op](metric["value"], condition.value) or distance == 0:
        return "the estimate itself is on the wrong side"
    needed = math.ceil(metric["n"] * (half / distance) ** 2)
    return f"about {needed} prompts would decide if the estimate stays"


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
    """
    candidate = _candidate(evaluation, candidate, baseline)
    vouching = [*([policy.certificate] if policy.certificate else []), *certificates]
    day = today or dt.date.today()
    results = [check(c, evaluation, candidate, day, vouching) for c in policy.conditions]
    results += [*_leaks(evaluation), *_changed(broken), *_unvouched(uncertified, refused)]
    states = {r["state"] for r in results}
    verdict = "fail" if states & {"fail", "error"} else "inconclusive" if "inconclusive" in states else "pass"
    return {
        "schema": SCHEMA,
        "policy": policy.name,
        "candidate": candidate,
        "baseline": evaluation["baseline"],
        "verdict": verdict,
        "data_hash": evaluation["data_hash"],
        "model_hash": evaluation["models"][candidate]["model_hash"],
        "conditions": results,
    }


def _candidate(evaluation: Mapping[str, Any], candidate: str | None, baseline: str | None) -> str:
    """The model under test. Raises UserError where it was not evaluated, or against another baseline."""
    known, compared = ", ".join(evaluation["models"]), evaluation["baseline"]
    if candidate is None:
        others = [n for n in evaluation["models"] if n != compared]
        if len(others) != 1:
            raise UserError(
                "gate.candidate",
                None,
                f"is needed: the evaluation has {len(others)} candidates",
                f"Name one of: {known}.",
            )
        candidate = others[0]
    if candidate not in evaluation["models"]:
        raise UserError("gate.candidate", candidate, "was not evaluated", f"Name one of: {known}.")
    if baseline is not None and baseline != compared:
        raise UserError(
            "gate.baseline",
            baseline,
            f"is not the baseline of the evaluation, {compared!r}",
            f"Use {compared!r}, or evaluate again.",
        )
    return candidate


def _leaks(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A condition that no policy has to name: what was trained on proves nothing."""
    leaked = int(evaluation.get("prompts_found_in_training_data", 0))
    if not leaked:
        return []
    return [
        {
            "condition": "evaluation prompts absent from training data",
            "metric": "leakage",
            "bound": "value",
            "op": "<=",
            "value": 0,
            "observed": leaked,
            "n": evaluation["n_prompts"],
            "state": "fail",
            "severity": "fail",
            "why": f"{leaked} evaluation prompts were trained on",
        }
    ]


def _changed(broken: Sequence[str]) -> list[dict[str, Any]]:
    """A condition that no policy has to name: a verdict is about what the stages wrote, and nothing else."""
    if not broken:
        return []
    return [
        {
            "condition": "every file is what its stage wrote",
            "metric": "chain",
            "bound": "value",
            "op": "<=",
            "value": 0,
            "observed": len(broken),
            "n": None,
            "state": "fail",
            "severity": "fail",
            "why": "; ".join(broken),
        }
    ]


def _unvouched(uncertified: Sequence[str], refused: Sequence[str]) -> list[dict[str, Any]]:
    """A condition that no policy has to name: the word of a judge whom nobody measured decides nothing.

    A judge that was measured, was refused, and was listened to all the same fails the run.
    """
    if not uncertified:
        return []
    why = f"; {'; '.join(refused)}" if refused else ""
    return [
        {
            "condition": "every judge is certified",
            "metric": "judges",
            "bound": "value",
            "op": "<=",
            "value": 0,
            "observed": len(uncertified),
            "n": None,
            "state": "fail" if refused else "inconclusive",
            "severity": "fail",
            "why": f"judge not certified: {', '.join(uncertified)}{why}",
        }
    ]


def read(path: Path) -> dict[str, Any]:
    """What evaluation.json holds. Raises UserError where it is none, or damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["baseline"], found["n_prompts"], found["data_hash"], found["prompts_found_in_training_data"]
        [(m["path"], m["model_hash"], m["metrics"]) for m in found["models"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "evaluation",
            str(path),
            f"is not an evaluation.json ({error})",
            "give the file that `kilter eval` wrote",
        ) from error
    return found


def exit_code(verdict: str) -> Exit:
    """0 pass, 1 fail, 3 inconclusive."""
    return {"pass": Exit.OK, "fail": Exit.GATE_FAILED, "inconclusive": Exit.INCONCLUSIVE}[verdict]


def junit(gate: Mapping[str, Any]) -> str:
    """The conditions as JUnit XML, for CI systems."""
    bad = ("fail", "error")
    rows: Sequence[Mapping[str, Any]] = gate["conditions"]
    suite = ElementTree.Element(
        "testsuite",
        name=f"kilter gate {gate['policy']}",
        tests=str(len(rows)),
        failures=str(sum(r["state"] in bad for r in rows)),
        skipped=str(sum(r["state"] in ("inconclusive", "waived", "warn") for r in rows)),
    )
    for row in rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=str(gate["candidate"]), name=str(row["condition"])
        )
        if row["state"] in bad:
            ElementTree.SubElement(case, "failure", message=str(row["why"]))
        elif row["state"] != "pass":
            ElementTree.SubElement(case, "skipped", message=f"{row['state']}: {row['why']}")
    # A name may hold what XML cannot: control characters are written out.
    for element in suite.iter():
        element.attrib.update({name: plain(value) for name, value in element.attrib.items()})
    return ElementTree.tostring(suite, encoding="unicode")


def write(gate: Mapping[str, Any], folder: Path) -> None:
    """gate.json and gate.xml (JUnit)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "gate.json", gate, indent=1)
    write_text(folder / "gate.xml", junit(gate))
