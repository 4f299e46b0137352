"""Judging desk pairs in both orders: Kilter's shared beginnings against a plain loop over `generate`.

    python -m bench.judge --pairs 60          # three minutes on one core
    python -m bench.judge --pairs 1000

Both ask the same questions of builtin:smollm2-135m in float32, and read the probabilities of A and B off the
first token. The loop asks one question at a time. The greatest difference of the two p is printed as well.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from kilter.data.dataset import DataSpec, load
from kilter.feedback.context import Context
from kilter.feedback.judge.build import build
from kilter.feedback.judge.prompts import Asker
from kilter.feedback.judge.protocol import ORDERS
from kilter.feedback.judge.spec import JudgeSpec
from kilter.feedback.judge.verdict import Comparison
from kilter.models.load import load_tokenizer, resolve
from kilter.sampling.choices import SPACES

MODEL = "builtin:smollm2-135m"


def desk_pairs(count: int) -> list[Comparison]:
    """Pairs of the support desk, chosen and rejected in turn as the first answer."""
    data = load(DataSpec(path="builtin:support-desk", heldout=0.0), "pairs", "desk").train
    rows = [data[n % len(data)] for n in range(count)]
    found = []
    for n, g in enumerate(rows):
        first, second = (c.text for c in (g.completions if n % 2 else g.completions[::-1]))
        found.append(Comparison(g.prompt, first, second, str(n)))
    return found


def by_generate(pairs: list[Comparison]) -> tuple[list[float], float]:
    """p of each pair and seconds, one call of `generate` per question."""
    from transformers import AutoModelForCausalLM

    folder = resolve(MODEL)
    tokenizer = load_tokenizer(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    # "A" and " A" are one verdict; what is more than one token is not asked about.
    texts = [(n, space + o) for n, o in enumerate("AB") for space in ("", *SPACES)]
    tokens = [(n, tokenizer(t, add_special_tokens=False)["input_ids"]) for n, t in texts]
    options = [[ids[0] for own, ids in tokens if own == n and len(ids) == 1] for n in range(2)]
    asker, found, begin = Asker("pairwise", "logprob"), [], time.perf_counter()
    for pair in pairs:
        odds = []
        for order in ORDERS:
            messages = list(asker.pair(pair, order, 0).ask.messages)
            ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            with torch.no_grad():
                out = model.generate(
                    **ids, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
                )
            a, b = (float(out.logits[0][0][ids].double().logsumexp(-1)) for ids in options)
            a = 1 / (1 + math.exp(b - a))
            odds.append(a if order == "forward" else 1 - a)
        found.append(sum(odds) / 2)
    return found, time.perf_counter() - begin


def by_kilter(pairs: list[Comparison]) -> tuple[list[float], float]:
    """p of each pair and seconds; opening the model is not counted, as it is not in the loop."""
    with tempfile.TemporaryDirectory() as folder:
        judge = build(JudgeSpec(model=MODEL, min_mass=0.0), Context(resolve, folder=Path(folder)))
        judge.compare([Comparison(pairs[0].prompt, "warm", "up")])
        begin = time.perf_counter()
        found = [j.p for j in judge.compare(pairs)]
        seconds = time.perf_counter() - begin
    return [p for p in found if p is not None], seconds


def main() -> None:
    """Prints both times, their ratio and the greatest difference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=60, help="desk pairs, each judged in both orders")
    count = parser.parse_args().pairs
    pairs = desk_pairs(count)
    plain, slow = by_generate(pairs)
    shared, fast = by_kilter(pairs)
    worst = max(abs(a - b) for a, b in zip(plain, shared, strict=True))
    print(f"{count} pairs in both orders, {torch.get_num_threads()} threads")
    print(f"loop over generate  {slow:8.2f} s   {2 * count / slow:6.1f} questions/s")
    print(f"kilter              {fast:8.2f} s   {2 * count / fast:6.1f} questions/s")
    print(f"ratio {slow / fast:.2f}, greatest difference of p {worst:.1e}")


if __name__ == "__main__":
    main()
