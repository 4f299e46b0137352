"""Two processes on CPU (gloo), started by `processes: 2` or by accelerate launch: each step's loss equals one process's, with DDP and with FSDP2."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from kilter.training.checkpoint import CHECKPOINT_FORMAT

WORKER = """
import os
import sys
from pathlib import Path
from kilter.data.dataset import DataSpec, load
from kilter.training.config import TrainSpec
from kilter.training.trainer import Trainer
tiny, data, out, fsdp, steps, world = sys.argv[1:7]
assert int(os.environ.get('WORLD_SIZE', '1')) == int(world), os.environ.get('WORLD_SIZE')
groups = load(DataSpec(path=data, heldout=0.2), "pairs")
spec = TrainSpec(method="dpo", learning_rate=1e-3, batch_size=5, warmup_ratio=0.0, tokens_per_microbatch=120, fsdp=fsdp == "fsdp", max_steps=int(steps), save_every=2)
Trainer(spec, Path(tiny), groups.train, groups.heldout, Path(out)).run()
"""


def launch(tmp_path, tiny, pairs_file, out, mode, processes):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    args = [str(script), str(tiny), str(pairs_file), str(out), mode, "6", str(processes)]
    head = (
        [sys.executable]
        if processes == 1
        else [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_processes",
            str(processes),
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            "0",
            "--num_cpu_threads_per_process",
            "1",
        ]
    )
    env = os.environ | {"OMP_NUM_THREADS": "1", "KILTER_CACHE": str(tmp_path / "cache" / mode)}
    done = subprocess.run([*head, *args], capture_output=True, text=True, timeout=200, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def single(tmp_path_factory, tiny):
    from conftest import pair_rows

    folder = tmp_path_factory.mktemp("single")
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in pair_rows(24)))
    return data, launch(folder, tiny, data, folder / "out", "one", 1), folder / "out"


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_processes_match_one(tmp_path, tiny, single, mode):
    import torch

    from kilter.models.load import load_causal

    data, want, folder = single
    got = launch(tmp_path, tiny, data, tmp_path / "out", mode, 2)
    assert len(got) == len(want) == 6
    for a, b in zip(got, want):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        assert a["num_tokens"] == b["num_tokens"]
        assert a["rewards/margins"] == pytest.approx(b["rewards/margins"], abs=1e-4)
    one, two = (
        load_causal(folder / "model").state_dict(),
        load_causal(tmp_path / "out" / "model").state_dict(),
    )
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-3, rtol=1e-2)


METHODS = {"kto": "unpaired", "dpo": "pairs", "dr_dpo": "pairs", "bco": "unpaired", "aot": "pairs"}


def train(tiny, data, out, method, processes, steps=5, **more):
    """kilter.train as a user calls it; the workers are started by it."""
    import kilter

    options = {
        "learning_rate": 1e-3,
        "batch_size": 5,
        "warmup_ratio": 0.0,
        "tokens_per_microbatch": 120,
        "max_steps": steps,
        "save_every": 2,
        "schedule": "constant",
    }
    kilter.train(
        str(tiny),
        {"path": str(data), "heldout": 0.2},
        method,
        out,
        **options | {"processes": processes} | more,
    )
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_sharded_training_of_each_unit_matches_one_process(tmp_path, tiny, pairs_file, method):
    """One row objective (with mismatched rows), one group objective, three over the whole batch of all ranks, one with running state."""
    one = train(tiny, pairs_file, tmp_path / "one", method, 1)
    two = train(tiny, pairs_file, tmp_path / "two", method, 2, fsdp=True)
    assert len(one) == len(two) == 5
    for a, b in zip(one, two):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        for key in ("rewards/chosen", "kl", "delta"):
            assert a.get(key, 0) == pytest.approx(b.get(key, 0), abs=1e-4)


@pytest.mark.parametrize("mode", ["fsdp", "zero"])
def test_a_sharded_run_resumes_with_another_number_of_processes(tmp_path, tiny, pairs_file, mode):
    """(ZeRO: with the same number.) Killed after its checkpoint of step 4 with two processes; one process goes on, and the losses are those of a run that was never stopped."""
    import shutil

    sharded = {"fsdp": True} if mode == "fsdp" else {"zero": 2}
    if mode == "zero":
        pytest.importorskip("deepspeed")
    whole = train(tiny, pairs_file, tmp_path / "whole", "dpo", 1, steps=8)
    out = tmp_path / "cut"
    code = f"import sys; sys.path[:0] = {sys.path!r}; from test_distributed import train; train({str(tiny)!r}, {str(pairs_file)!r}, __import__('pathlib').Path({str(out)!r}), 'dpo', 2, steps=8, **{sharded!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"KILTER_CACHE": str(tmp_path / "cache")},
    )
    metrics = out / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 5:
            break
        time.sleep(0.1)
    workers = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "kilter.training.parallel.worker"],
        capture_output=True,
        text=True,
    ).stdout.split()
    assert len(workers) == 2
    os.kill(int(workers[1]), signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert "was killed by SIGKILL; " in stderr or "was killed by SIGKILL (" in stderr, stderr[-2000:]
    assert any((next((out / "checkpoints").glob("step-*")) / "shards").iterdir())
    shutil.copytree(out, tmp_path / "again")
    for folder, processes, more in [
        (tmp_path / "again", 2, sharded),
        *([(out, 1, {})] if mode == "fsdp" else []),
    ]:
        got = train(tiny, pairs_file, folder, "dpo", processes, steps=8, **more)
        for a, b in zip(whole, got, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("method", ["dpo", "dr_dpo"])
def test_zero_matches_one_process_and_resumes(tmp_path, tiny, pairs_file, method, stage):
    """DeepSpeed's optimizer sharding, where it is installed (extra deepspeed)."""
    pytest.importorskip("deepspeed")
    one = train(tiny, pairs_file, tmp_path / "one", method, 1, steps=6)
    two = train(tiny, pairs_file, tmp_path / "two", method, 2, steps=6, zero=stage)
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


