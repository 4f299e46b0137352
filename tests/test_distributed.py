"""Two processes on CPU (gloo), started by `processes: 2` or by accelerate launch: each step's loss equals one process's, with DDP and with FSDP2."""

import json
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from conftest import pair_rows
from kilter import manifest as manifests
from kilter.data.dataset import DataSpec, load
from kilter.errors import RunFailed
from kilter.training.checkpoint import Checkpoints
from kilter.training.config import TrainSpec
from kilter.training.trainer import Trainer
from kilter.types import Group, Prompt

METHODS = {"kto": "unpaired", "dpo": "pairs", "dr_dpo": "pairs", "bco": "unpaired", "aot": "pairs"}


def pairs(tiny, data, out, fsdp=False):
    """A DPO run as a script of one's own starts it."""
    groups = load(DataSpec(path=str(data), heldout=0.2), "pairs")
    spec = TrainSpec(
        method="dpo",
        learning_rate=1e-3,
        batch_size=5,
        warmup_ratio=0.0,
        tokens_per_microbatch=120,
        fsdp=fsdp,
        max_steps=6,
        save_every=2,
    )
    Trainer(spec, tiny, groups.train, groups.heldout, out).run()


def online(tiny, out):
    """Rollouts scored by a rule, watched by another."""
    groups = [Group(Prompt(messages=({"role": "user", "content": f"Say {i}"},)), (), ()) for i in range(12)]
    watch = {"allow_truncation": True, "gold": {"regex": "[n-z]"}, "gold_every": 2, "gold_prompts": 4}
    spec = TrainSpec.model_validate(
        {
            "method": "rloo",
            "prompts": "$data",
            "feedback": {"regex": "[a-m]"},
            "sampler": {"samples": 4, "max_new_tokens": 6},
            "batch_size": 4,
            "max_steps": 6,
            "learning_rate": 1e-3,
            "warmup_ratio": 0.0,
            "tokens_per_microbatch": 120,
            "monitors": watch,
            "save_every": 2,
        }
    )
    Trainer(spec, tiny, groups, groups[:4], out).run()


def sparse(tiny, out, method):
    """Few prompts have answers that differ in score: one process or both have nothing to learn in most steps."""
    from test_ranks import PROMPTS, SPARSE, online

    rewards = out.parent / f"{out.name}.py"
    rewards.write_text(SPARSE)
    feedback = {f"{rewards}:Sparse": {"solvable": ["Say b", "Say c", "Say g"], "broken": ["Say f"]}}
    Trainer(online(method, feedback, batch_size=2, max_steps=4), tiny, PROMPTS, (), out).run()


SPARSE_METHODS = ("grpo", "dr_grpo", "dpo")


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
    return lines(out)


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def every_job(tiny, data, folder):
    """All that runs on two processes alike, one run after the other: processes take longer to start than to train."""
    assert os.environ["WORLD_SIZE"] == "2"
    pairs(tiny, data, folder / "ddp")
    pairs(tiny, data, folder / "fsdp", fsdp=True)
    online(tiny, folder / "online")
    for method in SPARSE_METHODS:
        sparse(tiny, folder / f"sparse-{method}", method)
    for method in METHODS:
        train(tiny, data, folder / method, method, 2, fsdp=True)


