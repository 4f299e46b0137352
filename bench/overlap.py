"""Lookahead against taking turns with real arithmetic: learner and engine on Ray, one thread each.

    python -m bench.overlap                                        # the built-in 135M on the support desk
    python -m bench.overlap --model DIR --steps 4 --prompts 2      # a tiny model, to see that it works

It wants a machine on which nothing else computes: on busy cores, both sides fight for them, and nothing is gained.
bench/ahead.py has declared latencies instead, and shows the same on any machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import torch

from bench.lookahead import DATA, Case, Size, spec_of
from kilter.api import BASE
from kilter.data.dataset import DataSpec, load
from kilter.models.resolve import resolve
from kilter.training.apart.placed import connect
from kilter.training.trainer import Trainer

WARM = 2
"""First steps that do not count: they fill what runs ahead."""


def watched(path: Path, times: list[float], ended: threading.Event) -> None:
    """Notes when each line of a file comes, until the run has ended."""
    while not ended.wait(0.01):
        count = path.read_bytes().count(b"\n") if path.is_file() else 0
        times += [time.monotonic()] * (count - len(times))


def measure(model: Path, lookahead: int, size: Size, out: Path) -> list[float]:
    """Seconds from the end of one step to the end of the next."""
    prompts = load(DataSpec.model_validate(DATA), "prompts").train
    spec = spec_of(Case("local", "ray", "decoupled", lookahead, seed=0), size)
    times: list[float] = []
    ended = threading.Event()
    watch = threading.Thread(target=watched, args=(out / "metrics.jsonl", times, ended))
    watch.start()
    try:
        Trainer(spec, model, prompts, [], out, connect=connect).run()
    finally:
        ended.set()
        watch.join()
    return [after - before for before, after in zip(times[WARM:], times[WARM + 1 :], strict=False)]


def main() -> None:
    """Runs both by turns, and prints the median step of each."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, help="folder; default: the built-in model")
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--prompts", type=int, default=4, help="of a step")
    p.add_argument("--samples", type=int, default=4, help="answers to each prompt")
    p.add_argument("--rounds", type=int, default=2)
    args = p.parse_args()
    torch.set_num_threads(1)
    load_before = os.getloadavg()[0]
    size = Size(args.steps, args.prompts, args.samples, 2e-5, 0)
    found: dict[int, list[float]] = {0: [], 1: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            for lookahead, steps in found.items():
                out = Path(folder) / f"{number}-{lookahead}"
                steps += measure(args.model or resolve(BASE), lookahead, size, out)
    in_turn, ahead = (statistics.median(steps) for steps in found.values())
    print(f"load before: {load_before:.1f} on {os.cpu_count()} cores")
    print("| lookahead | s per step, median | times in turn |\n|---|---|---|")
    print(f"| 0 | {in_turn:.2f} | 1.00 |\n| 1 | {ahead:.2f} | {in_turn / ahead:.2f} |")


if __name__ == "__main__":
    main()
