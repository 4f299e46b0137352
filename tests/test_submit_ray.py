"""Jobs on a real head: the run's own exit code, a stop that saves, a resubmission that resumes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import make_model, pair_rows
from kilter.launch import started
from test_submit import truncated

pytest.importorskip("ray", reason="Ray is not installed (make test-ray)")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

BIN, SRC = Path(sys.executable).parent, Path(__file__).parents[1] / "src"
LONG = 1200
"""Steps of a run that is stopped on its way."""


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


@pytest.fixture(scope="module")
def head():
    """A head of its own, ended by the process that holds it, never by `ray stop`."""
    folder = Path("/tmp") / f"kilter-head-{os.getpid()}"
    address = f"http://127.0.0.1:{(dashboard := free_port())}"
    env = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(SRC),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
    }
    start = ["ray", "start", "--head", "--block", f"--port={free_port()}", f"--dashboard-port={dashboard}"]
    start += ["--num-cpus=2", f"--temp-dir={folder}", f"--dashboard-agent-listen-port={free_port()}"]
    ray = subprocess.Popen(start, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                break
        time.sleep(0.5)
    yield address, env
    ray.terminate()
    ray.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a recipe; data and model are shared."""
    home = tmp_path_factory.mktemp("home")
    shared = home / "shared"
    make_model(shared / "model")
    (shared / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(24)))
    train = f"{{method: dpo, batch_size: 2, max_length: 64, max_steps: {LONG}}}"
    (home / "r.yaml").write_text(
        f"model: {shared}/model\ndata: {{path: {shared}/pairs.jsonl, heldout: 0}}\n"
        f"stages: {{dpo: {{train: {train}}}}}\n"
    )
    (home / "stopped.yaml").write_text(truncated(shared))
    return home


@pytest.fixture
def kilter(head, home):
    """Begins `kilter submit`."""

    def begin(*words):
        address, env = head
        command = [sys.executable, "-m", "kilter", "submit", *words, "--address", address]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=home, env=env, **pipes)

    return begin


def ended(process):
    """(exit code, what it said)."""
    said = process.communicate(timeout=150)[0]
    return process.returncode, " ".join(said.split())


def recipe(home, *words):
    return "r.yaml", "--runs", str(home / "shared" / "runs"), *words


def until(found, seconds=60):
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return value


def test_auto_means_a_ray_that_was_started_by_hand(head):
    """Its address is left in its folder, which no program's own Ray does."""
    folder = f"/tmp/kilter-head-{os.getpid()}"
    (where,) = until(lambda: {where for where, place in started._running() if place == folder})
    assert until(lambda: started._noted(folder)) == where


def test_a_job_ends_with_the_code_of_its_run(kilter, home):
    missing = f"data.path={home}/shared/nothing.jsonl"
    bad = kilter(*recipe(home, "--set", missing, "--set", "name=bad", "--follow"))
    good = kilter(*recipe(home, "--set", "stages.dpo.train.max_steps=2", "--set", "name=good", "--follow"))
    code, said = ended(bad)
    assert code == 2, said
    assert "nothing.jsonl" in said
    code, said = ended(good)
    assert code == 0, said
    assert (home / "shared" / "runs" / "good" / "report.html").is_file()
    stopped = kilter("stopped.yaml", *recipe(home, "--follow")[1:])
    code, said = ended(stopped)
    assert code == 3, said
    assert "stopped by its monitors" in said


def test_ctrl_c_detaches_a_stop_saves_and_the_next_one_resumes(kilter, home):
    metrics = home / "shared" / "runs" / "r" / "dpo" / "metrics.jsonl"
    steps = lambda: (
        [json.loads(s)["step"] for s in metrics.read_text().splitlines()] if metrics.is_file() else []
    )
    shown = kilter(*recipe(home, "--follow"))
    until(lambda: len(steps()) > 3)
    shown.send_signal(signal.SIGINT)
    code, said = ended(shown)
    assert code == 0, said
    assert "goes on" in said
    assert ended(kilter("--stop", "r"))[0] == 0
    said = until(lambda: (s := ended(kilter("--status", "r"))[1]) and "exit code" in s and s)
    assert "stopped, exit code 4" in said
    saved = len(steps())
    assert 3 < saved < LONG

    assert ended(kilter(*recipe(home)))[0] == 0
    until(lambda: len(steps()) > saved)
    assert "resum" in ended(kilter("--logs", "r"))[1]
    assert steps() == list(range(1, len(steps()) + 1))
    assert ended(kilter("--stop", "r"))[0] == 0
