"""Completions/s and peak memory of online training, end to end, against TRL: the same prompts, the same token counts, A B A B."""

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

import torch

from bench.rows import rows_of
from kilter.manifest import versions
from kilter.models.resolve import resolve
from kilter.roles.open import OpenSpec, open_encoder

ROOT = Path(__file__).resolve().parents[1]


def write_prompts(model: Path, data: str | None, count: int, path: Path) -> tuple[str, float]:
    """Chat prompts that start with a user turn and fit 256 tokens; returns (source, mean tokens)."""
    source, groups = rows_of(data, 4 * count, "prompts")
    encoder = open_encoder(OpenSpec(model, max_length=1024))
    found, sizes = [], []
    for group in groups:
        size = len(encoder.prompt(group.prompt))
        if size <= 256 and group.prompt.messages:
            found.append([dict(m) for m in group.prompt.messages])
            sizes.append(size)
        if len(found) == count:
            break
    path.write_text(json.dumps(found))
    return Path(source).name, statistics.mean(sizes)


def run_side(side: str, prompts: Path, model: Path, *options: str) -> dict:
    """Runs one side and parses what it prints."""
    command = [sys.executable, "-m", "bench.side_rl", side, str(prompts), str(model), *options]
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


def add_sizes(p: argparse.ArgumentParser) -> None:
    """Options of every bench that answers prompts and learns from the answers."""
    p.add_argument("--model", default="builtin:smollm2-135m")
    p.add_argument("--data", help="prompts; default HH-RLHF beside the checkout, else the support desk")
    p.add_argument("--dtype", choices=["float32", "bfloat16", "both"], default="both")
    p.add_argument("--k", type=int, default=8)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--batch-size", type=int, default=4)
    p.add_argument("--steps", type=int, default=2)


def main(method: str = "grpo", peers: tuple[str, ...] = ("trl",)) -> None:
    """Prints a Markdown table and writes JSON."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--method", default=method, help="grpo or rloo against TRL")
    p.add_argument("--peer", default=",".join(peers))
    add_sizes(p)
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--beta", type=float, default=0.0)
    p.add_argument(
        "--microbatch",
        type=int,
        default=2600,
        help="Kilter's tokens per micro-batch: four groups of 8 x 64 and their prompts",
    )
    p.add_argument(
        "--accumulate", type=int, default=1, help="the peer's gradient accumulation: less memory, same work"
    )
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    model = resolve(args.model)
    sides = ["kilter", *[x for x in args.peer.split(",") if x]]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = []
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.json"
        source, tokens = write_prompts(model, args.data, args.batch_size * (args.steps + 1), prompts)
        print(
            f"{args.method}: {args.batch_size} prompts of {source} (mean {tokens:.0f} tokens) x {args.k} x {args.tokens} tokens a step, {args.steps} timed steps, {args.rounds} rounds, {device}\n"
        )
        print(
            "| precision | side | completions/s | kilter is | peak memory | of the peer's |\n|---|---|---|---|---|---|"
        )
        for dtype in ["float32", "bfloat16"] if args.dtype == "both" else [args.dtype]:
            found: dict[str, list[dict]] = {s: [] for s in sides}
            for _ in range(args.rounds):
                for side in sides:
                    options = [
                        "--method",
                        args.method,
                        "--dtype",
                        dtype,
                        "--k",
                        str(args.k),
                        "--tokens",
                        str(args.tokens),
                        "--batch-size",
                        str(args.batch_size),
                        "--steps",
                        str(args.steps),
                        "--beta",
                        str(args.beta),
                        "--accumulate",
                        str(args.accumulate),
                        "--microbatch",
                        str(args.microbatch),
                        "--device",
                        device,
                    ]
                    found[side].append(run_side(side, prompts, model, *options))
                    if found[side][-1]["mean_length"] != args.tokens:
                        sys.exit(
                            f"{side} made completions of {found[side][-1]['mean_length']} tokens instead of {args.tokens}"
                        )
            rate = {s: statistics.median(r["completions_per_s"] for r in found[s]) for s in sides}
            peak = {s: max(r["peak_mb"] for r in found[s]) for s in sides}
            for s in sides:
                ratio = (
                    ("", "")
                    if s == "kilter"
                    else (f"**{rate['kilter'] / rate[s]:.2f}x**", f"**{peak['kilter'] / peak[s]:.2f}x**")
                )
                print(
                    f"| {dtype} | {s} | {rate[s]:.2f} | {ratio[0]} | {peak[s] / 1024:.1f} GB | {ratio[1]} |",
                    flush=True,
                )
            results.append({"dtype": dtype, "completions_per_s": rate, "peak_mb": peak, "runs": found})
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
