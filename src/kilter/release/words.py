"""A verdict in words for people who were not there: the first lines of the report and of the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kilter.screen import many

HEADLINES: Mapping[str, str] = {
    "pass": "May ship",
    "fail": "Must not ship",
    "inconclusive": "Not decided",
}
ORDER: Sequence[str] = ("fail", "error", "inconclusive", "waived", "warn", "pass")
"""States of conditions: what a reader must know comes first."""

OPS: Mapping[str, str] = {">": "more than", ">=": "at least", "<": "less than", "<=": "at most"}
BEYOND: Mapping[str, str] = {
    "leakage": "Leakage",
    "source": "Imported files",
    "chain": "Integrity",
    "judges": "Judges",
}
"""Conditions that no policy names. Their reason is a sentence already."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a condition holds or does not: its state, what was measured, and a sentence."""

    state: str
    title: str
    text: str


def number(value: float | None) -> str:
    """Three significant digits; a dash where there is no number."""
    if value is None:
        return "–"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def cell(text: object) -> str:
    """A text from outside as Markdown shows it: on one line, within its cell, never as a tag."""
    plain = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return plain.replace("|", "\\|")


def headline(gate: Mapping[str, Any]) -> str:
    """Three words at most: may it ship?"""
    return HEADLINES.get(str(gate["verdict"]), "Not decided")


