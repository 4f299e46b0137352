"""The state of one condition: pass, fail, warn, inconclusive, waived or error, and why."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kilter.feedback.judge.certificate import valid
from kilter.release.gate.policy import MEANS, OPS, Condition, Waiver
from kilter.statistics import LEVEL, UNBOUNDED

State = Literal["pass", "fail", "warn", "inconclusive", "waived", "error"]
TAIL = (1 - LEVEL) / 2
UNPAIRED = (
    "an interval needs the values of single prompts: import results with their samples "
    "(lm-eval --log_samples, a whole log of inspect_ai)"
)
"""What an imported evaluation may lack, and what helps."""
Metric = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """What a condition is judged by.

    Args:
        evaluation: what evaluation.json holds.
        candidate: model under test.
        today: the day that waivers and certificates are compared with.
        certificates: judge.json files that may vouch for a judge.
        allow_means: whether a condition may read a mean.
    """

    evaluation: Mapping[str, Any]
    candidate: str
    today: dt.date
    certificates: Sequence[str | Path] = ()
    allow_means: bool = False

    def metric(self, condition: Condition) -> Metric | None:
        """The estimate that a condition reads, without its instrument's errors; None if there is none."""
        if condition.metric.startswith("reward_model."):
            held = self.evaluation.get("reward_model") or {}
            part = "difference" if condition.paired else "metrics"
            found = held.get(part, {}).get(condition.metric.partition(".")[2])
        else:
            model = self.evaluation["models"].get(self.candidate, {})
            found = model.get("difference" if condition.paired else "metrics", {}).get(condition.metric)
        return _without_errors(found) if isinstance(found, Mapping) else None

    def differences(self) -> dict[str, Metric]:
        """The candidate's paired differences to the baseline, by metric, without their instruments' errors.

        What an instrument of unknown errors counted is left out.
        """
        found = self.evaluation["models"].get(self.candidate, {}).get("difference", {})
        read = {name: _without_errors(d) for name, d in found.items() if isinstance(d, Mapping)}
        return {name: d for name, d in read.items() if _unread(d) is None}


def check(condition: Condition, case: Case, holm: float | None = None) -> dict[str, Any]:
    """State of one condition, with the number compared and a sentence that says why.

    Args:
        condition: of the policy.
        case: what it is judged by.
        holm: p-value after the correction of its family; None: it stands alone.
    """
    metric = case.metric(condition)
    state, why = _state(condition, metric, case, holm)
    if state not in ("error", "inconclusive") and metric is not None:
        problem = _uncertified(metric, case.certificates, case.today)
        state, why = ("inconclusive", problem) if problem else (state, why)
    state, why = waived(condition.waiver, state, why, case.today)
    if state in ("fail", "inconclusive") and condition.severity == "warn":
        state = "warn"
    return {
        "condition": condition.text(),
        "metric": condition.metric,
        "bound": condition.bound,
        "op": condition.op,
        "value": condition.value,
        "observed": None if metric is None else metric.get(condition.field),
        "n": None if metric is None else metric["n"],
        "n_clusters": None if metric is None else metric.get("n_clusters"),
        "state": state,
        "severity": condition.severity,
        "why": why,
        **({} if condition.family is None else {"family": condition.family, "p_holm": holm}),
    }


def _without_errors(metric: Metric) -> Metric:
    """A rate that an instrument with errors counted, as it is without them; any other as it stands."""
    if metric.get("value") is None or metric.get("corrected") is None:
        return metric
    return {**metric, **metric["corrected"], "counted": metric["value"]}


def _uncertified(metric: Metric, certificates: Sequence[str | Path], today: dt.date) -> str:
    """Why a judge that the metric rests on is not certified; "" where all of them are, or there is none."""
    for judge in metric.get("judged_by", ()):
        problems = [valid(path, str(judge["judge"]), today) for path in certificates]
        own = str(judge.get("uncertified", ""))
        if not own and dt.date.fromisoformat(judge["expires"]) < today:
            own = f"the certificate expired on {judge['expires']}"
        if own and all(problems):
            return f"judge not certified: {judge['judge_name']}: {(problems or [own])[0]}"
    return ""


def _unread(metric: Metric) -> str | None:
    """Why a rate that an instrument counted says nothing; None where it does."""
    if "instrument" not in metric:
        return None
    if metric["corrected"] is None:
        return f"{metric['instrument']} counted it, and its sensitivity and specificity were not measured"
    if metric["value"] is None:
        return f"{metric['instrument']} does not tell what it counts from the rest"
    return None


