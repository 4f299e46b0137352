"""GRPO on the support desk with rollouts apart: what is learned at lookahead 0, 1 and 4.

    python -m bench.lookahead runs/lookahead                         # workers in this process, three seeds
    python -m bench.lookahead runs/lookahead --seeds 0 --backend ray  # the same through a Ray of its own
    python -m bench.lookahead runs/lookahead --sampler vllm --backend ray  # from .venv-vllm

One SFT start is trained once. Each run begins there, and its model answers the held-out prompts at temperature 1.
A run that is there already is not made again. The table is over all runs that are there.

Workers in this process take calls in their order and without delay. An answer is then as old as the lookahead
allows, which is the hardest case for the learner.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from scipy import stats

import kilter
from kilter.artifacts import write_json
from kilter.cluster.backend import Backend
from kilter.cluster.inline import InlineBackend
from kilter.data import store
from kilter.data.dataset import DataSpec, load
from kilter.launch.spec import ClusterSpec
from kilter.statistics import Estimate, paired_difference
from kilter.training.apart.placed import connect
from kilter.training.config import TrainSpec
from kilter.training.trainer import Trainer

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "grpo-support-desk.yaml"

DATA = {
    "path": "builtin:support-desk",
    "heldout": 0.4,
    "seed": 11,
    "world": {"n": 600, "level": 0, "demo_skill": 0.7},
}
"""The desk of the runs in docs/log: the recipe's own may grow."""

BACKENDS: dict[str, Callable[[ClusterSpec], Backend]] = {
    "inline": lambda spec: InlineBackend(),
    "ray": connect,
}

LAST = 10
"""Steps at the end whose reward is averaged."""

LOGGED = ("reward", "async/staleness_mean", "async/staleness_max", "async/effective_sample_size")
"""Metrics of a step that are kept."""


@dataclass(frozen=True)
class Case:
    """One run."""

    sampler: str
    backend: str
    correction: str
    lookahead: int
    seed: int

    @property
    def name(self) -> str:
        """Its folder, where result.json says what came out."""
        return f"{self.sampler}-{self.backend}-{self.correction}-{self.lookahead}-seed{self.seed}"

    @property
    def arm(self) -> tuple[str, str, int]:
        """What runs of several seeds share. Lookahead 0 corrects nothing."""
        return self.sampler, self.correction if self.lookahead else "", self.lookahead


@dataclass(frozen=True)
class Size:
    """How large a run is.

    Args:
        steps: of GRPO.
        prompts: of a step.
        samples: answers to each prompt.
        rate: learning rate.
        limit: held-out prompts that are asked.
    """

    steps: int
    prompts: int
    samples: int
    rate: float
    limit: int


def stages() -> tuple[dict[str, Any], dict[str, Any]]:
    """(SFT, GRPO) of the recipe."""
    raw = yaml.safe_load(RECIPE.read_text())["stages"]
    return raw["sft"]["train"], raw["grpo"]["train"]


def start(out: Path) -> Path:
    """The SFT start that all runs share; trained once."""
    sft, _ = stages()
    fields = {k: v for k, v in sft.items() if k not in ("method", "data")}
    return kilter.train(kilter.api.BASE, DATA, sft["method"], out / "sft", **fields).model


def spec_of(case: Case, size: Size) -> TrainSpec:
    """The recipe's GRPO with rollouts apart."""
    _, grpo = stages()
    cluster = {
        "lookahead": case.lookahead,
        "correction": case.correction if case.lookahead else "decoupled",
        "rollout": {"place": "apart", "cores": 1},
        "learner": {"cores": 1},
    }
    changes = {
        "sampler": grpo["sampler"] | {"samples": size.samples, "name": case.sampler},
        "monitors": {"enabled": False},
        "batch_size": size.prompts,
        "learning_rate": size.rate,
        "max_steps": size.steps,
        "seed": case.seed,
        "save_every": 10_000,
        "cluster": cluster,
    }
    return TrainSpec.model_validate({k: v for k, v in grpo.items() if k != "from"} | changes)


def gold(model: Path, out: Path, limit: int) -> dict[str, float]:
    """Gold score of one answer to each held-out prompt, by the prompt's id."""
    kilter.evaluate(
        {"model": model}, DATA, out, metrics=["gold"], limit=limit, max_new_tokens=32, max_length=160
    )
    return {g.prompt.id: g.feedback[0].score for g in store.read(out / "groups.jsonl")}  # type: ignore[misc]


def run(case: Case, size: Size, out: Path) -> None:
    """Trains and evaluates one case. The model is removed: its answers are what is kept."""
    folder, begin, cpu = out / case.name, time.monotonic(), time.process_time()
    prompts = load(DataSpec.model_validate(DATA), "prompts").train
    spec = spec_of(case, size)
    trainer = Trainer(spec, out / "sft" / "model", prompts, [], folder, connect=BACKENDS[case.backend])
    result = trainer.run()
    seconds, cpu = time.monotonic() - begin, time.process_time() - cpu
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scores = gold(result.model, folder / "eval", size.limit)
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    logged = {name: [row[name] for row in rows if name in row] for name in LOGGED}
    found = asdict(case) | {
        "size": asdict(size),
        "seconds": seconds,
        "cpu": cpu,
        "logged": logged,
        "gold": scores,
    }
    write_json(folder / "result.json", found)