SCRIPT = "import sys; from pathlib import Path; from test_distributed import every_job; every_job(*map(Path, sys.argv[1:]))"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in pair_rows(24)))
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny, data):
    """Folder of what two processes under accelerate launch left, a folder per run."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    options = {
        "num_processes": 2,
        "num_machines": 1,
        "mixed_precision": "no",
        "dynamo_backend": "no",
        "main_process_port": 0,
        "num_cpu_threads_per_process": 1,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "KILTER_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *words]
    arguments = [str(script), str(tiny), str(data), str(folder)]
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, timeout=200, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory, tiny, data):
    """Folder of the same DPO run in this process."""
    folder = tmp_path_factory.mktemp("one")
    pairs(tiny, data, folder)
    return folder


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_processes_match_one(tiny, one, two, mode):
    import torch

    from kilter.models.load import load_causal

    want, got = lines(one), lines(two / mode)
    assert len(got) == len(want) == 6
    for a, b in zip(got, want):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        assert a["num_tokens"] == b["num_tokens"]
        assert a["rewards/margins"] == pytest.approx(b["rewards/margins"], abs=1e-4)
    weights = [load_causal(folder / "model").state_dict() for folder in (one, two / mode)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_sharded_training_of_each_unit_matches_one_process(tmp_path, tiny, data, two, method):
    """One row objective (with mismatched rows), one group objective, three over the whole batch of all ranks, one with running state."""
    want, got = train(tiny, data, tmp_path / "one", method, 1), lines(two / method)
    assert len(want) == len(got) == 5
    for a, b in zip(want, got):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        for key in ("rewards/chosen", "kl", "delta"):
            assert a.get(key, 0) == pytest.approx(b.get(key, 0), abs=1e-4)


def kill_a_worker(metrics, count):
    """Kills the second of two workers once the run has this many steps behind it."""
    end = time.monotonic() + 90
    while time.monotonic() < end and not (metrics.exists() and len(lines(metrics.parent)) >= count):
        time.sleep(0.02)
    found = [p for p in psutil.Process().children() if "kilter.training.parallel.worker" in p.cmdline()]
    assert len(found) == 2
    found[1].kill()


def test_a_killed_rank_is_named_and_nobody_else_is_heard(tmp_path, tiny, pairs_file, capfd):
    """The other one loses its connection: what it says of that is no news, and hides what happened."""
    out = tmp_path / "run"
    killer = threading.Thread(target=kill_a_worker, args=(out / "metrics.jsonl", 3))
    killer.start()
    with pytest.raises(RunFailed) as failed:
        train(tiny, pairs_file, out, "dpo", 2, steps=400, save_every=2)
    killer.join()
    kept = Checkpoints(out / "checkpoints", "auto").latest()
    assert kept is not None
    assert str(failed.value) == (
        "Process 1 of 2 was killed by SIGKILL (often: out of memory); the others were stopped.\n"
        f"Last good checkpoint: {kept}\nFix: Run the same command again to resume."
    )
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "exitcode" not in said.out + said.err


def test_what_nobody_expected_of_a_worker_is_shown(tmp_path, capsys):
    """The traceback of the one that failed, and not of those that lost it."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    from kilter.training.parallel import launch

    folder = tmp_path / ".job"
    folder.mkdir()
    for rank in (0, 1):
        (folder / f"trace-{rank}.txt").write_text(f"ValueError of {rank}\n")

    def cause(**codes) -> str:
        failures = {int(r[1:]): ProcessFailure(int(r[1:]), 10, code, "") for r, code in codes.items()}
        return str(launch._cause(folder, ChildFailedError("x", failures), 2))

    assert cause(r0=1, r1=-9).startswith("Process 1 of 2 was killed by SIGKILL")
    assert capsys.readouterr().err == ""
    assert cause(r0=-15, r1=1).startswith("Process 1 of 2 ended with code 1; the others were stopped.")
    assert capsys.readouterr().err == "ValueError of 1\n"


@pytest.mark.parametrize("mode", ["fsdp", "zero"])
def test_a_sharded_run_resumes_with_another_number_of_processes(tmp_path, tiny, pairs_file, mode):
    """(ZeRO: with the same number.) Killed after its checkpoint of step 4 with two processes; one process goes on, and the losses are those of a run that was never stopped."""
    import shutil

    sharded = {"fsdp": True} if mode == "fsdp" else {"zero": 2}
    if mode == "zero":
        pytest.importorskip("deepspeed")
    whole = train(tiny, pairs_file, tmp_path / "whole", "dpo", 1, steps=8)
    out = tmp_path / "cut"
    killer = threading.Thread(target=kill_a_worker, args=(out / "metrics.jsonl", 5))
    killer.start()
    with pytest.raises(RunFailed, match=r"was killed by SIGKILL[; ]"):
        train(tiny, pairs_file, out, "dpo", 2, steps=8, **sharded)
    killer.join()
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

    # A killed stage of Kilter's own, for another folder is not written to at all.
    manifests.new("train", "train", {}, {}).write(tmp_path / "out")
    checkpoints = Checkpoints(tmp_path / "out" / "checkpoints")
    checkpoints.save(2, lambda path: path.write_text("state"), {"identity": "x", "method": "sft"})
    with pytest.raises(UserError, match=r"holds a checkpoint of another run") as stop:
        train(tiny, pairs_file, tmp_path / "out", "dpo", 2)
    assert stop.value.code == 2


def test_online_training_on_two_processes_matches_one(tmp_path, tiny, two):
    """Each process samples its share of the prompts with the same draws; denominators and metrics span both."""
    online(tiny, tmp_path / "one")
    want, got = lines(tmp_path / "one"), lines(two / "online")
    assert len(want) == len(got) == 6
    for a, b in zip(want, got):
        for key in ("loss", "reward", "kl/sequence", "frac_reward_zero_std", "completions/mean_length"):
            assert a.get(key, 0) == pytest.approx(b.get(key, 0), abs=1e-4), key
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3, abs=1e-6)
    assert [a["gold/score"] for a in want if "gold/score" in a] == [
        b["gold/score"] for b in got if "gold/score" in b
    ]


@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_a_process_without_a_lesson_keeps_step_with_the_other(tmp_path, tiny, two, method):
    """Gradients, metrics and rollouts meet over the network as they do between the threads of test_ranks.py."""
    from test_ranks import read, same

    sparse(tiny, tmp_path / "one", method)
    one, several = tmp_path / "one", two / f"sparse-{method}"
    same(one, several)
    prompts = lambda folder: [row["prompt"] for row in read(folder, "groups.jsonl")]
    assert prompts(one) == prompts(several)