def _state(condition: Condition, metric: Metric | None, case: Case, holm: float | None) -> tuple[State, str]:
    """What the condition would say without waiver and severity, and why."""
    if condition.bound in MEANS and not case.allow_means:
        return "error", "it reads a mean, which says nothing of how sure it is; --allow-means was not given"
    if metric is None or metric.get("counted", metric.get("value")) is None:
        against = " against a baseline" if condition.paired else ""
        method = "" if metric is None else str(metric.get("method", ""))
        beside = f" ({method})" if method else ""
        lacks = f"; {UNPAIRED}" if condition.paired and case.evaluation.get("imported") else ""
        return "error", f"{condition.metric} was not measured{against}{beside}{lacks}"
    measured = case.evaluation["models"].get(case.candidate, {}).get("metrics", {})
    missing = [r for r in condition.requires if r not in measured and not r.startswith("reward_model.")]
    if missing:
        return "error", f"requires {', '.join(missing)}, which was not measured"
    if (unread := _unread(metric)) is not None:
        return "inconclusive", unread
    if metric.get("reported"):
        return (
            "inconclusive",
            f"{condition.metric} is what another program reported of all prompts; {UNPAIRED}",
        )
    if metric.get(condition.field) is None:
        method = f", {metric['method']}" if metric.get("method") else ""
        text = f"{condition.metric} has no confidence interval (n = {metric['n']}{method})"
        return "inconclusive", f"{text}; it needs more prompts"
    if metric["n"] < condition.min_n:
        return "inconclusive", f"n = {metric['n']} is below min_n = {condition.min_n}"
    unscored = metric["n_unscored"] / max(1, metric["n"] + metric["n_unscored"])
    if unscored > condition.max_unscored:
        text = f"{unscored:.0%} of the prompts are unscored"
        return "inconclusive", f"{text}, at most {condition.max_unscored:.0%} may be"
    return _compared(condition, metric, holm)


def _compared(condition: Condition, metric: Metric, holm: float | None) -> tuple[State, str]:
    """The bound against the condition's value. If only the other end would pass, it is inconclusive."""
    holds, number = OPS[condition.op], float(metric[condition.field])
    beside = _beside(metric)
    if holds(number, condition.value):
        if condition.bound not in MEANS and (few := _too_few(metric)):
            return "inconclusive", few
        if holm is not None and holm > TAIL:
            family = f"with all claims of the family {condition.family} corrected by Holm"
            return "inconclusive", f"{family}, p = {holm:.3g} is above {TAIL:g}{beside}"
        return "pass", f"{condition.field} = {number:.4g}{beside}"
    other = metric.get("ci_high" if condition.field == "ci_low" else "ci_low")
    if condition.bound in MEANS or other is None or not holds(float(other), condition.value):
        return "fail", f"{condition.field} = {number:.4g}{beside}"
    text = f"the interval [{metric['ci_low']:.4g}, {metric['ci_high']:.4g}] straddles {condition.value:g}"
    text += beside
    return "inconclusive", f"{text}; {_n_needed(metric, condition)}"


def _beside(metric: Metric) -> str:
    """What a corrected rate was corrected for."""
    if "counted" not in metric:
        return ""
    people = f"by what people said of {metric.get('people')} answers"
    read = f"for sensitivity {metric.get('sensitivity')} and specificity {metric.get('specificity')}"
    return f" corrected {people if 'people' in metric else read}; counted {metric['counted']:.4g}"


def _too_few(metric: Metric) -> str:
    """Why so few observations do not decide; "" where they do. Clusters count, not what they hold."""
    # An estimate that does not say how many its interval needs gets the highest floor.
    fewest = metric.get("fewest", UNBOUNDED)
    independent = metric.get("n_clusters") or metric["n"]
    if independent >= fewest:
        return ""
    what = "n" if independent == metric["n"] else f"{metric['n']} prompts in clusters"
    return (
        f"{what} = {independent} is below {fewest}, where an interval of its kind passes by chance too often"
    )


def waived(waiver: Waiver | None, state: State, why: str, today: dt.date) -> tuple[State, str]:
    """A waiver lets what does not pass count as passed, until the day it expires."""
    if waiver is None or state not in ("fail", "error", "inconclusive"):
        return state, why
    if waiver.expires < today:
        return state, f"{why}; the waiver of {waiver.owner} expired on {waiver.expires}"
    return "waived", f"{state} ({why}); waived by {waiver.owner} until {waiver.expires}: {waiver.reason}"


def _n_needed(metric: Metric, condition: Condition) -> str:
    """The n at which the present estimate would pass, as the interval's half width shrinks with sqrt(n)."""
    half = (metric["ci_high"] - metric["ci_low"]) / 2
    distance = abs(metric["value"] - condition.value)
    if not OPS[condition.op](metric["value"], condition.value) or distance == 0:
        return "the estimate itself is on the wrong side"
    needed = math.ceil(metric["n"] * (half / distance) ** 2)
    return f"about {max(needed, metric['n'] + 1)} prompts would decide if the estimate stays"
