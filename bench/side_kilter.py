"""One Kilter run of a DPO benchmark in a process of its own; prints one JSON object."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path


def peak_mb() -> float:
    """High-water mark of the memory that the model lives in: the GPU's as torch allocates it, else this process's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def main() -> None:
    """Trains `steps` optimizer steps on rows in order; times the reference pass and the steps."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("rows")
    p.add_argument("model")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--batch-size", type=int, default=4)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--lr", type=float, default=1e-6)
    p.add_argument("--microbatch", type=int, default=1024)
    p.add_argument("--plain-rows", action="store_true", help="switch the shared prefix off")
    a = p.parse_args()
    import torch

    from kilter.data.collate import collate
    from kilter.models.fingerprint import model_hash
    from kilter.models.forward import Way
    from kilter.models.microbatch import split
    from kilter.models.reference import ReferenceCache
    from kilter.objectives import DPO
    from kilter.roles.open import OpenSpec, open_model
    from kilter.training.config import TrainSpec
    from kilter.training.learner import LocalLearner
    from kilter.training.parallel.engine import Engine
    from kilter.types import Completion, Encoded, Feedback, Group, Prompt

    rows = [json.loads(line) for line in Path(a.rows).read_text().splitlines()][: a.steps * a.batch_size]
    group = Group(Prompt(), (Completion(""),) * 2, (Feedback(1.0), Feedback(0.0)))
    encoded = [
        Encoded(
            group,
            tuple(r["prompt_ids"]),
            (tuple(r["chosen_ids"]), tuple(r["rejected_ids"])),
            ((1,) * len(r["chosen_ids"]), (1,) * len(r["rejected_ids"])),
        )
        for r in rows
    ]
    folder = Path(a.model)
    spec = TrainSpec(
        method="dpo",
        learning_rate=a.lr,
        schedule="constant",
        warmup_ratio=0.0,
        dtype=a.dtype,
        tokens_per_microbatch=a.microbatch,
    )
    objective = DPO(beta=0.1)
    scorer, engine = open_model(OpenSpec(folder, dtype=a.dtype, trains=True)).scorer, Engine()
    if a.plain_rows:
        scorer.follow(Way("rows"))
    with tempfile.TemporaryDirectory() as cache:
        begin = time.perf_counter()
        reference = ReferenceCache(Path(cache) / "r.sqlite", model_hash(folder), a.dtype)
        scorer.eval()
        with torch.no_grad():
            for part in split(collate(encoded), a.microbatch, scorer.shared):
                reference.put(
                    reference.keys(part), scorer(part, amp=a.dtype == "bfloat16").logps_BT, part.length_B
                )
        reference_s = time.perf_counter() - begin
        learner = LocalLearner(scorer, objective.needs, spec, a.steps, engine, reference)
        steps = []
        begin = time.perf_counter()
        for i in range(a.steps):
            clock = time.perf_counter()
            batch = objective.prepare(
                learner.annotate(collate(encoded[i * a.batch_size : (i + 1) * a.batch_size]), objective.needs)
            )
            steps.append(learner.step(batch, objective) | {"step_s": time.perf_counter() - clock})
        train_s = time.perf_counter() - begin
        reference.close()
    pairs = len(encoded)
    json.dump(
        {
            "side": "kilter",
            "steps": steps,
            "train_s": train_s,
            "reference_s": reference_s,
            "pairs_per_s": pairs / (train_s + reference_s),
            "train_pairs_per_s": pairs / train_s,
            "peak_mb": peak_mb(),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
