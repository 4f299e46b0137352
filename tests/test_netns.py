"""Two machines on one: network namespaces joined by a pair of cables, with no memory or folder in common.

make test-netns          # as root, where `ip netns add` is permitted
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="Ray is not installed (make test-ray)")
pytestmark = [pytest.mark.ray, pytest.mark.netns, pytest.mark.timeout(400)]

TESTS = Path(__file__).parent
NAMES = "kilter-a", "kilter-b"
CABLES = "kilter-va", "kilter-vb"
HOSTS = "10.99.7.1", "10.99.7.2"
BIN = Path(sys.executable).parent


def ip(*words, check=True):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)


def cut(up=False):
    ip("-n", NAMES[0], "link", "set", CABLES[0], "up" if up else "down")


def inside(n, *words, **kwargs):
    """A process in a namespace."""
    return subprocess.Popen(["ip", "netns", "exec", NAMES[n], *words], **kwargs)


def ended_all(names):
    """What Ray left behind in the namespaces ends with them."""
    for name in names:
        for pid in ip("netns", "pids", name, check=False).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@pytest.fixture(scope="module")
def cable():
    if (
        os.geteuid() != 0
        or shutil.which("ip") is None
        or ip("netns", "add", NAMES[0], check=False).returncode
    ):
        pytest.skip("network namespaces need root, and the right to make them")
    ip("netns", "add", NAMES[1])
    ip("link", "add", CABLES[0], "type", "veth", "peer", "name", CABLES[1])
    for name, cable, host in zip(NAMES, CABLES, HOSTS, strict=True):
        ip("link", "set", cable, "netns", name)
        ip("-n", name, "addr", "add", f"{host}/24", "dev", cable)
        ip("-n", name, "link", "set", cable, "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield
    ended_all(NAMES)
    for name in NAMES:
        ip("netns", "del", name)


# The other machine can write to its own memory alone: its disk is read-only.
OTHER = (
    "mount -t tmpfs own /dev/shm && mount -t tmpfs own /tmp && mount -o remount,bind,ro / && mkdir /tmp/home &&"
    ' exec "$@"'
)


@pytest.fixture(scope="module")
def machines(cable, tmp_path_factory):
    """A head on one machine, a node on the other that rollouts take."""
    paths = [str(TESTS), str(TESTS.parent / "src")]
    env = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(paths),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        "HOME": "/tmp/home",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    log = (tmp_path_factory.mktemp("ray") / "ray.log").open("w")
    ray = [str(BIN / "ray"), "start", "--block", "--num-cpus=4", "--disable-usage-stats"]
    to = {"env": env, "stdout": log, "stderr": log, "start_new_session": True}
    head = inside(
        0, *ray, "--head", "--port=6399", f"--node-ip-address={HOSTS[0]}", "--include-dashboard=false",
        '--resources={"on_a": 4, "both": 1}', "--temp-dir=/tmp/kilter-netns", **to,
    )  # fmt: skip
    other = ["sh", "-c", OTHER, "sh", *ray, f"--address={HOSTS[0]}:6399", f"--node-ip-address={HOSTS[1]}"]
    time.sleep(5)
    node = inside(1, *other, '--resources={"on_b": 4, "both": 1}', **to)

    def run(script, *arguments):
        """A script on the first machine."""
        command = [sys.executable, "-c", script, *map(str, arguments)]
        return inside(0, *command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    yield SimpleNamespace(run=run, node=node, address=f"{HOSTS[0]}:6399")
    ended_all(NAMES)
    for process in (node, head):
        process.wait(20)
    log.close()
    shutil.rmtree("/tmp/kilter-netns", ignore_errors=True)


RUN = """
import sys
from pathlib import Path
from kilter.cluster.ray import RayBackend
from kilter.training.apart import gloo
from test_ahead import run
send = gloo.GlooTransport.send
def told(self, stream):
    print("by gloo:", stream.version, flush=True)
    return send(self, stream)
