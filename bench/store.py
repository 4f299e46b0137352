"""Rollouts in memory and on disk: tokens per second and bytes per token, all numbers as JSON beside it.

    python -m bench.store                       # 4 Mi tokens in answers of 2,048
    python -m bench.store --tokens 1048576 --length 48

`rows and block` is what a run writes. `rows alone` is the same without blocks: all numbers as JSON. Each is
read back, and must be equal. Exits with 1 where it is not, or where a run's own way is slower than 4 Mi
tokens/s or takes more than 10 bytes a token beside the text.
"""

from __future__ import annotations

import argparse
import pickle
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kilter.data import store
from kilter.types import Completion, Feedback, Group, Prompt

PER_GROUP = 16


def groups_of(tokens: int, length: int, seed: int = 0) -> list[Group]:
    """Groups of answers with as many tokens, and a text of four letters a token."""
    chance = np.random.default_rng(seed)
    words = ["".join(random.Random(n).choices("abcdefghij ", k=4)) for n in range(997)]
    answers = []
    for _ in range(max(1, tokens // length)):
        ids = tuple(chance.integers(0, 49_152, length).tolist())
        logps = tuple(chance.gumbel(-2, 1, length).astype(np.float32).tolist())
        text = "".join(words[i % 997] for i in ids)
        answers.append(Completion(text, ids, (1,) * length, logps, "length", 3, 1.25))
    prompt = Prompt(
        messages=({"role": "user", "content": "How do I return a parcel?"},), metadata={"step": 1}
    )
    cut = [answers[i : i + PER_GROUP] for i in range(0, len(answers), PER_GROUP)]
    return [Group(prompt, tuple(a), (Feedback(0.5, "reward"),) * len(a)) for a in cut]


WAYS: dict[str, Callable[[Path, Sequence[Group]], object]] = {
    "rows and block": store.append_rollouts,
    "rows alone": store.append,
}


def measure(name: str, groups: Sequence[Group], folder: Path, repeat: int) -> dict[str, Any]:
    """The fastest of some writings, and a reading."""
    count = sum(len(c.token_ids or ()) for g in groups for c in g.completions)
    letters = sum(len(c.text.encode()) for g in groups for c in g.completions)
    seconds, path = [], folder / name / "groups.jsonl"
    for _ in range(repeat):
        for old in path.parent.glob("*"):
            old.unlink()
        path.parent.mkdir(exist_ok=True)
        begin = time.perf_counter()
        WAYS[name](path, groups)
        seconds.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    equal = list(store.read(path)) == list(groups)
    reading = time.perf_counter() - begin
    size = sum(p.stat().st_size for p in path.parent.glob("*"))
    return {
        "way": name,
        "tokens_per_second": count / min(seconds),
        "read_per_second": count / reading,
        "bytes_per_token": (size - letters) / count,
        "with_text": size / count,
        "equal": equal,
    }


def in_memory(length: int, tokens: int = 1 << 18) -> tuple[float, float]:
    """Bytes a token beside the text, in a process and on the way to another one."""
    tracemalloc.start()
    groups = groups_of(tokens, length)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    count = sum(len(c.token_ids or ()) for g in groups for c in g.completions)
    letters = sum(len(c.text) for g in groups for c in g.completions)
    return (held - letters) / count, (len(pickle.dumps(groups)) - letters) / count


def main() -> None:
    """Prints one line per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1 << 22)
    parser.add_argument("--length", type=int, default=2048, help="tokens of an answer")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    groups = groups_of(args.tokens, args.length)
    print(f"{'way':<16}{'Mi tokens/s':>12}{'read Mi/s':>12}{'B/token':>9}{'with text':>11}  read back")
    found = {}
    with tempfile.TemporaryDirectory(prefix="kilter-store-") as folder:
        for name in WAYS:
            m = found[name] = measure(name, groups, Path(folder), args.repeat)
            speeds = (m["tokens_per_second"] / 2**20, m["read_per_second"] / 2**20)
            numbers = (
                f"{speeds[0]:>12.2f}{speeds[1]:>12.2f}{m['bytes_per_token']:>9.2f}{m['with_text']:>11.2f}"
            )
            print(f"{name:<16}{numbers}  {'equal' if m['equal'] else 'DIFFERENT'}")
    print("in memory {:.2f} B/token, pickled {:.2f} B/token".format(*in_memory(args.length)))
    own = found["rows and block"]
    quick = own["tokens_per_second"] >= 4 * 2**20 and own["bytes_per_token"] <= 10
    raise SystemExit(0 if quick and all(m["equal"] for m in found.values()) else 1)


if __name__ == "__main__":
    main()
