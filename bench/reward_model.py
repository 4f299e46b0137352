"""A Bradley-Terry reward model against a linear model over words: the same pairs, the same held-out pairs.

    python -m bench.reward_model pairs.jsonl.gz --pairs 512 --held 256 --out runs/reward-model

Run it again to go on where it was stopped. The linear model reads differences of TF-IDF vectors, so it has no
notion of order and none of length. It is also trained on all pairs that are not held out.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import kilter
from kilter.statistics import proportion

Pair = dict[str, str]
PIECE = 50
"""Held-out pairs that are scored together."""


def read(path: Path) -> list[Pair]:
    """Rows of HH-RLHF; .gz is unpacked."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


def split(pairs: Sequence[Pair], held: int) -> tuple[list[Pair], list[Pair]]:
    """(to train on, held out). All pairs of one first question are on one side; its hash decides."""

    def order(pair: Pair) -> str:
        first = pair["chosen"].split("\n\nAssistant:")[0]
        return hashlib.sha256(first.encode()).hexdigest()

    ordered = sorted((p for p in pairs if p["chosen"] != p["rejected"]), key=order)
    cut = held
    while cut < len(ordered) and order(ordered[cut]) == order(ordered[cut - 1]):
        cut += 1
    return ordered[cut:], ordered[:cut]


def answers(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    """The last answers of both sides."""
    return (
        [p["chosen"].rsplit("\n\nAssistant:", 1)[-1] for p in pairs],
        [p["rejected"].rsplit("\n\nAssistant:", 1)[-1] for p in pairs],
    )


def linear(train: Sequence[Pair], held: Sequence[Pair]) -> list[bool]:
    """Whether a logistic regression on differences of TF-IDF prefers each chosen answer."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    chosen, rejected = answers(train)
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(chosen + rejected)
    difference = words.transform(chosen) - words.transform(rejected)

    # Each pair both ways round: the model has no side to prefer.
    both = np.r_[np.ones(difference.shape[0]), np.zeros(difference.shape[0])]
    from scipy.sparse import vstack

    model = LogisticRegression(C=0.3, fit_intercept=False, max_iter=1000)
    model.fit(vstack([difference, -difference]), both)
    better, worse = answers(held)
    return list(model.decision_function(words.transform(better) - words.transform(worse)) > 0)


def bradley_terry(
    train: Sequence[Pair], held: Sequence[Pair], out: Path, args: argparse.Namespace
) -> list[bool | None]:
    """Whether Kilter's reward model scores each chosen answer higher; None where one is unscored."""
    (out / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in train))
    kilter.train(
        args.model,
        {"path": str(out / "train.jsonl"), "heldout": 0.0},
        "bradley_terry",
        out=out / "rm",
        epochs=args.epochs,
        batch_size=8,
        learning_rate=args.learning_rate,
        max_length=args.max_length,
        adapter="lora" if args.lora else None,
        save_every=8,
        dtype=args.dtype,
    )

    # In pieces, so that a stop loses no more than one of them.
    right: list[bool | None] = []
    for first in range(0, len(held), PIECE):
        path, folder = out / f"held-{first}.jsonl", out / f"eval-{first}"
        path.write_text("".join(json.dumps(r) + "\n" for r in held[first : first + PIECE]))
        kilter.evaluate(
            [],
            {"path": str(path), "heldout": 0.0},
            out=folder,
            reward_model=str(out / "rm"),
            max_length=args.max_length,
            split="all",
        )
        scored = [json.loads(line) for line in (folder / "groups.jsonl").read_text().splitlines()]
        pairs = [[f["score"] for f in row["feedback"]] for row in scored]
        right += [None if None in (a, b) else a > b for a, b in pairs]
    return right


def main() -> None:
    """Prints accuracy on the held-out pairs with Wilson's interval, and the paired difference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=int, default=512, help="pairs that both models are trained on")
    parser.add_argument("--held", type=int, default=256)
    parser.add_argument("--model", default="builtin:smollm2-135m")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--max-length", type=int, default=192)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/reward-model"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    rest, held = split(read(args.data), args.held)
    same = rest[: args.pairs]
    right: dict[str, Sequence[Any]] = {
        f"TF-IDF, {len(same)} pairs": linear(same, held),
        f"TF-IDF, all {len(rest)} pairs": linear(rest, held),
        "longer answer": [len(a) > len(b) for a, b in zip(*answers(held), strict=True)],
    }
    right[f"Bradley-Terry, {len(same)} pairs"] = bradley_terry(same, held, args.out, args)
    found = {name: proportion([None if v is None else bool(v) for v in row]) for name, row in right.items()}
    (args.out / "result.json").write_text(json.dumps({n: e.to_json() for n, e in found.items()}, indent=1))
    for name, e in found.items():
        print(f"{name:28} {e.value:.3f} [{e.ci_low:.3f}, {e.ci_high:.3f}] of {e.n}")


if __name__ == "__main__":
    main()
