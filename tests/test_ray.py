"""Roles in processes of Ray: the same numbers as in this process, and whatever is killed, an end in time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from ray_workers import Echo

ray = pytest.importorskip("ray", reason="Ray is not installed (make test-ray)")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]  # twelve processes open models on a busy machine

from kilter.cluster.pool import Pool, Restarts  # noqa: E402
from kilter.cluster.ray import RayBackend  # noqa: E402
from kilter.errors import RunFailed, UserError  # noqa: E402
from kilter.launch import started  # noqa: E402
from kilter.launch.spec import ClusterSpec  # noqa: E402
from kilter.launch.versions import versions  # noqa: E402
from test_apart import folder  # noqa: E402, F401  (a fixture)

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def head():
    """One Ray for all tests, with more cores than there are: roles wait, they do not compute."""
    from ray.cluster_utils import Cluster

    paths = [str(TESTS), str(TESTS.parent), *(p for p in os.environ.get("PYTHONPATH", "").split(":") if p)]
    os.environ["PYTHONPATH"] = ":".join(dict.fromkeys(paths))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # As a Ray that Kilter starts.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    os.environ["RAY_free_objects_batch_size"] = "1"  # noqa: SIM112
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 16, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def spec(**fields):
    return ClusterSpec.model_validate({"address": "auto", "rollout": {"place": "apart"}} | fields)


@pytest.fixture
def pool(head):
    """Makes pools of Echo workers: (size, stall, restarts, ...) -> (pool, events)."""
    made = []

    def make(size=2, stall=10.0, restarts=3, arguments=None, **fields):
        backend, told = RayBackend(spec(stall=stall, **fields)), []
        made.append(backend)
        tell = lambda what, detail: told.append((what, detail))
        found = Pool(backend, "rollout", size, Echo, arguments or {}, stall, Restarts(restarts), tell)
        return found, told

    yield make
    for backend in made:
        backend.close()


def pids(workers):
    return [slot.handle.hello.process for slot in workers.slots]


def alive(pid):
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text().lower()
    except OSError:
        return False


def gone(pid, seconds=5.0):
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


DRIVER = """
import time
from signal import SIGTERM
from ray_workers import Echo
from kilter.cluster.pool import Pool
from kilter.cluster.ray import RayBackend
from kilter.launch.spec import ClusterSpec
backend = RayBackend(ClusterSpec.model_validate({"rollout": {"place": "apart"}}))
Pool(backend, "rollout", 1, Echo, {})
caught = next(line for line in open("/proc/self/status") if line.startswith("SigCgt")).split()[1]
print("caught" if int(caught, 16) >> (SIGTERM - 1) & 1 else "ready", flush=True)
time.sleep(600)
"""


def test_a_killed_driver_leaves_nothing_of_its_own_ray_behind(head):
    # The head of the other tests is another Ray: it goes on.
    environment = os.environ | {"RAY_ADDRESS": ""}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=environment, stdout=subprocess.PIPE, start_new_session=True
    )
    # Nor does Ray answer in its place who asks it to stop while its roles load.
    assert driver.stdout.readline() == b"ready\n"
    of_it = lambda: [p.pid for p in psutil.process_iter() if session(p.pid) == driver.pid and alive(p.pid)]
    names = " ".join(" ".join(cmdline(psutil.Process(pid))) for pid in of_it())
    assert "raylet" in names
    # It is nobody's to join: no `ray start` has left its address.
    (own,) = re.findall(r"raylet/raylet .*? --temp_dir=(\S+) .*? --gcs-address=(\S+) --session-name", names)
    assert (own[1], own[0]) in set(started._running())
    assert started._noted(own[0]) != own[1]
    driver.kill()
    driver.wait()
    end = time.monotonic() + 10
    while of_it() and time.monotonic() < end:
        time.sleep(0.1)
    left = of_it()
    driver.stdout.close()
    assert not left, [cmdline(psutil.Process(pid)) for pid in left]
    assert ray.cluster_resources()["CPU"] >= 16


def session(pid):
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def test_a_signal_to_the_whole_group_stops_a_run_and_not_its_ray(tiny, tmp_path):
    """As `timeout` sends it. The step ends, the workers are still there for it, and the same command goes on."""
    from test_ahead import letters

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {chr(97 + i)}"}) + "\n" for i in range(16)))
    (tmp_path / "cluster.yaml").write_text("rollout: {place: apart}\n")
    words = ["--method", "grpo", "--model", str(tiny), "--data", str(prompts), "--cluster", "cluster.yaml"]
    words += ["--feedback", f"{letters(tmp_path)}:letters", "--batch-size", "4", "--max-steps", "4000"]
    words += ["--sampler.samples", "4", "--sampler.max-new-tokens", "10"]
    command = [sys.executable, "-m", "kilter", "train", *words, "--set", "monitors.allow_truncation=true"]
    paths = f"{TESTS.parent / 'src'}:{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"RAY_ADDRESS": "", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    metrics = tmp_path / "out" / "metrics.jsonl"
    steps = lambda: metrics.read_text().count("\n") if metrics.is_file() else 0

    for _ in range(2):
        before = steps()
        driver = subprocess.Popen(
            [*command, "--out", "out"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        end = time.monotonic() + 110
        while steps() < before + 2 and driver.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        of_it = [p.pid for p in psutil.process_iter() if session(p.pid) == driver.pid and p.pid != driver.pid]
        asked = time.monotonic()
        os.killpg(driver.pid, signal.SIGTERM)
        said = " ".join(driver.communicate(timeout=60)[0].split())
        # Ray would wait for 60 s for the head that is gone, and abort.
        assert time.monotonic() - asked < 30, said
        assert driver.returncode == 4, said
        assert re.search(r"Stopped after step \d+ of 4000; everything is saved in out", said), said
        assert "run the same command again" in said
        assert len(of_it) > 4 and all(map(gone, of_it))
    rows = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert rows == list(range(1, len(rows) + 1))


def test_errors_cross_as_what_they_were(pool):
    workers, _ = pool(1)
    with pytest.raises(UserError, match=r"`a` = '\[1, 2\]' is wrong, says rollout 0 \(node"):
        workers.result(workers.submit("wrong"))
    with pytest.raises(RunFailed, match="It failed") as found:
        workers.result(workers.submit("failed"))
    assert found.value.note == "note"


def test_what_cannot_be_loaded_ends_the_start(pool):
    with pytest.raises(UserError, match="names no model"):
        pool(1, arguments={"wrong": True})


def test_calls_keep_their_order_and_control_goes_past_them(pool):
    workers, _ = pool(1)
    asked = [workers.submit("double", 1, 0.5)]
    workers.every("load", 7)
    asked.append(workers.submit("double", 2))
    begin = time.monotonic()
    beside = workers.slots[0].handle.control("pulse")
    while not beside.done():
        workers.backend.wait([beside], 1.0)
    assert time.monotonic() - begin < 0.4
    assert [workers.result(r)[:2] for r in asked] == [(2, 0), (4, 7)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_killed_or_stopped_is_replaced_and_really_ends(pool, number):
    workers, told = pool(2, stall=2.0)
    workers.greet("load", 3)
    workers.every("load", 3)
    victim = pids(workers)[1]
    asked = [workers.submit("double", x, 0.3) for x in range(6)]
    begin = time.monotonic()
    os.kill(victim, number)
    assert [workers.result(r)[0] for r in asked] == [0, 2, 4, 6, 8, 10]
    assert time.monotonic() - begin < 2 + 30
    assert [what for what, _ in told] == ["lost worker"]
    assert f"process {victim}" in told[0][1]
    assert "its log: /" in told[0][1]
    assert Path(told[0][1].split("its log: ")[1].rstrip(")")).is_file()
    assert gone(victim)
    assert {workers.result(r)[1] for r in [workers.submit("double", 1) for _ in range(2)]} == {3}


def test_the_place_of_one_that_was_killed_when_nobody_looked_goes_to_its_successor(head):
    """There is no room for two."""
    backend = RayBackend(spec(rollout={"place": "apart", "cores": 10}, wait_for_resources=5.0))
    (first,) = backend.start("rollout", [0], Echo, {})
    os.kill(first.hello.process, signal.SIGKILL)
    backend.release()
    (second,) = backend.start("rollout", [0], Echo, {})
    assert second.hello.process != first.hello.process
    backend.close()


@pytest.mark.parametrize("version", ["raises", "never acknowledged"])
def test_weights_that_are_not_taken_cost_the_worker(pool, version):
    workers, told = pool(1, stall=2.0, restarts=1)
    workers.greet("load", version)
    workers.every("load", version)
    begin = time.monotonic()
    with pytest.raises(RunFailed, match="No rollout worker is left"):
        workers.result(workers.submit("double", 1))
    assert time.monotonic() - begin < 30
    assert len(told) == 2


@pytest.mark.parametrize("name", ["torch", "python", "kilter", "ray"])
def test_a_node_with_another_version_is_named_before_anything_loads(pool, monkeypatch, name):
    """What the worker would load does not exist, and nobody says so."""
    there, here = versions(), versions() | {name: "0.0", "elsewhere": "1.0"}
    monkeypatch.setattr("kilter.cluster.ray.versions", lambda: here)
    said = rf"leads to node [\d.]+, which has {name} {re.escape(there[name])} where this machine has 0.0"
    with pytest.raises(UserError, match=said) as found:
        pool(1, arguments={"wrong": True})
    assert found.value.code == 2


def test_a_place_that_never_comes_names_what_is_wanted_and_free(pool, capsys):
    with pytest.raises(UserError) as found:
        pool(1, wait_for_resources=1.0, rollout={"place": "apart", "cores": 2, "resources": {"tpu": 1}})
    assert "wants 2 CPU, 1 tpu; node" in str(found.value)
    assert "16 of 16 CPU, 0 of 0 tpu free" in str(found.value)
    assert found.value.code == 2


def test_workers_that_began_before_a_place_did_not_come_leave_theirs(head):
    backend = RayBackend(spec(rollout={"place": "apart", "cores": 10}, wait_for_resources=1.0))
    with pytest.raises(UserError, match="each worker wants 10 CPU"):
        backend.start("rollout", range(2), Echo, {})
    backend.close()
    again = RayBackend(spec(rollout={"place": "apart", "cores": 10}, wait_for_resources=5.0))
    (alone,) = again.start("rollout", [0], Echo, {})
    assert alone.hello.where.startswith("rollout 0 ")
    again.close()


def test_a_worker_that_cannot_be_killed_gives_its_place_back(monkeypatch):
    from kilter.cluster.ray import Made, Owner

    def fails(actor):
        raise ValueError("ray.kill() only supported for actors")

    removed, backend = [], RayBackend.__new__(RayBackend)
    monkeypatch.setattr(ray, "kill", fails)
    monkeypatch.setattr(ray.util, "remove_placement_group", removed.append)
    backend.handles, backend._host, backend._own, backend._guard = [], None, False, None
    backend._owner = Owner()
    backend._owner.made = [Made("reward", 0, None, "its place")]
    backend.close()
    assert removed == ["its place"]


def test_the_ranks_of_a_learner_lie_on_as_many_machines_as_asked(head):
    learner = {"processes": 4, "nodes": 2, "cores": 1, "resources": {"ranks": 1}}
    backend = RayBackend(spec(learner=learner, wait_for_resources=1.0))
    with pytest.raises(UserError, match="finds no place: each machine wants 2 CPU, 2 ranks"):
        backend.start("learner", [0], Echo, {})
    nodes = [head.add_node(num_cpus=2, resources={"ranks": 2}) for _ in range(2)]
    backend = RayBackend(spec(learner=learner))
    places = [h.hello.node for h in backend.start("learner", range(4), Echo, {})]
    assert places[0] == places[1] != places[2] == places[3]
    backend.close()
    for node in nodes:
        head.remove_node(node)


def group_run(tiny, prompts, out, connect=RayBackend, **fields):
    """Metrics of a run whose learner may be a group on Ray."""
    from kilter.data.dataset import DataSpec, load
    from kilter.training.config import TrainSpec
    from kilter.training.parallel import launch
    from kilter.training.trainer import Trainer
    from test_ahead import letters

    settings = {
        "method": "grpo",
        "batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "save_every": 1,
        "prompts": "$data",
        "feedback": f"{letters(out.parent)}:letters",
        "sampler": {"samples": 4, "max_new_tokens": 10},
        "monitors": {"allow_truncation": True, "gold_every": 1000},
    }
    spec = TrainSpec.model_validate(settings | fields)
    data = load(DataSpec(path=str(prompts), heldout=0.0), "prompts")
    launch.train(Trainer(spec, tiny, data.train, [], out, connect=connect))
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


APART_2 = {"address": "auto", "learner": {"processes": 2}, "rollout": {"place": "apart", "engines": 2}}


def test_a_divided_learner_of_two_ranks_that_share_an_engine_equals_one_process(head, tiny, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {chr(97 + i)}"}) + "\n" for i in range(16)))
    one = group_run(tiny, prompts, tmp_path / "one")
    apart = APART_2 | {"rollout": {"place": "apart", "engines": 1}}
    two = group_run(tiny, prompts, tmp_path / "two", fsdp=True, cluster=apart)
    for name in ("loss", "grad_norm", "reward"):
        assert [r[name] for r in two] == pytest.approx([r[name] for r in one], rel=1e-4, abs=1e-4)


def test_a_run_outlives_the_machine_of_its_only_rollout_worker(head, tiny, tmp_path):
    """Another one is spare. Ray itself takes 19 s to miss a machine."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {chr(97 + i)}"}) + "\n" for i in range(16)))
    machines = [head.add_node(num_cpus=1, resources={"rollouts": 1}) for _ in range(2)]
    rollout = {"place": "apart", "resources": {"rollouts": 1}}
    backends, lost, out = [], [], tmp_path / "run"

    def connect(spec):
        backends.append(RayBackend(spec))
        return backends[-1]

    def lose():
        node = backends[0].handles[0].hello.node
        lost.append(time.monotonic())
        head.remove_node(next(n for n in machines if n.node_id == node), allow_graceful=False)

    cluster = {"address": "auto", "rollout": rollout, "restarts": 1}
    when_step(out, 2, lose)
    rows = group_run(tiny, prompts, out, connect=connect, cluster=cluster, max_steps=6)
    assert [r["step"] for r in rows] == [1, 2, 3, 4, 5, 6]
    assert time.monotonic() - lost[0] <= 60
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert len([e for e in events if "lost worker" in e["message"]]) == 1
    assert len({handle.hello.node for handle in backends[0].handles}) == 2
    kept = next(n for n in machines if n.node_id == backends[0].handles[-1].hello.node)
    head.remove_node(kept)


