"""Step time of every offline method against dpo: the same pairs, interleaved in one process, so that the machine's moods hit both sides.

Methods over the whole batch pay a second forward once the batch is larger than a micro-batch; --batch-size shows both sides of that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.rows import write_rows
from kilter.batch import Batch, Needs
from kilter.data.collate import collate
from kilter.manifest import versions
from kilter.models.resolve import resolve
from kilter.objectives import build_objective, objectives
from kilter.roles.open import OpenSpec, open_model
from kilter.training.config import TrainSpec
from kilter.training.learner import LocalLearner
from kilter.training.parallel.engine import Engine
from kilter.types import Completion, Encoded, Feedback, Group, Prompt


class ZeroReference:
    """Reference log-probs at hand, as the cache has them after the first epoch."""

    def lookup(self, batch: Batch) -> torch.Tensor:
        """-1 nat per token: the value does not matter to the time."""
        return -batch.mask_BT


def batches(rows: Path, size: int, steps: int) -> list[Batch]:
    """`steps` batches of `size` pairs."""
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    group = Group(Prompt(), (Completion(""),) * 2, (Feedback(1.0), Feedback(0.0)))
    encoded = [
        Encoded(
            group,
            tuple(r["prompt_ids"]),
            (tuple(r["chosen_ids"]), tuple(r["rejected_ids"])),
            ((1,) * len(r["chosen_ids"]), (1,) * len(r["rejected_ids"])),
        )
        for r in found
    ]
    return [collate(encoded[i * size : (i + 1) * size]) for i in range(steps)]


def main() -> None:
    """Prints a Markdown table, slowest first."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", default="builtin:smollm2-135m")
    p.add_argument("--data")
    p.add_argument("--methods", help="comma-separated; default: all on pairs that train a policy")
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    p.add_argument("--batch-size", type=int, default=4)
    p.add_argument("--microbatch", type=int, default=1024)
    p.add_argument("--rounds", type=int, default=4)
    p.add_argument("--max-length", type=int, default=384)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    model = resolve(args.model)
    wanted = (
        args.methods.split(",")
        if args.methods
        else [n for n in objectives.names() if _fits(build_objective(n).needs)]
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        source = write_rows(model, args.data, args.rounds * args.batch_size, args.max_length, rows)
        data = batches(rows, args.batch_size, args.rounds)
    scorer, engine = open_model(OpenSpec(model, trains=True)).scorer, Engine()
    spec = TrainSpec(
        method="dpo",
        learning_rate=1e-7,
        schedule="constant",
        warmup_ratio=0.0,
        dtype=args.dtype,
        tokens_per_microbatch=args.microbatch,
    )
    learner = LocalLearner(scorer, build_objective("dpo").needs, spec, 1, engine, ZeroReference())  # type: ignore[arg-type]

    def step(name: str, batch: Batch) -> float:
        objective = build_objective(name)
        begin = time.perf_counter()
        learner.step(objective.prepare(learner.annotate(batch, objective.needs)), objective)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        learner.running = {}
        return time.perf_counter() - begin

    for name in ("dpo", *wanted):  # the first call of each pays for caches
        step(name, data[0])
    ratios: dict[str, list[float]] = {n: [] for n in wanted if n != "dpo"}
    for n, batch in enumerate(data, 1):
        for name in ratios:
            before, own, after = step("dpo", batch), step(name, batch), step("dpo", batch)
            ratios[name].append(2 * own / (before + after))
            print(f"round {n} of {args.rounds}: {name} {ratios[name][-1]:.2f}", file=sys.stderr, flush=True)
    print(
        f"{args.rounds} rounds of {args.batch_size} pairs of {source}, {args.dtype}, micro-batches of {args.microbatch} tokens; each step between two of dpo\n"
    )
    print("| method | step time / dpo's | range |\n|---|---|---|")
    results: dict[str, Any] = {}
    for name, found in sorted(ratios.items(), key=lambda kv: -statistics.median(kv[1])):
        results[name] = {"ratio": statistics.median(found), "low": min(found), "high": max(found)}
        print(f"| {name} | {statistics.median(found):.2f} | {min(found):.2f} to {max(found):.2f} |")
    if args.json:
        args.json.write_text(
            json.dumps(
                {
                    "machine": platform.platform(),
                    "cores": os.cpu_count(),
                    "versions": versions(),
                    "results": results,
                },
                indent=1,
            )
        )


def _fits(needs: Needs) -> bool:
    return needs.shape == "pairs" and "policy" in needs.models


if __name__ == "__main__":
    main()
