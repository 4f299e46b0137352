"""DPO parity with TRL, float32: loss and both log-prob metrics at each of the first 8 optimizer steps on the same rows."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench.dpo import run_side
from bench.rows import write_rows
from kilter.models.resolve import resolve

KEYS = ("loss", "logps/chosen", "logps/rejected")


def main() -> None:
    """Prints both sides step by step; exits 1 when any difference exceeds 1e-3."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", default="builtin:smollm2-135m")
    p.add_argument("--data")
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--batch-size", type=int, default=4)
    p.add_argument("--lr", type=float, default=1e-6)
    args = p.parse_args()
    model = resolve(args.model)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        write_rows(model, args.data, args.steps * args.batch_size, 512, rows)
        options = ("--batch-size", str(args.batch_size), "--steps", str(args.steps), "--lr", str(args.lr))
        mine, theirs = (run_side(side, rows, model, *options)["steps"] for side in ("kilter", "trl"))
    print(
        "| step | "
        + " | ".join(f"{k} kilter | {k} trl | difference" for k in KEYS)
        + " |\n|"
        + "---|" * (1 + 3 * len(KEYS))
    )
    worst = 0.0
    for i, (a, b) in enumerate(zip(mine, theirs, strict=True), start=1):
        cells = []
        for key in KEYS:
            gap = abs(a[key] - b[key])
            worst = max(worst, gap)
            cells.append(f"{a[key]:.5f} | {b[key]:.5f} | {gap:.1e}")
        print(f"| {i} | " + " | ".join(cells) + " |")
    print(f"\nlargest difference {worst:.1e}: {'within' if worst <= 1e-3 else 'BEYOND'} 1e-3")
    sys.exit(0 if worst <= 1e-3 else 1)


if __name__ == "__main__":
    main()