def when_step(out, step, act):
    """Does something in a thread when a run has logged a step."""

    def watch():
        path = out / "metrics.jsonl"
        while not path.is_file() or len(path.read_text().splitlines()) < step:
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()


def ranks_of(folder):
    """Process ids of a learner's ranks."""
    found = [p for p in psutil.process_iter() if str(folder) in " ".join(cmdline(p))]
    return [p.pid for p in found if "kilter.training.parallel.worker" in " ".join(cmdline(p))]


def childless():
    """Actors of this Ray that hold no rank, whose process would be their child. Others may run beside it."""
    actors = [p for p in psutil.Process().children(recursive=True) if "ray::Actor" in " ".join(cmdline(p))]
    return {p.pid for p in actors if not p.children()}


def cmdline(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_learner_that_loses_a_rank_goes_on_from_its_checkpoint(head, tiny, tmp_path, capfd):
    """Two ranks with all weights each equal one process, before and after."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {chr(97 + i)}"}) + "\n" for i in range(16)))
    one = group_run(tiny, prompts, tmp_path / "one", max_steps=20)
    out, victims, workers = tmp_path / "two", [], []

    def kill():
        workers.append(childless())
        victims.append(max(ranks_of(out)))
        os.kill(victims[0], signal.SIGKILL)

    # On a busy machine a kill takes some steps to come in.
    when_step(out, 2, kill)
    when_step(out, 19, lambda: workers.append(childless()))
    rows = group_run(tiny, prompts, out, cluster=APART_2, max_steps=20)
    assert [r["step"] for r in rows] == list(range(1, 21))
    # The ranks are new. Their workers are the same processes, with the weights of the new learner in them.
    assert len(workers[0]) == 2
    assert workers[0] == workers[1]
    assert all(map(gone, workers[0]))
    for name in ("loss", "grad_norm", "reward"):
        assert [r[name] for r in rows] == pytest.approx([r[name] for r in one], rel=1e-4, abs=1e-4)
    said = " ".join(capfd.readouterr().err.split())  # a terminal breaks its lines
    assert "got SIGKILL" in said
    assert "resuming after step" in said
    assert victims
    # Both stand in the log of the run, and so in its report.
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    (restart,) = [e for e in events if e["monitor"] == "learner restarted"]
    assert "got SIGKILL" in restart["message"]
    assert restart["action"] == f"resumed after step {restart['step']}; the run goes on"
    assert restart["step"] >= 1
    assert not ranks_of(out)


def test_a_divided_critic_that_is_killed_costs_the_group_its_steps_and_no_number(head, tiny, tmp_path, capfd):
    """Two ranks and two processes of the critic, each with its part of the weights; then one is killed."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {chr(97 + i)}"}) + "\n" for i in range(16)))
    method = {"method": {"name": "ppo", "beta": 0.05}, "critic": {"learning_rate": 3e-3, "warmup_steps": 1}}
    one = group_run(tiny, prompts, tmp_path / "one", **method, max_steps=5)
    out, victims = tmp_path / "two", []

    def kill():
        victims.append(max(childless()))
        os.kill(victims[0], signal.SIGKILL)

    when_step(out, 2, kill)
    cluster = {"address": "auto", "learner": {"processes": 2}, "critic": {"place": "apart", "processes": 2}}
    two = group_run(tiny, prompts, out, **method, max_steps=5, fsdp=True, cluster=cluster)
    assert victims
    assert "No critic worker is left (critic " in " ".join(capfd.readouterr().err.split())
    # The places of its workers are free again, though the process that launched it lives on.
    end = time.monotonic() + 10
    while ray.available_resources()["CPU"] < ray.cluster_resources()["CPU"] and time.monotonic() < end:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]
    for name in ("loss", "grad_norm", "reward"):
        assert [r[name] for r in two] == pytest.approx([r[name] for r in one], rel=1e-4, abs=1e-4)