def test_zero_without_deepspeed_is_named(tmp_path, tiny, pairs_file, monkeypatch):
    from kilter.errors import UserError

    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None)
    with pytest.raises(UserError, match="deepspeed"):
        train(tiny, pairs_file, tmp_path / "out", "dpo", 2, zero=2)


def test_a_mistake_in_a_worker_reaches_the_user(tmp_path, tiny, pairs_file):
    from kilter.errors import UserError

    checkpoint = tmp_path / "out" / "checkpoints" / "step-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "meta.json").write_text(
        json.dumps({"format": CHECKPOINT_FORMAT, "step": 2, "identity": "x", "method": "sft"})
    )
    with pytest.raises(UserError, match=r"holds a checkpoint of another run") as stop:
        train(tiny, pairs_file, tmp_path / "out", "dpo", 2)
    assert stop.value.code == 2


ONLINE = """
import os
import sys
from pathlib import Path
from kilter.training.config import TrainSpec
from kilter.training.trainer import Trainer
from kilter.types import Group, Prompt
tiny, data, out, mode, steps, world = sys.argv[1:7]
assert int(os.environ.get('WORLD_SIZE', '1')) == int(world)
groups = [Group(Prompt(messages=({"role": "user", "content": f"Say {i}"},)), (), ()) for i in range(12)]
spec = TrainSpec.model_validate(dict(
    method=mode, prompts="$data", feedback={"regex": "[a-m]"}, sampler=dict(samples=4, max_new_tokens=6), batch_size=4, max_steps=int(steps), learning_rate=1e-3, warmup_ratio=0.0,
    tokens_per_microbatch=120, monitors=dict(allow_truncation=True, gold={"regex": "[n-z]"}, gold_every=2, gold_prompts=4), save_every=2,
))
Trainer(spec, Path(tiny), groups, groups[:4], Path(out)).run()
"""


def test_online_training_on_two_processes_matches_one(tmp_path, tiny, monkeypatch):
    """Each process samples its share of the prompts with the same draws; denominators and metrics span both."""
    monkeypatch.setitem(globals(), "WORKER", ONLINE)
    one = launch(tmp_path, tiny, "-", tmp_path / "one", "rloo", 1)
    two = launch(tmp_path, tiny, "-", tmp_path / "two", "rloo", 2)
    assert len(one) == len(two) == 6
    for a, b in zip(one, two):
        for key in ("loss", "reward", "kl/sequence", "frac_reward_zero_std", "completions/mean_length"):
            assert a.get(key, 0) == pytest.approx(b.get(key, 0), abs=1e-4), key
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3, abs=1e-6)
    assert [a["gold/score"] for a in one if "gold/score" in a] == [
        b["gold/score"] for b in two if "gold/score" in b
    ]
