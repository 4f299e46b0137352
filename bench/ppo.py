"""PPO end to end: completions/s and peak memory beside Kilter's own GRPO on the same prompts.

TRL 1.16 ships no PPO trainer any more, so there is no peer to run here; the ratio to GRPO says what the critic, the
reference and the second pass cost.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from bench.grpo import run_side, write_prompts
from kilter.models.load import resolve


def main() -> None:
    """Prints a Markdown table."""
    model = resolve("builtin:smollm2-135m")
    print("| precision | method | completions/s | of grpo's | peak memory |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.json"
        write_prompts(model, None, 12, prompts)
        for dtype in ("float32", "bfloat16"):
            found = {
                m: run_side("kilter", prompts, model, "--method", m, "--dtype", dtype, "--beta", b)
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
