"""What an audit says to people: a row per metric, and what changed between two audits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kilter.errors import UserError
from kilter.feedback.judge.certificate import Certificate, Limit, Metric
from kilter.statistics import Estimate, paired_difference

CHANGE_HEAD = ("What", "Before", "After", "Change per prompt, 95 % interval", "")
HEAD = ("State", "What", "Found, 95 % interval", "Has to be", "What it means")


def shown(metric: Mapping[str, Any], unit: str, sign: bool = False) -> str:
    """A value with its interval; shares in percent.

    Args:
        metric: with value, ci_low and ci_high.
        unit: "share", or "" for a coefficient.
        sign: whether a plus stands before what is above 0.
    """
    if metric["value"] is None:
        return "(not measured)"
    text = _number(metric["value"], unit, sign) + (" %" if unit == "share" else "")
    if metric["ci_low"] is None:
        return text
    low, high = (_number(metric[bound], unit, sign) for bound in ("ci_low", "ci_high"))
    return f"{text} [{low} to {high}]"


def _number(value: float, unit: str, sign: bool = False) -> str:
    plus = "+" if sign else ""
    if unit != "share":
        return f"{value:{plus}.2f}"
    return f"{100 * value:{plus}.1f}".removesuffix(".0")


def limit_text(limit: Limit, unit: str) -> str:
    """Where the interval has to lie."""
    end = " %" if unit == "share" else ""
    low, high = (None if b is None else _number(b, unit) for b in (limit.low, limit.high))
    if low is not None and high is not None:
        return f"{low} to {high}{end}"
    if low is not None:
        return f"at least {low}{end}"
    return "" if high is None else f"at most {high}{end}"


def row(metric: Metric) -> tuple[str, str, str, str, str]:
    """One metric under HEAD. A metric that could not be had has no sentence."""
    says = metric.says if metric.value is not None else metric.method
    found = shown(metric.model_dump(), metric.unit)
    return metric.state, metric.title, found, limit_text(metric.limit, metric.unit), says


def rows(certificate: Certificate) -> list[tuple[str, str, str, str, str]]:
    """All metrics, those beyond their limit first."""
    order = ("refused", "inconclusive", "pass", "reported", "not measured")
    return sorted(map(row, certificate.metrics.values()), key=lambda r: order.index(r[0]))


def sentence(certificate: Certificate) -> str:
    """The verdict in one sentence, with the metrics that made it."""
    name = f"{certificate.judge.name}, on {certificate.pairs} labelled pairs of {certificate.data}"
    if certificate.verdict == "pass":
        return f"{name}: certified until {certificate.expires}."
    if certificate.verdict == "refused":
        return f"{name}: refused for {', '.join(certificate.failures)}."
    left_out = [n for n in certificate.undecided if n not in certificate.metrics]
    tell = "a certificate needs all probes" if left_out else "more labelled pairs would tell"
    return f"{name}: not decided on {', '.join(certificate.undecided)}; {tell}."


def changes(before: Certificate, after: Certificate) -> list[dict[str, Any]]:
    """What changed from one audit to the other, metric by metric, paired by prompt.

    Raises:
        UserError: they were made on different rows.
    """
    if before.data_hash != after.data_hash:
        raise UserError(
            "compare",
            after.data,
            "was audited on other rows than the first certificate",
            "audit both judges with the same data, limits and seed",
        )
    found = []
    for name, new in after.metrics.items():
        old = before.metrics.get(name)
        if old is None or old.value is None or new.value is None:
            continue
        found.append(
            {
                "name": name,
                "title": new.title,
                "unit": new.unit,
                "before": old.value,
                "after": new.value,
                **_change(old, new),
            }
        )
    return found


def _change(old: Metric, new: Metric) -> dict[str, Any]:
    """The difference as an estimate, and whether it goes away from the limit."""
    estimate = paired_difference(new.per_prompt, old.per_prompt)
    # A coefficient is no mean over prompts: its parts are paired, and its own difference is shown beside.
    if new.unit != "share":
        estimate = replace(estimate, method=f"share behind the coefficient: {estimate.method}")
    low, high = estimate.ci_low, estimate.ci_high
    return {
        "difference": estimate.value,
        "ci_low": low,
        "ci_high": high,
        "n": estimate.n,
        "method": estimate.method,
        "worse": _worse(old, new, estimate),
    }


def _worse(old: Metric, new: Metric, change: Estimate) -> bool:
    """Whether the bias surely grew: the interval excludes 0, and the metric went away from what is right."""
    if change.ci_low is None or change.ci_high is None or change.ci_low <= 0 <= change.ci_high:
        return False
    if old.value is None or new.value is None:
        return False
    low, high = new.limit.low, new.limit.high
    if low is not None and high is not None:
        middle = (low + high) / 2
        return abs(new.value - middle) > abs(old.value - middle)
    up = change.ci_low > 0
    return up if high is not None else not up if low is not None else False


def change_rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Changes for a table: title, before, after, difference with its interval, and a word."""
    return [
        (
            c["title"],
            _number(c["before"], c["unit"]),
            _number(c["after"], c["unit"]),
            shown({"value": c["difference"], **c}, "share", sign=True),
            "worse" if c["worse"] else "",
        )
        for c in found
    ]


def change_lines(found: Sequence[Mapping[str, Any]], before: str) -> list[str]:
    """What is surely worse than in the earlier audit `before`, a line each."""
    rows = zip(found, change_rows(found), strict=True)
    worse = [
        f"{'worse':<12} {c['name']:<12} {title} went from {old} to {new} since `{before}`: {change}."
        for c, (title, old, new, change, word) in rows
        if word
    ]
    return worse or [f"nothing is surely worse than in `{before}`"]