PLACED = [
    ("grpo", {"rollout": {"engines": 2}}),
    ("ppo", {"rollout": {}, "reward": {"copies": 2}, "reference": {}, "critic": {"processes": 2}}),
    ("online_dpo", {"rollout": {}, "reward": {}, "reference": {"copies": 2}}),
    ("sft", {"rollout": {}, "reward": {}}),
    ("distill", {"rollout": {}, "reward": {}, "teacher": {}}),
]


class Lasting(RayBackend):
    """Outlives a run, and with it the processes of the run's workers."""

    def close(self):
        self.release()


@pytest.fixture(scope="module")
def backend(head):
    """One for all placements: a run takes over the processes that an earlier one has left, whose code is read."""
    made = Lasting(spec())
    yield made
    RayBackend.close(made)


@pytest.mark.parametrize(("method", "roles"), PLACED, ids=[name for name, _ in PLACED])
def test_in_turn_ray_changes_nothing(backend, tiny, folder, tmp_path, method, roles):
    from test_apart import METHODS, run, same

    here = run(tiny, folder, tmp_path / "here", **METHODS[method])
    cluster = {role: {"place": "apart"} | more for role, more in roles.items()}
    cluster |= {"address": "auto", "verify_weights": 1}
    earlier = len(backend.handles)
    there = run(tiny, folder, tmp_path / "there", cluster=cluster, backend=backend, **METHODS[method])
    same(here, there)
    assert {handle.where.split()[0] for handle in backend.handles[earlier:]} == set(roles)


