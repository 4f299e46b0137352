"""Another commit against this checkout, Kilter against itself: bench.dpo, bench.grpo and bench.sample, alternating.

Both sides get the same rows, in fresh processes, A B B A A B ...; a ratio is taken pair by pair, so that a machine
whose speed drifts does not decide. Example:

    python -m bench.versus 949c5d3 --case dpo --case sample --rounds 6
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.grpo import write_prompts
from bench.rows import write_rows
from kilter.models.resolve import resolve

ROOT = Path(__file__).resolve().parents[1]

RATE = {"dpo": "train_pairs_per_s", "grpo": "completions_per_s", "sample": "tokens_per_s"}


def write_inputs(model: Path, folder: Path) -> dict[str, list[str]]:
    """Writes every case's rows once; returns the arguments of its side."""
    write_rows(model, None, 32, 512, folder / "pairs.jsonl")
    write_prompts(model, None, 12, folder / "chats.json")
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    (folder / "prompts.json").write_text(json.dumps([r["prompt_ids"] for r in rows[:8]]))
    side_rl = ["bench.side_rl", "kilter", str(folder / "chats.json"), str(model), "--microbatch", "2600"]
    return {
        "dpo": ["bench.side_kilter", str(folder / "pairs.jsonl"), str(model)],
        "grpo": side_rl,
        "sample": ["bench.side_sample", "kilter", str(folder / "prompts.json"), str(model)],
    }


def run(tree: Path, command: list[str]) -> dict[str, Any]:
    """One side in a process that imports `tree`'s Kilter and nothing of this one."""
    threads = {"OMP_NUM_THREADS": str(os.cpu_count()), "PYTHONPATH": str(tree / "src")}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tree, env=os.environ | threads, capture_output=True, text=True
    )
    if "{" not in done.stdout:  # a sampler's side kills its own process group when it is done
        sys.exit(f"{' '.join(command)} in {tree} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def compare(case: str, command: list[str], trees: tuple[Path, Path], rounds: int) -> None:
    """Prints one row of the table: medians of both sides and of their ratios."""
    rates: tuple[list[float], list[float]] = ([], [])
    peaks: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        # The order turns in every round: what warms or throttles the machine hits both sides alike.
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            found = run(trees[side], command)
            rates[side].append(found[RATE[case]])
            peaks[side].append(found["peak_mb"])
        print(
            f"{case} {turn + 1}/{rounds}: {rates[0][-1]:.3f} {rates[1][-1]:.3f}", file=sys.stderr, flush=True
        )

    ratios = [now / before for before, now in zip(*rates, strict=True)]
    before, now = (statistics.median(r) for r in rates)
    memory = statistics.median(peaks[1]) / statistics.median(peaks[0])
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(
        f"| {case} | {RATE[case]} | {before:.2f} | {now:.2f} | **{statistics.median(ratios):.3f}x** | {spread} | {memory:.3f}x |",
        flush=True,
    )


def main() -> None:
    """Prints a Markdown table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("commit")
    p.add_argument("--case", action="append", choices=list(RATE))
    p.add_argument("--model", default="builtin:smollm2-135m")
    p.add_argument("--rounds", type=int, default=4)
    args = p.parse_args()
    print(f"{args.rounds} rounds; a ratio over 1 says that this checkout is faster than {args.commit}\n")
    print(
        f"| case | rate | {args.commit} | this checkout | ratio | from to | memory |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory(prefix="kilter-versus-") as folder:
        tree = Path(folder).resolve() / "tree"
        inputs = write_inputs(resolve(args.model), Path(folder))
        add = ["git", "worktree", "add", "--quiet", "--detach", str(tree), args.commit]
        subprocess.run(add, cwd=ROOT, check=True)
        try:
            for case in args.case or RATE:
                compare(case, inputs[case], (tree, ROOT), args.rounds)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
