"""DPO pairs/s and peak memory against a peer: A B A B in fresh processes on the same rows, the same loss checked first."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.rows import write_rows
from kilter.manifest import versions
from kilter.models.resolve import resolve

ROOT = Path(__file__).resolve().parents[1]


def run_side(side: str, rows: Path, model: Path, *options: str) -> dict[str, Any]:
    """Runs one side and parses what it prints."""
    command = [sys.executable, "-m", f"bench.side_{side}", str(rows), str(model), *options]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(os.cpu_count())},
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout[done.stdout.index("{") :])


def compare(rows: Path, model: Path, dtype: str, pure: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Medians and ratios of one precision."""
    common = ("--dtype", dtype, "--batch-size", str(args.batch_size), "--steps", str(args.steps))
    runs: dict[str, list[dict[str, Any]]] = {"kilter": [], args.peer: []}
    for _ in range(args.rounds):
        runs["kilter"].append(run_side("kilter", rows, model, *common, "--microbatch", str(args.microbatch)))
        runs[args.peer].append(run_side(args.peer, rows, model, *common, *(("--pure",) if pure else ())))
        mine, theirs = (runs[side][-1]["steps"][0]["loss"] for side in ("kilter", args.peer))
        # In bfloat16 a GPU rounds differently for every shape of a product.
        if abs(mine - theirs) > (1e-3 if dtype == "float32" else 2e-2):
            sys.exit(f"the two sides do not compute the same loss (first step: {mine:.5f} and {theirs:.5f})")
    median = {
        side: {
            k: statistics.median(r[k] for r in found) for k in ("pairs_per_s", "train_pairs_per_s", "peak_mb")
        }
        for side, found in runs.items()
    }
    mine, theirs = median["kilter"], median[args.peer]
    last = max(
        abs(x["loss"] - y["loss"])
        for x, y in zip(runs["kilter"][-1]["steps"], runs[args.peer][-1]["steps"], strict=True)
    )
    return {
        "dtype": dtype + (" weights" if pure else ""),
        "median": median,
        "speed_ratio": mine["pairs_per_s"] / theirs["pairs_per_s"],
        "step_ratio": mine["train_pairs_per_s"] / theirs["train_pairs_per_s"],
        "memory_ratio": mine["peak_mb"] / theirs["peak_mb"],
        "largest_loss_gap": last,
    }


def main() -> None:
    """Prints a Markdown table and writes JSON."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--peer", choices=["trl"], default="trl")
    p.add_argument("--model", default="builtin:smollm2-135m")
    p.add_argument("--data", help="pairs; default HH-RLHF beside the checkout, else the support desk")
    p.add_argument("--dtype", choices=["float32", "bfloat16", "both"], default="both")
    p.add_argument("--batch-size", type=int, default=4)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--max-length", type=int, default=512)
    p.add_argument("--microbatch", type=int, default=1024)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    model = resolve(args.model)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        source = write_rows(model, args.data, args.steps * args.batch_size, args.max_length, rows)
        lengths = [json.loads(line) for line in rows.read_text().splitlines()]
        prompt = statistics.mean(len(r["prompt_ids"]) for r in lengths)
        answer = statistics.mean(len(r[k]) for r in lengths for k in ("chosen_ids", "rejected_ids"))
        print(
            f"{len(lengths)} pairs of {source}, mean prompt {prompt:.0f} tokens, mean answer {answer:.0f}, batch {args.batch_size}, {args.rounds} rounds A B\n"
        )
        cases = [("float32", False)] if args.dtype != "bfloat16" else []
        cases += [("bfloat16", False), ("bfloat16", True)] if args.dtype != "float32" else []
        results = []
        print(
            f"| precision | kilter pairs/s | {args.peer} pairs/s | speed | steps alone | kilter peak | {args.peer} peak | memory | largest loss gap |\n|---|---|---|---|---|---|---|---|---|"
        )
        for dtype, pure in cases:
            r = compare(rows, model, dtype, pure, args)
            results.append(r)
            a, b = r["median"]["kilter"], r["median"][args.peer]
            print(
                f"| {r['dtype']} | {a['pairs_per_s']:.2f} | {b['pairs_per_s']:.2f} | **{r['speed_ratio']:.2f}x** | {r['step_ratio']:.2f}x | {a['peak_mb'] / 1024:.1f} GB | {b['peak_mb'] / 1024:.1f} GB | **{r['memory_ratio']:.2f}x** | {r['largest_loss_gap']:.1e} |",
                flush=True,
            )
    print("\npairs/s include the reference pass on both sides; steps alone exclude it")
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


if __name__ == "__main__":
    main()