gloo.GlooTransport.send = told
model, prompts, out, address = sys.argv[1:]
rollout = {"place": "apart", "engines": 2, "resources": {"on_b": 1}}
run(Path(model), Path(prompts), Path(out), 0, connect=RayBackend, address=address, rollout=rollout,
    verify_weights=1, stall=100)
"""


def written(pid):
    """Files that a process's machine has, but for Ray's own with its logs, and Kilter's cache of checks."""
    root = Path(f"/proc/{pid}/root")
    files = [p.relative_to(root) for at in ("tmp", "dev/shm") for p in (root / at).rglob("*") if p.is_file()]
    return sorted(
        str(p)
        for p in files
        if not re.match(r"(tmp/(kilter-netns|ray|home/.cache/kilter)/|dev/shm/plasma)", str(p))
    )


def test_two_machines_that_share_nothing_make_the_run_of_one(machines, tiny, tmp_path):
    from test_ahead import NUMBERS, run

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {chr(97 + i)}"}) + "\n" for i in range(16)))
    here = run(tiny, prompts, tmp_path / "here")
    # Both have the model, each on its own disk.
    model = Path(f"/var/tmp/kilter-netns-{os.getpid()}")
    shutil.copytree(tiny, model)
    try:
        driver = machines.run(RUN, model, prompts, tmp_path / "there", machines.address)
        said = driver.communicate(timeout=300)[0]
    finally:
        shutil.rmtree(model)
    assert driver.returncode == 0, said[-3000:]
    assert [int(v) for v in re.findall(r"by gloo: (\d+)", said)][:7] == [0, 1, 2, 3, 4, 5, 6]
    there = [json.loads(line) for line in (tmp_path / "there" / "metrics.jsonl").read_text().splitlines()]
    for name in NUMBERS:
        assert [r[name] for r in there] == pytest.approx([r[name] for r in here], rel=1e-6, abs=1e-6)
    assert written(machines.node.pid) == []


CUT = """
import sys, time
from ray_workers import Echo
from kilter.cluster.pool import Pool, Restarts
from kilter.cluster.ray import RayBackend
from kilter.errors import RunFailed
from kilter.launch.spec import ClusterSpec
address, place, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
rollout = {"place": "apart", "resources": {place: 1}}
backend = RayBackend(ClusterSpec.model_validate({"address": address, "stall": 10, "rollout": rollout}))
tell = lambda what, detail: print(what, detail, flush=True)
pool = Pool(backend, "rollout", size, Echo, {}, 10.0, Restarts(int(sys.argv[4])), tell)
asked = [pool.submit("double", x, 5.0) for x in range(size)]
print("under way", flush=True)
begin = time.monotonic()
try:
    print("answers", [pool.result(r)[0] for r in asked], flush=True)
except RunFailed as error:
    print("ended", error, flush=True)
print("after", time.monotonic() - begin, flush=True)
"""


@pytest.mark.parametrize(
    ("place", "size", "restarts", "end_"), [("both", 2, 1, "answers"), ("on_b", 1, 0, "ended")]
)
def test_a_cut_cable_ends_or_redispatches_what_is_under_way(machines, place, size, restarts, end_):
    driver = machines.run(CUT, machines.address, place, size, restarts)
    said = ""
    try:
        while "under way" not in said:
            line = driver.stdout.readline()
            assert line, said
            said += line
        time.sleep(1)
        cut()
        said += driver.communicate(timeout=120)[0]
    finally:
        cut(up=True)
        driver.kill()
        driver.wait()
        driver.stdout.close()
    after = float(re.search(r"after ([\d.]+)", said)[1])
    assert after <= 10 + 30
    # Ray may place either of two workers there.
    assert re.search(rf"lost worker rollout \d \(node {HOSTS[1]}", said)
    assert len(re.findall("lost worker", said)) == 1
    assert (end_ + " [0, 2]" if end_ == "answers" else "No rollout worker is left") in said
