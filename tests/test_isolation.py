"""Functions of the user's own: bounded in time, cut off from the terminal, and nothing of them is left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kilter import feedback
from kilter.feedback import isolation
from kilter.feedback.isolation import PATIENCE
from kilter.types import Completion, Feedback, Group, Prompt

REWARDS = """
import builtins, os, subprocess, sys, time
from pathlib import Path

def asks(prompt, completion): return float(input("score? "))
def stops(prompt, completion): breakpoint(); return 1.0
def reads(prompt, completion): return float(len(sys.stdin.buffer.read())) + 1
def low(prompt, completion): return float(len(os.read(0, 10))) + 1
def pauses(prompt, completion): os.system("read line"); subprocess.run(["cat"]); return 1.0
def sleeps(prompt, completion): time.sleep(60); return 1.0
def ends(prompt, completion): note(); os._exit(0)
def crashes(prompt, completion): note(); os.abort()
def raises(prompt, completion): note(); raise KeyError("[/INST]")

class Mute(Exception):
    def __str__(self): raise ValueError("no message")

def mute(prompt, completion): note(); raise Mute

def forks(prompt, completion):
    # The child comes back too: at once, late, or with an error.
    text = completion.text
    if not os.fork():
        time.sleep(0.2 * text.count("l"))
        if "r" in text: raise KeyError("of the child")
        return -1.0
    return float(len(text))

def note():
    with open(__file__ + ".calls", "a") as file: file.write("x")

def starts(prompt, completion):
    child = subprocess.Popen(["sleep", "300"])
    # A service that has left its session and its parent.
    other = subprocess.run(["sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True)
    Path(__file__ + ".pids").write_text(f"{child.pid} {other.stdout}")
    while completion.text == "hang": time.sleep(1)
    return 1.0
"""


@pytest.fixture
def rewards(tmp_path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(REWARDS)
    return path


def judged(path: Path, name: str, texts: list[str], timeout: float = 20) -> list[Feedback]:
    source = feedback.build({f"{path}:{name}": {"timeout": timeout}}, feedback.Context(None))
    group = Group(Prompt(text="x"), tuple(map(Completion, texts)), (Feedback(None),) * len(texts))
    return source([group])[0]


def alive(pids: list[int]) -> list[int]:
    return [p for p in pids if Path(f"/proc/{p}/stat").exists()]


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + 10
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pids)


@pytest.mark.parametrize(
    ("name", "score", "why"),
    [
        ("asks", None, "raised EOFError"),
        ("stops", None, "raised RuntimeError: breakpoint() was called, and nobody can answer it here"),
        ("reads", 1.0, ""),
        ("low", 1.0, ""),
        ("pauses", 1.0, ""),
    ],
)
def test_nothing_waits_for_a_person(rewards, name, score, why):
    found = judged(rewards, name, ["a", "b"])
    assert [f.score for f in found] == [score] * 2
    assert all(why in f.rationale for f in found)


@pytest.mark.parametrize(
    ("name", "why", "calls"),
    [
        ("ends", "exit code 0", PATIENCE),
        ("crashes", "exit code 134", PATIENCE),
        ("raises", "[/INST]", 6),
        ("mute", "raised Mute, whose message cannot be read", 6),
    ],
)
def test_patience_covers_what_costs_a_worker_and_nothing_else(rewards, name, why, calls):
    found = judged(rewards, name, ["a"] * 6)
    assert [f.score for f in found] == [None] * 6
    assert [why in f.rationale for f in found] == [True] * 6
    assert ["not called" in f.rationale for f in found] == [i >= calls for i in range(6)]
    assert len(Path(f"{rewards}.calls").read_text()) == calls


def test_verifiers_have_patience_too(monkeypatch):
    from kilter.feedback import verifiers

    monkeypatch.setattr(verifiers, "TIMEOUT", 0.2)
    source = feedback.build({"regex": "(a+)+$"}, feedback.Context(None))
    groups = [Group(Prompt(text="x"), (Completion("a" * 40 + "b"),), (Feedback(None),))] * 5
    found = [
        f[0].rationale
        for f in source([*groups, Group(Prompt(text="x"), (Completion("a"),), (Feedback(None),))])
    ]
    assert ["not called" in why for why in found] == [False] * PATIENCE + [True] * 3
    assert all("longer than 0.2 s" in why for why in found)


def test_a_child_that_a_function_forked_answers_nothing(rewards):
    texts = ["a", "lb", "ccc", "rddd", "lreee", "ffffff", "ggggggg"]
    assert [f.score for f in judged(rewards, "forks", texts)] == [1, 2, 3, 4, 5, 6, 7]


def test_an_answer_to_another_call_is_not_taken():
    worker = isolation.Worker()
    inside, outside = os.pipe()
    answers = [(number, pickle.dumps((number, ""))) for number in (1, 2, 3)]
    for number, message in answers:
        os.write(outside, isolation.HEADER.pack(number, len(message)) + message)
    worker._receive, worker._number = inside, 3
    assert pickle.loads(worker._read(1.0)) == (3, "")
    assert worker._read(0.05) is None
    os.close(outside)
    with pytest.raises(EOFError):
        worker._read(1.0)
    os.close(inside)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_what_a_function_started_ends_with_it(rewards):
    (found,) = judged(rewards, "starts", ["hang"], timeout=1.0)
    assert "longer than 1 s" in found.rationale
    pids = [int(p) for p in Path(f"{rewards}.pids").read_text().split()]
    assert len(pids) == 2
    assert gone(pids)


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_isolation import judged
judged(Path(sys.argv[1]), "starts", [sys.argv[3]], 300)
print("scored", flush=True)
input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
@pytest.mark.parametrize("text", ["hang", "idle"])
def test_nothing_outlives_a_run_that_is_killed(rewards, text):
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(rewards), str(Path(__file__).parent), text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    note = Path(f"{rewards}.pids")
    end = time.monotonic() + 60
    while not note.exists() or len(note.read_text().split()) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    pids = [int(p) for p in note.read_text().split()]
    # The worker and its guardian: those whose parent is the run, or a child of it.
    family = [run.pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        parent = int(path.read_text().rpartition(")")[2].split()[1])
        family += [int(path.parent.name)] if parent in family else []
    assert len(alive(pids)) == 2
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert gone([*pids, *family])
