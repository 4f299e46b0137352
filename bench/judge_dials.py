"""Judges with dialled biases through whole audits: how often an interval holds the dial, and the audit names it.

    python -m bench.judge_dials                        # 400 pairs of the support desk, 200 audits of each dial
    python -m bench.judge_dials --audits 20 --json out.json

Each audit asks the judge in both orders and keeps its verdicts on disk, as `kilter audit-judge` does. Audits of one
dial differ by the judge's seed alone. tests/test_judge_audit.py holds the same claim on arrays, without the files.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from kilter.data.worlds.support_desk import SupportDesk
from kilter.evaluation.judge_audit.cases import Case, cases_of
from kilter.evaluation.judge_audit.probes import PROBES, Material
from kilter.evaluation.judge_audit.run import Audit, Plan, measured
from kilter.feedback.judge.dials import DIALS, Dialled, Truth, known


@dataclass(frozen=True, slots=True)
class Dialling:
    """A judge, and what its dial makes of some metrics. named: whether it is beyond the limits."""

    kind: str
    strength: float
    truth: Mapping[str, float]
    named: bool = True

    @property
    def probes(self) -> tuple[str, ...]:
        """Metrics that are measured."""
        return tuple(dict.fromkeys((*self.truth, *self.names)))

    @property
    def names(self) -> tuple[str, ...]:
        """Metrics that must all be refused."""
        return DIALS[self.kind].names if self.named else ()


DIALLED = (
    Dialling("perfect", 1.0, {"consistency": 1, "kappa": 1, "position": 0.5, "unscored": 0}),
    Dialling("position", 0.8, {"position": 0.8, "consistency": 0.32}),
    Dialling("longer", 0.9, {"verbosity": 0.9}),
    Dialling("bullets", 0.8, {"bullets": 0.8}),
    Dialling("random", 1.0, {"position": 0.5, "kappa": 0, "consistency": 0.5}),
    Dialling("injected", 0.7, {"injection": 0.7}),
    Dialling("constant", 1.0, {"ties": 1}),
    Dialling("tie", 1.0, {"ties": 1}),
    Dialling("tie", 0.4, {"ties": 0.4}, named=False),
    Dialling("abstaining", 0.3, {"unscored": 0.3}),
)
"""A tie in both orders of a pair is the same verdict, as two right ones are."""


def truth_of(cases: Sequence[Case]) -> Truth:
    """The better answer of each pair is better."""
    return known({c.id: [(c.better, 2.0), (c.worse, 1.0)] for c in cases})


def audits(dial: Dialling, plan: Plan, truth: Truth, count: int) -> list[dict[str, dict[str, Any]]]:
    """The metrics of each of so many audits, as judge.json has them."""
    quiet, found = Console(file=io.StringIO()), []
    for seed in range(count):
        judge = Dialled(dial.kind, dial.strength, truth, seed)
        with tempfile.TemporaryDirectory() as folder:
            sheets = Audit(judge, judge.fingerprint, plan, Path(folder), quiet).sheets()
        found.append({name: measured(PROBES[name], sheets) for name in dial.probes})
    return found


def row(dial: Dialling, made: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """How often each interval holds the dial, and how often every metric that must name it is refused."""
    names = dial.names
    return {
        "judge": f"{dial.kind} {dial.strength:g}",
        "audits": len(made),
        "named": sum(all(m[n]["state"] == "refused" for n in names) for m in made) if names else None,
        "by": names,
        "covered": {
            name: sum(m[name]["ci_low"] <= value <= m[name]["ci_high"] for m in made)
            for name, value in dial.truth.items()
        },
        "mean": {name: sum(m[name]["value"] for m in made) / len(made) for name in dial.truth},
    }


def main() -> None:
    """Prints a line per metric of each judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--audits", type=int, default=200, help="of each judge")
    parser.add_argument(
        "--probe-limit", type=int, default=100, help="pairs of a probe, as kilter audit-judge has it"
    )
    parser.add_argument("--json", type=Path, help="file of all numbers")
    args = parser.parse_args()

    cases = cases_of(SupportDesk(n=args.pairs).groups("pairs"))
    truth, rows = truth_of(cases), []
    print("| judge | named | metric | dialled | mean | intervals that hold it |\n|---|---|---|---|---|---|")
    for dial in DIALLED:
        plan = Plan(Material(cases), dial.probes, args.probe_limit)
        rows.append(row(dial, audits(dial, plan, truth, args.audits)) | {"pairs": len(cases)})
        told = rows[-1]
        named = (
            "-" if told["named"] is None else f"{told['named']} of {args.audits} ({', '.join(told['by'])})"
        )
        for name, hits in told["covered"].items():
            share = f"{hits} of {args.audits} ({hits / args.audits:.3f})"
            value = told["mean"][name]
            print(
                f"| {told['judge']} | {named} | {name} | {dial.truth[name]:g} | {value:.3f} | {share} |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
