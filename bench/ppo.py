"""PPO end to end: completions/s and peak memory beside Kilter's own GRPO on the same prompts.

TRL 1.16 ships no PPO trainer any more, so there is no peer to run here; the ratio to GRPO says what the critic, the
reference and the second pass cost.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from bench.grpo import add_sizes, run_side, write_prompts
from kilter.models.resolve import resolve


def main() -> None:
    """Prints a Markdown table."""
    p = argparse.ArgumentParser(description=__doc__)
    add_sizes(p)
    p.add_argument("--microbatch", type=int, default=1024)
    args = p.parse_args()
    model = resolve(args.model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = ("--k", args.k, "--tokens", args.tokens, "--batch-size", args.batch_size, "--steps", args.steps)
    common = (*map(str, sizes), "--microbatch", str(args.microbatch), "--device", device)
    print("| precision | method | completions/s | of grpo's | peak memory |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.json"
        write_prompts(model, args.data, args.batch_size * (args.steps + 1), prompts)
        for dtype in ("float32", "bfloat16") if args.dtype == "both" else (args.dtype,):
            found = {
                m: run_side("kilter", prompts, model, "--method", m, "--dtype", dtype, "--beta", b, *common)
                for m, b in (("grpo", "0"), ("ppo", "0.05"))
            }
            for m, r in found.items():
                share = r["completions_per_s"] / found["grpo"]["completions_per_s"]
                print(
                    f"| {dtype} | {m} | {r['completions_per_s']:.2f} | {share:.2f}x | {r['peak_mb'] / 1024:.1f} GB |",
                    flush=True,
                )
            print(json.dumps({m: r["seconds"] for m, r in found.items()}))


if __name__ == "__main__":
    main()
