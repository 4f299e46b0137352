"""Judging desk pairs in both orders: Kilter's shared beginnings against a plain loop over `generate`.

    python -m bench.judge --pairs 60                        # three minutes on one core
    python -m bench.judge --pairs 1000 --plain 0.1 --minutes 40

Both ask the same questions of builtin:smollm2-135m in float32, and read the probabilities of A and B off the
first token. The loop asks one question at a time. The two take turns in blocks of pairs, so that other work
on the machine slows both. The loop may read a share of each block: the ratio is of the time per pair. The
greatest difference of the two p is printed as well.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
from kilter.models.resolve import resolve
from kilter.models.tokenizer import load_tokenizer
from kilter.sampling.choices import SPACES

MODEL = "builtin:smollm2-135m"


def desk_pairs(count: int) -> list[Comparison]:
    """Pairs of a support desk as large as needed, chosen and rejected in turn as the first answer."""
    # A pair that came twice would be answered from the replies that are kept, for nothing.
    desk = DataSpec(path="builtin:support-desk", heldout=0.0, world={"n": max(count, 400)})
    rows = load(desk, "pairs", "desk").train
    found = []
    for n in range(count):
        first, second = (c.text for c in (rows[n].completions if n % 2 else rows[n].completions[::-1]))
        found.append(Comparison(rows[n].prompt, first, second, str(n)))
    return found


@dataclass
class Side:
    """What one side has done.

    Args:
        compare: p of each pair.
        p: by the pair's number.
        wall, cpu: seconds.
    """

    compare: Callable[[list[Comparison]], list[float]]
    p: dict[str, float] = field(default_factory=dict)
    wall: float = 0.0
    cpu: float = 0.0

    def take(self, pairs: list[Comparison]) -> None:
        """Judges some more, on the clock."""
        wall, cpu = time.perf_counter(), time.process_time()
        found = self.compare(pairs)
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        self.p |= {pair.id: p for pair, p in zip(pairs, found, strict=True)}

    def line(self, name: str) -> str:
        """Pairs, seconds and questions per second."""
        n, spent = len(self.p), f"{self.wall:8.2f} s, {self.cpu:8.2f} of CPU"
        return f"{name}  {n:5} pairs  {spent}  {2 * n / self.cpu:6.1f} questions/s"


def by_generate() -> Side:
    """One call of `generate` per question."""
    from transformers import AutoModelForCausalLM

    folder = resolve(MODEL)
    tokenizer = load_tokenizer(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    # "A" and " A" are one verdict; what is more than one token is not asked about.
    texts = [(n, space + o) for n, o in enumerate("AB") for space in ("", *SPACES)]
    tokens = [(n, tokenizer(t, add_special_tokens=False)["input_ids"]) for n, t in texts]
    options = [[ids[0] for own, ids in tokens if own == n and len(ids) == 1] for n in range(2)]
    asker = Asker("pairwise", "logprob")

    def compare(pair: Comparison) -> float:
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
        return sum(odds) / 2

    return Side(lambda pairs: [compare(pair) for pair in pairs])


def by_kilter(folder: Path) -> Side:
    """Kilter's own judge. Its model is opened before the clock starts, as the loop's is."""
    judge = build(JudgeSpec(model=MODEL, min_mass=0.0), Context(resolve, folder=folder))
    judge.compare([Comparison(desk_pairs(1)[0].prompt, "warm", "up")])
    return Side(lambda pairs: [j.p for j in judge.compare(pairs) if j.p is not None])


def main() -> None:
    """Prints both times, their ratio and the greatest difference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=60, help="desk pairs, each judged in both orders")
    parser.add_argument("--block", type=int, default=60, help="pairs until the other side's turn")
    parser.add_argument("--plain", type=float, default=1.0, help="share of each block that the loop reads")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no block starts after these")
    asked = parser.parse_args()
    pairs, begin = desk_pairs(asked.pairs), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        shared, plain = by_kilter(Path(folder)), by_generate()
        for start in range(0, len(pairs), asked.block):
            if time.perf_counter() - begin > 60 * asked.minutes:
                break
            block = pairs[start : start + asked.block]
            shared.take(block)
            plain.take(block[: max(1, round(len(block) * asked.plain))])
            _print(plain, shared)


def _print(plain: Side, shared: Side) -> None:
    """What is known so far; the last of these is the result."""
    worst = max(abs(p - shared.p[n]) for n, p in plain.p.items())
    share = len(shared.p) / len(plain.p)
    print(f"{len(shared.p)} pairs in both orders, {torch.get_num_threads()} threads")
    print(plain.line("loop over generate"))
    print(shared.line("kilter            "))
    ratios = (
        f"ratio per pair {share * plain.wall / shared.wall:.2f}, of CPU {share * plain.cpu / shared.cpu:.2f}"
    )
    print(f"{ratios}, greatest difference of p {worst:.1e}", flush=True)


if __name__ == "__main__":
    main()
