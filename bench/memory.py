"""Peak memory against vocabulary, tokens and completions per prompt, on a CPU.

Every figure comes from a process of its own. The head: forward and backward of log-probs, beyond hidden states, output matrix
and their gradients, the fused head beside plain log_softmax. The step: peak of the whole process in two GRPO updates of a small
random model, micro-batches bounded by tokens.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from kilter.models.logprobs import Head, plain_token_logps, token_logps

WIDTH = 256


def resident_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (highest so far) of this process."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def head(tokens: int, vocabulary: int, plain: bool) -> float:
    """MB beyond hidden states, W and their gradients."""
    hidden, weight = (
        torch.empty(tokens, WIDTH).normal_().requires_grad_(),
        torch.nn.Parameter(torch.empty(vocabulary, WIDTH).normal_(0, 0.02)),
    )
    targets = torch.randint(0, vocabulary, (tokens,))
    before = resident_mb("VmRSS")
    logps = (
        plain_token_logps(hidden, Head(weight), targets)
        if plain
        else token_logps(hidden, Head(weight), targets)[0]
    )
    logps.sum().backward()
    return resident_mb("VmHWM") - before - 4 * WIDTH * (vocabulary + tokens) / 2**20


def step(completions: int, rows: int, microbatch: int) -> float:
    """Peak MB of two GRPO updates over `rows` completions of 64 tokens, `completions` to a prompt of 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from kilter.data.collate import collate
    from kilter.models.forward import Scorer
    from kilter.objectives import build_objective
    from kilter.training.config import TrainSpec
    from kilter.training.learner import LocalLearner
    from kilter.training.parallel.engine import Engine
    from kilter.types import Completion, Encoded, Feedback, Group, Prompt

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32768,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    spec = TrainSpec.model_validate(
        {"method": "grpo", "prompts": "$p", "tokens_per_microbatch": microbatch, "learning_rate": 1e-6}
    )
    objective = build_objective("grpo")
    encoded = []
    for _ in range(rows // completions):
        ids = [tuple(torch.randint(5, 30000, (64,)).tolist()) for _ in range(completions)]
        answers = tuple(
            Completion("", token_ids=i, mask=(1,) * 64, sampling_logps=(-10.0,) * 64, finish_reason="length")
            for i in ids
        )
        group = Group(Prompt(), answers, tuple(Feedback(float(torch.rand(()))) for _ in ids))
        encoded.append(
            Encoded(
                group, tuple(torch.randint(5, 30000, (64,)).tolist()), tuple(ids), ((1,) * 64,) * completions
            )
        )
    learner = LocalLearner(Scorer(LlamaForCausalLM(config)), objective.needs, spec, 2, Engine())
    batch = objective.prepare(learner.annotate(collate(encoded), objective.needs))
    for _ in range(2):
        learner.step(batch, objective)
    return resident_mb("VmHWM")


def child(*what: Any) -> float:
    """One figure from a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory", "--one", *map(str, what)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return float(done.stdout.split()[-1])


def main() -> None:
    """Prints three Markdown tables."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    p.add_argument("--vocabularies", default="16384,65536,131072,262144")
    p.add_argument("--tokens", default="256,1024,4096")
    p.add_argument("--completions", default="2,8,32,128")
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    if args.one:
        kind, *numbers = args.one
        print({"head": head, "step": step}[kind](*map(int, numbers)))
        return
    results: dict[str, dict[str, float]] = {}

    def table(title: str, corner: str, rows: list[int], columns: list[int], figure: Any) -> None:
        print(
            f"{title}\n\n| {corner} | "
            + " | ".join(map(str, columns))
            + " |\n|---"
            + "|---" * len(columns)
            + "|"
        )
        for row in rows:
            found = {column: figure(row, column) for column in columns}
            results.setdefault(title, {}).update({f"{row}, {column}": mb for column, mb in found.items()})
            print(f"| {row} | " + " | ".join(f"{mb:.0f}" for mb in found.values()) + " |", flush=True)
        print()

    vocabularies, tokens = ([int(x) for x in text.split(",")] for text in (args.vocabularies, args.tokens))
    table("Fused head, MB", "tokens / vocabulary", tokens, vocabularies, lambda t, v: child("head", t, v, 0))
    table(
        "Plain log_softmax, MB",
        "tokens / vocabulary",
        tokens[:2],
        vocabularies,
        lambda t, v: child("head", t, v, 1),
    )
    completions = [int(x) for x in args.completions.split(",")]
    table(
        "A GRPO step of 128 completions, whole process, MB",
        "micro-batch tokens / completions per prompt",
        [1024, 4096],
        completions,
        lambda m, k: child("step", k, 128, m),
    )
    if args.json:
        args.json.write_text(
            json.dumps(
                {"machine": platform.platform(), "torch": torch.__version__, "results": results}, indent=1
            )
        )


if __name__ == "__main__":
    main()