def summary(gate: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """One sentence that counts the conditions and names those that do not hold."""
    rows: Sequence[Mapping[str, Any]] = gate["conditions"]
    bad = [_title(r, titles) for r in rows if r["state"] in ("fail", "error")]
    unsure = [_title(r, titles) for r in rows if r["state"] == "inconclusive"]
    waived = [_title(r, titles) for r in rows if r["state"] == "waived"]
    if bad:
        text = f"{len(bad)} of {_conditions(len(rows))} {_do(len(bad))} not hold: {_listed(bad)}."
    elif unsure:
        text = f"No condition failed. {len(unsure)} of {len(rows)} cannot be decided yet: {_listed(unsure)}."
    else:
        text = "The one condition holds." if len(rows) == 1 else f"All {len(rows)} conditions hold."
        if waived:
            text = f"{len(rows) - len(waived)} of {_conditions(len(rows))} hold."
    return f"{text} Waived by name: {_listed(waived)}." if waived else text


def reasons(
    gate: Mapping[str, Any], evaluation: Mapping[str, Any], titles: Mapping[str, str]
) -> list[Reason]:
    """A sentence per condition, what does not hold first.

    Args:
        gate: what gate.json holds.
        evaluation: what evaluation.json holds, for the units.
        titles: of metrics, by name.
    """
    rows = sorted(gate["conditions"], key=lambda r: _rank(r["state"]))
    return [Reason(r["state"], _title(r, titles), _sentence(r, gate, evaluation)) for r in rows]


def limits(evaluation: Mapping[str, Any], gate: Mapping[str, Any] | None) -> list[str]:
    """What the evidence does not say, in whole sentences.

    Args:
        evaluation: what evaluation.json holds.
        gate: what gate.json holds; None where no gate has run.
    """
    sampling = evaluation["sampling"]
    found = [
        f"The numbers speak of {evaluation['n_prompts']} prompts of one kind, and of others only as far "
        "as those are like them.",
        f"Answers were sampled at temperature {sampling['temperature']} with at most "
        f"{sampling['max_new_tokens']} tokens. Other settings give other answers.",
    ]
    if gate is None:
        found.append("No release gate has judged this model.")
    candidate = _candidate(evaluation, gate)
    if candidate:
        measured = evaluation["models"][candidate]["metrics"]
        absent = [title for key, title in UNSEEN.items() if key not in measured]
        if absent:
            found.append(f"Not measured: {_listed(absent)}.")
        unscored = [k for k, m in measured.items() if m.get("n_unscored")]
        if unscored:
            found.append(f"Some answers could not be scored by {_listed(unscored)}. They count for nothing.")
    if evaluation.get("imported"):
        found.append("Another program asked and scored: the numbers are imported, and not recomputed.")
    n = evaluation.get("prompts_found_in_training_data")
    if n is None or candidate in evaluation.get("training_data_unknown", ()):
        found.append("Nobody looked whether the evaluation's prompts were trained on.")
    if n:
        found.append(
            f"{n} of the evaluation prompts were trained on, or chose the weights: the numbers flatter."
        )
    return found


UNSEEN: Mapping[str, str] = {
    "over_refusal": "refusals of harmless requests",
    "violation_unsafe": "help with harmful requests",
    "tax_nll": "what was lost on other skills",
    "length": "length of answers",
}
"""Without these a gain may have been bought dearly."""


def quantity(value: float, unit: str, change: bool = False) -> str:
    """A number with its unit: shares in per cent, differences of shares in percentage points."""
    if unit.startswith("share"):
        return f"{number(100 * value)} {'percentage points' if change else '%'}"
    return f"{number(value)} {unit.split(' of ')[0]}".rstrip()


def _candidate(evaluation: Mapping[str, Any], gate: Mapping[str, Any] | None) -> str:
    if gate is not None:
        return str(gate["candidate"]) if gate["candidate"] in evaluation["models"] else ""
    others = [n for n in evaluation["models"] if n != evaluation["baseline"]]
    return others[-1] if others else ""


def _rank(state: str) -> int:
    return ORDER.index(state) if state in ORDER else 0


def _title(row: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    return BEYOND.get(row["metric"]) or titles.get(row["metric"], str(row["metric"]))


def _sentence(row: Mapping[str, Any], gate: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """What was seen and what was asked for; the gate's own words where no number was had."""
    if row["observed"] is None or row["metric"] in BEYOND or row["state"] == "error":
        return _whole(row["why"])
    metric = _metric(row, gate, evaluation)
    unit, change = str(metric.get("unit", "")), str(row["bound"]).startswith("diff_")

    # One bound says why a condition holds. Why it does not, only both of them say.
    bounds = [metric.get(end) for end in ("ci_low", "ci_high")]
    same = _end(row) != "value" and metric.get(_end(row)) == row["observed"]
    if row["state"] != "pass" and same and None not in bounds:
        seen = _between(metric, unit, gate["baseline"] if change else "")
    else:
        seen = _change(row, unit, gate["baseline"]) if change else _level(row, unit)
    asked = f"{'a change of ' if change else ''}{OPS[row['op']]} {_asked(row['value'], unit, change)}"
    text = f"{seen}. Asked for: {asked}."
    return text if row["state"] in ("pass", "fail") else f"{text} {_whole(row['why'])}"


def _asked(value: float, unit: str, change: bool) -> str:
    return "none" if value == 0 and not change else quantity(value, unit, change) if value else "0"


def _level(row: Mapping[str, Any], unit: str) -> str:
    word = {"ci_low": "At least ", "ci_high": "At most "}.get(row["bound"], "Measured: ")
    return word + quantity(row["observed"], unit)


def _change(row: Mapping[str, Any], unit: str, baseline: str) -> str:
    """The bound of a difference in words: what is sure, or what may be."""
    value, size = row["observed"], quantity(abs(row["observed"]), unit, change=True)
    side = "higher" if value > 0 else "lower"
    if value == 0:
        return f"The same as {baseline} at this bound"
    if row["bound"] == "diff_value":
        return f"{size} {side} than {baseline} in the mean"
    sure = (row["bound"] == "diff_ci_low") == (value > 0)
    if sure:
        return f"{side.capitalize()} than {baseline} by at least {size}"
    return f"May be {side} than {baseline} by up to {size}"


def _end(row: Mapping[str, Any]) -> str:
    """Which number of the estimate a condition reads."""
    return str(row["bound"]).removeprefix("diff_")


def _between(metric: Mapping[str, Any], unit: str, baseline: str) -> str:
    """Both ends of an interval; against a baseline with their signs."""
    low, high = metric["ci_low"], metric["ci_high"]
    if not baseline:
        return f"Between {quantity(low, unit)} and {quantity(high, unit)}"
    first, last = (f"{'+' if v > 0 else ''}{quantity(v, unit, change=True)}" for v in (low, high))
    return f"A change against {baseline} of between {first} and {last}"


def _metric(row: Mapping[str, Any], gate: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The estimate that a condition read, without its instrument's errors; empty where it is not at hand."""
    whole, _, part = str(row["metric"]).partition(".")
    read = "difference" if str(row["bound"]).startswith("diff_") else "metrics"
    if whole == "reward_model":
        found = (evaluation.get("reward_model") or {}).get(read, {}).get(part, {})
    else:
        found = evaluation["models"].get(gate["candidate"], {}).get(read, {}).get(row["metric"], {})
    return dict(found) | dict(found.get("corrected") or {})


def _whole(why: object) -> str:
    """A reason as a sentence."""
    text = str(why).strip()
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")


def _conditions(n: int) -> str:
    return many(n, "conditions")


def _do(n: int) -> str:
    return "does" if n == 1 else "do"


def _listed(names: Sequence[str]) -> str:
    """'a, b and c', each once."""
    known = list(dict.fromkeys(names))
    return known[0] if len(known) == 1 else f"{', '.join(known[:-1])} and {known[-1]}"