@pytest.mark.parametrize("way", ["object", "file"])
def test_twenty_publications_arrive_and_a_changed_byte_costs_the_worker(head, tmp_path, way):
    import torch

    from kilter.cluster.weights import FileTransport, ObjectTransport
    from kilter.training.apart.rollouts import PooledSampler
    from kilter.types import Weights
    from ray_workers import Weighing

    told, compared, backend = [], [], RayBackend(spec())
    (tmp_path / "marker").touch()
    tell = lambda what, detail: told.append(detail)
    arguments = {"marker": str(tmp_path / "marker")}
    workers = Pool(backend, "rollout", 2, Weighing, arguments, 30.0, Restarts(1), tell)
    weights = {"a": torch.randn(3, 4), "b": torch.randn(1000).to(torch.bfloat16)}
    send = ObjectTransport(backend) if way == "object" else FileTransport(tmp_path / "weights")
    sampler = PooledSampler(workers, send, lambda: weights, verify=1)
    try:
        for version in range(1, 21):
            weights["a"] += 1
            weights["b"] -= 1
            sampler.sync(Weights(version))
            asked = sampler._publications[-1].asked
            sampler.settle()
            compared += [r.report.value.checksums for r in asked if r.report.value.version == version]
    finally:
        backend.close()
    assert len(compared) == 40
    assert len(told) == 1
    assert "rollout 0 (node " in told[0]
    assert "other weights than the learner (1 tensors, the first is b), after" in told[0]
    assert f"of version 7 were sent by {way}" in told[0]


def test_twenty_publications_leave_two_copies_and_no_growth(head, capsys, monkeypatch):
    """As bench.publish has it with 100 of 538 MB: what the store holds, and what the driver keeps."""
    monkeypatch.syspath_prepend(TESTS.parent)
    from bench import publish

    with pytest.raises(SystemExit) as ended:
        publish.main(["--megabytes", "32", "--times", "20", "--verify", "5"])
    said = capsys.readouterr().out
    assert ended.value.code == 0, said
    assert "copies in the store" in said
