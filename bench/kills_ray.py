"""Kills workers and ranks of runs on a real Ray, at random moments: each run must end in time, and rightly.

    python -m bench.kills_ray                     # 10 kills: two of each role, in turn and with lookahead 2
    python -m bench.kills_ray --kills 20 --seed 1

A run ends with all of its steps and groups, or with code 4 and a message that names role and node. Neither
may come later than 90 s after the kill. Exits with 0 only if all of it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from bench.numbers import ROOT
from bench.numbers_cases import write_inputs

ROLES = ("rollout", "reward", "reference", "critic", "learner")
STEPS, BATCH, SAMPLES = 12, 3, 3
LIMIT = 90.0
"""Seconds from a kill to the end of its run."""


def inputs(folder: Path) -> None:
    """A tiny model, prompts, and a reward model with a random head."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from kilter.models.folder import quiet_transformers
    from kilter.models.tokenizer import load_tokenizer

    write_inputs(folder, {"model": "./tiny"})
    torch.manual_seed(0)
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(str(folder / "tiny"), num_labels=1)
        model.score.weight.data.normal_(0, 0.3)
        model.save_pretrained(folder / "rm")
    load_tokenizer(folder / "tiny").save_pretrained(folder / "rm")


def trainer(folder: Path, out: Path, role: str, lookahead: int, backends: list[Any]) -> Any:
    """A run with two engines, two reward models and a reference apart; a critic or two ranks if one dies."""
    from kilter.cluster.ray import RayBackend
    from kilter.data.dataset import DataSpec, load
    from kilter.training.config import TrainSpec
    from kilter.training.trainer import Trainer

    cluster: dict[str, Any] = {name: {"place": "apart"} for name in ROLES[:3]}
    cluster["rollout"] |= {"engines": 2}
    cluster["reward"] |= {"copies": 2}
    cluster |= {"lookahead": lookahead, "stall": 30.0, "restarts": 2}
    if role == "critic":
        cluster["critic"] = {"place": "apart"}
    if role == "learner":
        cluster |= {"learner": {"processes": 2}, "reference": {"place": "apart", "copies": 2}}
    settings = {
        "method": {"name": "ppo" if role == "critic" else "grpo", "beta": 0.1},
        "prompts": "$data",
        "feedback": {"reward_model": str(folder / "rm")},
        "sampler": {"samples": SAMPLES, "max_new_tokens": 8},
        "monitors": {"stop": False, "allow_truncation": True, "gold_every": 1000},
        "batch_size": BATCH,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "save_every": 1,
        "cluster": cluster,
    }

    def connect(spec: Any) -> Any:
        backends.append(RayBackend(spec))
        return backends[-1]

    data = load(DataSpec(path=str(folder / "pairs.jsonl"), heldout=0.0), "prompts")
    return Trainer(TrainSpec.model_validate(settings), folder / "tiny", data.train, [], out, connect=connect)


def victims(role: str, out: Path, backends: list[Any]) -> list[int]:
    """Process ids of a role's workers, or of the learner's ranks."""
    if role != "learner":
        handles = [h for b in backends for h in b.handles if h.where.startswith(f"{role} ")]
        return [h.hello.process for h in handles if psutil.pid_exists(h.hello.process)]
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "kilter.training.parallel.worker" in words and str(out) in words:
            found.append(process.pid)
    return found


def killed(out: Path, role: str, draw: random.Random, backends: list[Any], times: list[float]) -> None:
    """Waits for a random step, and a moment more; then kills one of the role."""
    path, step, moment = out / "metrics.jsonl", draw.randint(1, 8), draw.random() / 4
    while not path.is_file() or len(path.read_text().splitlines()) < step:
        time.sleep(0.02)
    time.sleep(moment)
    if found := victims(role, out, backends):
        os.kill(draw.choice(found), signal.SIGKILL)
        times.append(time.monotonic())


def one(folder: Path, role: str, lookahead: int, draw: random.Random) -> tuple[str, float, bool]:
    """(how the run ended, seconds after the kill, whether that is right)."""
    from kilter.data import store
    from kilter.errors import KilterError
    from kilter.training.parallel import launch

    out, backends, times = Path(tempfile.mkdtemp(dir=folder)) / "out", [], []  # type: ignore[var-annotated]
    run = trainer(folder, out, role, lookahead, backends)
    arguments = (out, role, draw, backends, times)
    threading.Thread(target=killed, args=arguments, daemon=True).start()
    try:
        launch.train(run)
        steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        answers = sum(len(g.completions) for g in store.read(out / "groups.jsonl"))
        right = steps == list(range(1, STEPS + 1)) and answers == STEPS * BATCH * SAMPLES
        how = f"0, {len(steps)} steps, {answers} answers"
    except KilterError as error:
        how = f"{int(error.code)}, {str(error).splitlines()[0]}"
        right = int(error.code) == 4 and role in how and "node " in how
    taken = time.monotonic() - times[0] if times else float("nan")
    return how, taken, right and taken <= LIMIT


def main() -> int:
    """Prints a row per kill."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first kill")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    )
    from kilter.cluster.ray import RayBackend
    from kilter.launch.spec import ClusterSpec

    # One Ray for all runs, with more cores than there are. It kills nobody for the memory that others take.
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112
    own = RayBackend(ClusterSpec.model_validate({"rollout": {"place": "apart", "engines": 16}}))
    base, bad = Path(tempfile.mkdtemp(prefix="kills-ray-")) / "inputs", 0
    inputs(base)
    print("| killed | lookahead | ended | s after the kill | holds |\n|---|---|---|---|---|", flush=True)
    for number in range(options.first, options.first + options.kills):
        role, lookahead = ROLES[number % 5], 2 * (number // 5 % 2)
        how, taken, right = one(base, role, lookahead, random.Random(f"{options.seed} {number}"))
        bad += not right
        print(f"| {role} | {lookahead} | {how} | {taken:.1f} | {'yes' if right else 'NO'} |", flush=True)
    own.close()
    shutil.rmtree(base.parent)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
