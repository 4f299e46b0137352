"""Seconds of a training step against its tokens: linear if the ratio per token stays where it was. DPO, real pairs, one process."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from bench.methods import ZeroReference, batches
from bench.rows import write_rows
from kilter.models.resolve import resolve
from kilter.objectives import build_objective
from kilter.roles.open import OpenSpec, open_model
from kilter.training.config import TrainSpec
from kilter.training.learner import LocalLearner
from kilter.training.parallel.engine import Engine


def main() -> None:
    """Prints a Markdown table."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", default="builtin:smollm2-135m")
    p.add_argument("--data")
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    p.add_argument("--pairs", default="2,4,8,16", help="batch sizes; each is a prefix of the next")
    p.add_argument("--microbatch", type=int, default=1024)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--max-length", type=int, default=384)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    model, sizes = resolve(args.model), [int(x) for x in args.pairs.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        source = write_rows(model, args.data, max(sizes), args.max_length, rows)
        data = {size: batches(rows, size, 1)[0] for size in sizes}
    scorer = open_model(OpenSpec(model, trains=True)).scorer
    engine, objective = Engine(), build_objective("dpo")
    spec = TrainSpec(
        method="dpo",
        learning_rate=1e-7,
        schedule="constant",
        warmup_ratio=0.0,
        dtype=args.dtype,
        tokens_per_microbatch=args.microbatch,
    )
    learner = LocalLearner(scorer, objective.needs, spec, 1, engine, ZeroReference())  # type: ignore[arg-type]
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for n in range(args.rounds + 1):
        for size in sizes:
            batch = objective.prepare(learner.annotate(data[size], objective.needs))
            begin = time.perf_counter()
            learner.step(batch, objective)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if n:  # the first round pays for caches
                seconds[size].append(time.perf_counter() - begin)
    tokens = {size: int(data[size].mask_BT.sum()) + sum(map(len, data[size].prompts_N)) for size in sizes}
    per_token = {size: statistics.median(seconds[size]) / tokens[size] for size in sizes}
    print(
        f"pairs of {source}, {args.dtype}, micro-batches of {args.microbatch} tokens, median of {args.rounds}\n"
    )
    print("| pairs | tokens | time per token, of the largest batch's |\n|---|---|---|")
    for size in sizes:
        print(f"| {size} | {tokens[size]} | {per_token[size] / per_token[sizes[-1]]:.2f} |")
    if args.json:
        args.json.write_text(
            json.dumps(
                {
                    "machine": platform.platform(),
                    "torch": torch.__version__,
                    "tokens": tokens,
                    "seconds": seconds,
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
