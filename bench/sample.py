"""Sampled tokens/s against transformers' generate and vLLM: the same prompts, the same number of tokens, A B C A B C."""

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

from bench.rows import write_rows
from kilter.manifest import versions
from kilter.models.resolve import resolve

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Prints a Markdown table and writes JSON."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--peer", default="hf", help="comma-separated: hf, vllm (needs `make setup-vllm`)")
    p.add_argument("--vllm-python", default=str(ROOT / ".venv-vllm" / "bin" / "python"))
    p.add_argument("--model", default="builtin:smollm2-135m")
    p.add_argument("--data", help="prompts; default HH-RLHF beside the checkout, else the support desk")
    p.add_argument("--dtype", choices=["float32", "bfloat16", "both"], default="both")
    p.add_argument("--prompts", type=int, default=8)
    p.add_argument("--k", type=int, default=8)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    model = resolve(args.model)
    engines = ["kilter", *[e for e in args.peer.split(",") if e]]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = []
    with tempfile.TemporaryDirectory() as folder:
        rows, prompts = Path(folder) / "rows.jsonl", Path(folder) / "prompts.json"
        source = write_rows(model, args.data, args.prompts, 512, rows)
        ids = [json.loads(line)["prompt_ids"] for line in rows.read_text().splitlines()]
        prompts.write_text(json.dumps(ids))
        print(
            f"{len(ids)} prompts of {source} (mean {statistics.mean(map(len, ids)):.0f} tokens) x {args.k} samples x {args.tokens} tokens, "
            f"{device}, {args.rounds} rounds {' '.join(engines)}\n"
        )
        print("| precision | engine | tokens/s | kilter is | peak memory |\n|---|---|---|---|---|")
        for dtype in ["float32", "bfloat16"] if args.dtype == "both" else [args.dtype]:
            found: dict[str, list[dict]] = {e: [] for e in engines}
            for _ in range(args.rounds):
                for engine in engines:
                    python = args.vllm_python if engine == "vllm" else sys.executable
                    command = [
                        python,
                        "-m",
                        "bench.side_sample",
                        engine,
                        str(prompts),
                        str(model),
                        "--dtype",
                        dtype,
                        "--k",
                        str(args.k),
                        "--tokens",
                        str(args.tokens),
                        "--device",
                        device,
                    ]
                    done = subprocess.run(
                        command,
                        capture_output=True,
                        text=True,
                        env=os.environ | {"OMP_NUM_THREADS": str(os.cpu_count())},
                    )
                    if "{" not in done.stdout:  # the side kills its own process group when it is done
                        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
                    found[engine].append(json.loads(done.stdout))
            rate = {e: statistics.median(r["tokens_per_s"] for r in found[e]) for e in engines}
            for e in engines:
                ratio = "" if e == "kilter" else f"**{rate['kilter'] / rate[e]:.2f}x**"
                print(
                    f"| {dtype} | {e} | {rate[e]:.0f} | {ratio} | {max(r['peak_mb'] for r in found[e]) / 1024:.1f} GB |",
                    flush=True,
                )
            results.append({"dtype": dtype, "tokens_per_s": rate, "runs": found})
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