def measured(out: Path) -> list[dict[str, Any]]:
    """Every run that is there."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))]


def _twins() -> dict[str, str]:
    """The twins of each held-out prompt: they ask about the same facts, and stand together in an interval."""
    groups = load(DataSpec.model_validate(DATA), "prompts").heldout
    return {g.prompt.id: str(g.prompt.metadata.get("twins") or g.prompt.id) for g in groups}


def difference(arm: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> Estimate:
    """Gold of one arm over another's, each prompt's mean over the seeds first. Seeds stand as they are."""
    twins = _twins()
    prompts = [p for p in arm[0]["gold"] if p in base[0]["gold"]]
    mine, theirs = ([statistics.mean(r["gold"][p] for r in runs) for p in prompts] for runs in (arm, base))
    return paired_difference(mine, theirs, clusters=[twins[p] for p in prompts])


def over_seeds(arm: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> str:
    """The same difference with seeds as what is drawn: Student's t over those that both arms have."""
    means = [{r["seed"]: statistics.mean(r["gold"].values()) for r in runs} for runs in (arm, base)]
    gaps = [means[0][seed] - means[1][seed] for seed in sorted(means[0].keys() & means[1].keys())]
    if len(gaps) < 2:
        return "-"
    reach = stats.t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    middle = statistics.mean(gaps)
    return f"{middle:+.3f} [{middle - reach:.3f}, {middle + reach:.3f}]"


def shown(found: Estimate) -> str:
    """Value and interval."""
    return f"{found.value:+.3f} [{found.ci_low:.3f}, {found.ci_high:.3f}]"


def report(out: Path) -> None:
    """One row per arm."""
    base = json.loads((out / "start.json").read_text())
    arms: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in measured(out):
        arms[Case(**{f.name: row[f.name] for f in fields(Case)}).arm].append(row)
    asked = {p for runs in arms.values() for r in runs for p in r["gold"]}
    known = [score for prompt, score in base["gold"].items() if prompt in asked]
    print(f"start: gold {statistics.mean(known):.3f} of {len(known)} held-out prompts")
    head = "seeds, gold of each | gain over the start | over lookahead 0 | the same over seeds"
    print(f"| sampler | correction | lookahead | {head} | staleness | ESS | reward at the end | s |")
    print("|" + "---|" * 11)
    for (sampler, correction, lookahead), runs in sorted(arms.items()):
        turn = arms.get((sampler, "", 0), [])
        # Both sides hold the same seeds, so that what differs is the lookahead.
        both = {r["seed"] for r in runs} & {r["seed"] for r in turn}
        mine, theirs = ([r for r in a if r["seed"] in both] for a in (runs, turn))
        against = (
            (shown(difference(mine, theirs)), over_seeds(mine, theirs)) if lookahead and both else ("", "")
        )
        seeds = ", ".join(f"{r['seed']}: {statistics.mean(r['gold'].values()):.2f}" for r in runs)
        cells = [
            *(sampler, correction, str(lookahead), seeds, shown(difference(runs, [base])), *against),
            *(_mean(runs, "async/staleness_mean"), _mean(runs, "async/effective_sample_size")),
            f"{statistics.mean(v for r in runs for v in r['logged']['reward'][-LAST:]):.2f}",
            f"{statistics.mean(r['seconds'] for r in runs):.0f}",
        ]
        print("| " + " | ".join(cells) + " |")


def _mean(runs: Sequence[dict[str, Any]], name: str) -> str:
    values = [v for r in runs for v in r["logged"][name]]
    return f"{statistics.mean(values):.2f}" if values else ""


def main() -> None:
    """Makes the runs that are missing, one process each, and prints the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path)
    p.add_argument("--sampler", choices=["local", "vllm"], default="local")
    p.add_argument("--backend", choices=list(BACKENDS), default="inline")
    p.add_argument("--correction", choices=["decoupled", "anchored"], default="decoupled")
    p.add_argument("--lookahead", default="0,1,4")
    p.add_argument("--seeds", default="0,1,2")
    p.add_argument("--steps", type=int, default=40)
    p.add_argument("--prompts", type=int, default=4, help="of a step")
    p.add_argument("--samples", type=int, default=6, help="answers to each prompt")
    p.add_argument("--rate", type=float, default=2e-5, help="learning rate")
    p.add_argument("--limit", type=int, default=120, help="held-out prompts that are asked")
    p.add_argument("--one", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.one:
        one = json.loads(args.one)
        run(Case(**one["case"]), Size(**one["size"]), args.out)
        return

    size = Size(args.steps, args.prompts, args.samples, args.rate, args.limit)
    # The start comes first: all runs begin there, and are compared with it.
    model = start(args.out)
    if not (args.out / "start.json").is_file():
        write_json(args.out / "start.json", {"gold": gold(model, args.out / "eval", args.limit)})
    seeds, aheads = ([int(n) for n in words.split(",")] for words in (args.seeds, args.lookahead))
    cases = [Case(args.sampler, args.backend, args.correction, n, seed) for seed in seeds for n in aheads]
    missing = [c for c in cases if not (args.out / c.name / "result.json").is_file()]
    for number, case in enumerate(missing, 1):
        print(f"{time.strftime('%H:%M:%S')} run {number} of {len(missing)}: {case.name}", flush=True)
        one = json.dumps({"case": asdict(case), "size": asdict(size)})
        subprocess.run([sys.executable, "-m", "bench.lookahead", str(args.out), "--one", one], check=True)
    report(args.out)


if __name__ == "__main__":
    main()
