"""One audit: asks the judge, keeps every verdict on disk, measures, and writes judge.json."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from kilter.artifacts import append_lines, read_lines
from kilter.data.dataset import prompt_key
from kilter.errors import RunFailed
from kilter.evaluation.judge_audit.probes import ASKS, PROBES, Material, Probe, Sheets
from kilter.evaluation.judge_audit.report import shown
from kilter.evaluation.judge_audit.sheet import Asked, sheet
from kilter.feedback.judge.certificate import DAYS, SCHEMA, Limit, State
from kilter.feedback.judge.verdict import Judge, Verdict
from kilter.progress import Display
from kilter.statistics import Estimate

VERDICTS = "verdicts.jsonl"
CHUNK = 16
"""Comparisons that are handed to the judge together; so many verdicts can be lost by a kill."""

FAILED = 0.05
"""Share of the verdicts on one thing that is asked which may fail; with more, the judge is not measured."""


@dataclass(frozen=True)
class Plan:
    """What is asked.

    Args:
        material: labelled pairs and triples.
        probes: names in PROBES.
        probe_limit: pairs of each probe that does not need all of them.
    """

    material: Material
    probes: Sequence[str] = tuple(PROBES)
    probe_limit: int = 100

    @cached_property
    def asks(self) -> dict[str, list[Asked]]:
        """Comparisons by what is asked, in the order of ASKS."""
        wanted = {ask for name in self.probes for ask in PROBES[name].asks}
        cases, triples = self.material.cases, self.material.triples
        few = Material(cases[: self.probe_limit], triples[: self.probe_limit], self.material.own)
        return {
            name: ask.make(self.material if ask.whole else few)
            for name, ask in ASKS.items()
            if name in wanted
        }

    def calls(self) -> int:
        """Verdicts that are needed, both orders and all repeats counted."""
        return sum(2 * ASKS[name].repeats * len(asked) for name, asked in self.asks.items())

    def data_hash(self) -> str:
        """Of prompts, answers and labels."""
        m = self.material
        rows = [
            (prompt_key(c.prompt), c.better, c.worse, c.writers, c.reference, c.translated) for c in m.cases
        ]
        lists = [(prompt_key(t.prompt), t.answers, t.graded) for t in m.triples]
        return hashlib.sha256(json.dumps([rows, lists, m.own]).encode()).hexdigest()


@dataclass
class Audit:
    """Puts a plan to a judge.

    Args:
        judge: who is asked; it leaves no verdict out for want of mass.
        fingerprint: of the judge as it is used, which the certificate is bound to.
        min_mass: below which a verdict of it counts as unscored.
        folder: of verdicts.jsonl. A killed audit goes on from there.
    """

    judge: Judge
    fingerprint: str
    plan: Plan
    folder: Path
    console: Console
    title: str = "audit of the judge"
    min_mass: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    """Why verdicts could not be read."""
    failures: Counter[str] = field(default_factory=Counter)
    """Why calls failed: they say nothing about the judge."""

    def sheets(self) -> Sheets:
        """All verdicts. Asks for those that are not on disk, a few at a time.

        Raises:
            RunFailed: too many calls failed to measure anything.
        """
        asks, path = self.plan.asks, self.folder / VERDICTS
        known: dict[str, Sequence[Verdict]] = {
            str(row["key"]): _verdicts(row["verdicts"]) for row in read_lines(path)
        }
        total, done = self.plan.calls(), 0
        found: dict[str, Any] = {}
        with Display(self.console, self.title, total) as display:
            for name, asked in asks.items():
                repeats, failed = ASKS[name].repeats, list[Verdict]()
                for first in range(0, len(asked), CHUNK):
                    chunk = asked[first : first + CHUNK]
                    failed += self._ask(chunk, repeats, known, path)
                    _refuse_failed(name, failed, 2 * repeats * len(asked))
                    done += 2 * repeats * len(chunk)
                    display.update(done, name)
                found[name] = sheet(asked, [known[self._key(a, repeats)] for a in asked], self.min_mass)
                self.reasons.update(found[name].reasons)
                self.failures.update(v.reason for v in failed)
        return found

    def _ask(
        self, asked: Sequence[Asked], repeats: int, known: dict[str, Sequence[Verdict]], path: Path
    ) -> list[Verdict]:
        """Fills in the verdicts that are missing, and returns those that failed.

        One that failed in an earlier run is asked for again.
        """
        missing = {key: a for a in asked if not _whole(known.get(key := self._key(a, repeats)))}
        if not missing:
            return []
        judged = self.judge.compare([a.comparison for a in missing.values()], repeats)
        rows = {key: judgement.verdicts for key, judgement in zip(missing, judged, strict=True)}
        append_lines(path, ({"key": key, "verdicts": list(map(_on_disk, row))} for key, row in rows.items()))
        known |= rows
        return [v for row in rows.values() for v in row if v.failed]

    def _key(self, asked: Asked, repeats: int) -> str:
        """Names a comparison by all that decides its verdicts."""
        c = asked.comparison
        asked_of = [self.judge.fingerprint, prompt_key(c.prompt), c.id, c.first, c.second, repeats]
        text = json.dumps([*asked_of, *([c.reference] if c.reference else [])])
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def _refuse_failed(name: str, failed: Sequence[Verdict], needed: int) -> None:
    """An endpoint that does not answer is not a bad judge. Ends the audit once it cannot be measured.

    Args:
        name: of what is asked, in ASKS.
        failed: verdicts whose call failed so far.
        needed: verdicts that it takes in all.
    """
    if len(failed) > FAILED * needed:
        raise RunFailed(
            f"The judge was not measured: {len(failed)} of the {needed} calls for `{name}` failed already, "
            f"and at most {100 * FAILED:g} % may",
            "mend what keeps the judge from answering, then run the same command again: its answers are kept",
            f"The first failure: {failed[0].reason}",
        )


def _whole(row: Sequence[Verdict] | None) -> bool:
    """Whether no verdict of a comparison is missing."""
    return row is not None and all(v.value is not None for v in row)


def _on_disk(v: Verdict) -> tuple[float | None, str, int, float | None, str]:
    return v.value, v.order, v.repeat, v.mass, v.reason


def _verdicts(row: Sequence[Any]) -> list[Verdict]:
    """The inverse of `_on_disk`, for all verdicts on a comparison."""
    return [Verdict(value, order, repeat, mass, reason=reason) for value, order, repeat, mass, reason in row]


def state_of(estimate: Estimate, limit: Limit) -> State:
    """By the interval, never by the value: inside the limit, outside of it, or neither."""
    if estimate.value is None:
        return "not measured"
    if limit.low is None and limit.high is None:
        return "reported"
    if estimate.ci_low is None or estimate.ci_high is None:
        return "inconclusive"
    low = -math.inf if limit.low is None else limit.low
    high = math.inf if limit.high is None else limit.high
    if low <= estimate.ci_low and estimate.ci_high <= high:
        return "pass"
    return "refused" if estimate.ci_high < low or estimate.ci_low > high else "inconclusive"


def measured(probe: Probe, sheets: Sheets) -> dict[str, Any]:
    """One probe as it stands in judge.json."""
    empty = any(not len(sheets[name].clusters) for name in probe.asks)
    estimate = Estimate(None, 0, method="the data has no such rows") if empty else probe.measure(sheets)
    values = None if empty else probe.values(sheets)
    count = 0 if empty else max(int(sheets[name].clusters.max()) for name in probe.asks) + 1
    kept = ("value", "ci_low", "ci_high", "n", "n_unscored", "n_clusters", "method")
    return {
        "title": probe.title,
        **{key: value for key, value in estimate.to_json().items() if key in kept},
        "limit": probe.limit.model_dump(exclude_none=True),
        "state": state_of(estimate, probe.limit),
        "unit": probe.unit,
        "says": probe.says.format(value=shown(estimate.to_json(), probe.unit)),
        "parts": {} if empty else probe.parts(sheets),
        "per_prompt": [] if values is None else values.per_prompt(count),
    }


def verdict_of(metrics: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str], list[str]]:
    """The verdict, the metrics beyond their limit, and those that leave it open.

    A metric that every certificate needs leaves it open where it was not measured, and so does a probe that
    was left out: what nobody looked for is not found.
    """
    failures = [name for name, m in metrics.items() if m["state"] == "refused"]
    needed = [name for name, probe in PROBES.items() if probe.needed]
    unknown = [n for n in needed if metrics.get(n, {"state": "not measured"})["state"] == "not measured"]
    unknown += [name for name in PROBES if name not in metrics and name not in unknown]
    straddling = [name for name, m in metrics.items() if m["state"] == "inconclusive"]
    verdict = "refused" if failures else "inconclusive" if unknown or straddling else "pass"
    return verdict, failures, [*unknown, *straddling]


def certificate(
    audit: Audit,
    judge: Mapping[str, Any],
    data: str,
    days: int = DAYS,
    today: dt.date | None = None,
) -> dict[str, Any]:
    """What judge.json holds.

    Args:
        audit: with its judge and plan.
        judge: name and settings.
        data: the name of the labelled data.
        days: how long it holds.
        today: the day it is made; default: the present one.
    """
    begun = time.monotonic()
    sheets = audit.sheets()
    metrics = {name: measured(PROBES[name], sheets) for name in audit.plan.probes}
    verdict, failures, undecided = verdict_of(metrics)
    made = today or dt.date.today()
    return {
        "schema": SCHEMA,
        "judge": {"fingerprint": audit.fingerprint, **judge},
        "data": data,
        "data_hash": audit.plan.data_hash(),
        "pairs": len(audit.plan.material.cases),
        "verdict": verdict,
        "failures": failures,
        "undecided": undecided,
        "metrics": metrics,
        "unscored_because": dict(audit.reasons.most_common(5)),
        "failed": audit.failures.total(),
        "failed_because": dict(audit.failures.most_common(5)),
        "cost": {"verdicts": audit.plan.calls(), "seconds": round(time.monotonic() - begun, 1)},
        "made": made.isoformat(),
        "expires": (made + dt.timedelta(days=days)).isoformat(),
    }
