"""The process that asks an endpoint for a command: what it keeps where the command dies, and where it dies itself."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from kilter.errors import RunFailed, UserError
from kilter.feedback.judge.build import CACHE
from kilter.feedback.judge.verdict import Comparison
from kilter.roles import courier
from kilter.roles.paid import Bill
from kilter.roles.replies import Process, Replies, finish
from test_judge_endpoints import KEY, Endpoint, judge, longer_wins, pairs

COMMAND = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from test_judge_endpoints import judge, pairs

class Where:
    url = sys.argv[1]

os.environ["OPENAI_ORG_ID"] = f"0 {os.getpid()}"
if sys.argv[4] == "forks" and not os.fork():
    time.sleep(60)
judge(Where, Path(sys.argv[2]), sampler={"concurrency": 2}).compare(pairs(1))
if sys.argv[4] == "late" and not os.fork():
    time.sleep(60)  # holds what the command held, the pipe to the courier among it
judge(Where, Path(sys.argv[2]), sampler={"concurrency": 2}).compare(pairs(8))
"""


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


def command(endpoint, folder, how="alone", script=COMMAND, **more):
    """A process of its own that asks for verdicts."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", script, endpoint.url, str(folder), os.path.dirname(__file__), how]
    return subprocess.Popen(arguments, env=environment, start_new_session=True, **more)


def rows(folder, what):
    with contextlib.closing(sqlite3.connect(folder / CACHE)) as base:
        return base.execute(what).fetchall()


@pytest.mark.parametrize("how", ["alone", "forks", "late"])
def test_the_next_command_waits_for_the_calls_of_a_killed_one(endpoint, tmp_path, caplog, how):
    """Also where a fork of it still holds the pipe; and a command that lives is waited for by nobody."""
    held, free = threading.Event(), threading.Event()

    def answer(body, n):
        if n > 4 and not free.is_set():
            held.set()
            free.wait(30)
        return longer_wins(body, n)

    endpoint.answer = answer
    asking = command(endpoint, tmp_path, how)
    try:
        assert held.wait(60)
        Replies(tmp_path / CACHE).close()  # at once: the command lives
        asked = len(endpoint.bodies)
        asking.kill()
        os.waitid(os.P_PID, asking.pid, os.WEXITED | os.WNOWAIT)  # a busy machine kills later
        threading.Timer(1.5, free.set).start()
        begin = time.monotonic()
        found = judge(endpoint, tmp_path, sampler={"concurrency": 2}).compare(pairs(8))
        assert time.monotonic() - begin > 1.0
    finally:
        os.killpg(asking.pid, signal.SIGKILL)
        asking.wait()
    assert all(j.p is not None for j in found)
    assert "waits for the calls that a killed command left under way" in caplog.text
    assert len(endpoint.bodies) == rows(tmp_path, "SELECT COUNT(*) FROM replies")[0][0] == 16
    assert asked >= 5
    assert len({json.dumps(b["messages"]) for b in endpoint.bodies}) == 16


def test_who_reads_what_a_killed_command_printed_does_not_wait_and_a_replay_does(endpoint, tmp_path, caplog):
    held, free = threading.Event(), threading.Event()

    def answer(body, n):
        held.set()
        free.wait(30)
        return longer_wins(body, n)

    endpoint.answer = answer
    with command(endpoint, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
        try:
            assert held.wait(60)
            asking.kill()
            asking.communicate()  # to the end of both pipes, while the endpoint is silent
        finally:
            threading.Timer(0.5, free.set).start()
    replayed = Replies(tmp_path / CACHE, reading=True)
    assert "waits for the calls that a killed command left under way" in caplog.text
    assert len(replayed) >= 1
    replayed.close()


def test_what_a_killed_command_left_under_way_counts_towards_max_cost(endpoint, tmp_path):
    price = {"prompt": 1e6, "completion": 1e6}
    endpoint.answer = lambda body, n: (
        os.kill(int(body["asked by"].split()[1]), signal.SIGKILL) or longer_wins(body, n)
    )
    script = COMMAND.replace('sampler={"concurrency": 2}', f'sampler={{"concurrency": 1}}, price={price}')
    assert command(endpoint, tmp_path, script=script).wait() == -signal.SIGKILL
    endpoint.answer = longer_wins
    bill = Bill(1e12)
    judge(endpoint, tmp_path, bill, sampler={"concurrency": 1}, price=price, max_cost=1e12).compare(pairs(1))
    assert bill.calls == 1
    assert bill.spent == pytest.approx(rows(tmp_path, "SELECT SUM(cost) FROM paid")[0][0])
    assert bill.spent == pytest.approx(2 * bill.cost)


def test_all_judges_of_a_command_share_one_courier_and_end_with_their_folder(endpoint, tmp_path):
    both = [judge(endpoint, tmp_path / name) for name in ("one", "two")]
    for one in both:
        one.compare(pairs(2))
    line = courier._LINES.line()
    assert line.process.poll() is None
    assert rows(tmp_path / "one", "SELECT pid, command FROM couriers") == [(line.process.pid, os.getpid())]
    finish(tmp_path)
    for name in ("one", "two"):
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == [CACHE]
        assert rows(tmp_path / name, "SELECT * FROM couriers") == []
    assert line.process.poll() is None


def test_a_courier_that_dies_is_named_and_the_next_question_finds_another(endpoint, tmp_path):
    first = judge(endpoint, tmp_path)
    first.compare(pairs(1))
    line = courier._LINES.line()
    endpoint.answer = lambda body, n: line.process.kill() or longer_wins(body, n)
    with pytest.raises(
        RunFailed, match=r"asks the endpoint has ended \(exit code -9\)\.\nFix: Run the same command"
    ):
        first.compare(pairs(3))
    endpoint.answer = longer_wins
    assert all(j.p is not None for j in judge(endpoint, tmp_path).compare(pairs(3)))
    assert courier._LINES.line() is not line


def test_what_is_wrong_is_raised_here_and_what_is_said_is_logged_here(
    endpoint, tmp_path, monkeypatch, caplog
):
    endpoint.answer = lambda body, n: (
        (400, '{"error": {"message": "temperature is not supported"}}', {})
        if "temperature" in body
        else longer_wins(body, n)
    )
    judge(endpoint, tmp_path, read="text").compare(pairs(1))
    assert "its replies are drawn" in caplog.text
    monkeypatch.setenv("OPENAI_API_KEY", "two\nlines")
    with pytest.raises(UserError, match="`OPENAI_API_KEY` holds a character") as told:
        judge(endpoint, tmp_path / "other").compare(pairs(1))
    assert told.value.field == "OPENAI_API_KEY"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert judge(endpoint, tmp_path / "other").compare(pairs(1))[0].p is not None


def test_questions_larger_than_a_pipe_hold_up_nobody(endpoint, tmp_path):
    ask = pairs(1)[0].prompt
    long = [Comparison(ask, f"{n} " + "a" * 300_000, "b" * 100_000) for n in range(12)]
    found = judge(endpoint, tmp_path, max_length=1_000_000, sampler={"concurrency": 8}).compare(long)
    assert all(j.p is not None for j in found)


def test_a_full_disk_is_named(endpoint, tmp_path):
    asked = judge(endpoint, tmp_path)
    asked.compare(pairs(1))
    with contextlib.closing(sqlite3.connect(tmp_path / CACHE)) as base:
        base.execute(
            "CREATE TRIGGER full BEFORE INSERT ON replies BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
        base.commit()
    with pytest.raises(RunFailed, match=r"has failed \(IntegrityError: disk is full\)"):
        asked.compare(pairs(2))


def test_nothing_shows_the_key(endpoint, tmp_path):
    asked = judge(endpoint, tmp_path)
    asked.compare(pairs(1))
    shown = subprocess.run(["ps", "-efww"], capture_output=True, text=True, check=True).stdout
    assert "courier.main()" in shown
    assert KEY not in shown
    for path in tmp_path.rglob("*"):
        assert KEY.encode() not in path.read_bytes()


def test_a_process_is_its_number_and_its_beginning():
    own = Process.now()
    assert own.lives
    assert not Process(own.host, own.pid, own.born - 10).lives
    child = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    child.stdout.read()
    child.stdout.close()
    zombie = Process(own.host, child.pid, time.time())
    deadline = time.monotonic() + 10
    while zombie.lives and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not zombie.lives
    child.wait()
    assert not zombie.lives


def test_a_courier_that_dies_within_a_line_is_named(monkeypatch):
    """Half a line is no answer, and whoever waits for one must hear that none comes."""
    half = 'import os; os.read(0, 1); os.write(1, b\'{"number": 0, "found": [{"text": "a lo\')'
    monkeypatch.setattr(courier, "PROGRAM", half)
    line = courier._Line()
    with pytest.raises(RunFailed, match=r"has ended \(exit code 0\)"):
        line.send({"asks": []})[1].result(30)
    line.end()


def test_a_long_line_that_is_written_in_parts_arrives_whole(monkeypatch):
    """A write into a pipe ends early where the process was stopped meanwhile."""
    read, write = os.pipe()
    out = courier._Outbox(write)
    file = out._file
    monkeypatch.setattr(out, "_file", type("Parts", (), {"write": lambda self, data: file.write(data[:7])})())
    out.say({"number": 1, "found": "x" * 100})
    assert json.loads(os.read(read, 1000)) == {"number": 1, "found": "x" * 100}
    file.close()
    os.close(read)


def test_a_judge_that_is_collected_while_another_asks_holds_up_nobody(endpoint, tmp_path, monkeypatch):
    other, dumps = judge(endpoint, tmp_path / "other"), json.dumps
    other.compare(pairs(1))
    other.itself = other  # a cycle, as a traceback makes one
    asked = judge(endpoint, tmp_path / "one")
    asked.compare(pairs(1))
    gc.collect()

    def collecting(told, **how):
        if isinstance(told, dict) and "asks" in told:
            gc.collect()
        return dumps(told, **how)

    gc.disable()
    try:
        del other
        monkeypatch.setattr(courier.json, "dumps", collecting)
        found = []
        asking = threading.Thread(target=lambda: found.extend(asked.compare(pairs(3))), daemon=True)
        asking.start()
        asking.join(30)
    finally:
        gc.enable()
    assert len(found) == 3
    deadline = time.monotonic() + 30
    while rows(tmp_path / "other", "SELECT * FROM couriers") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rows(tmp_path / "other", "SELECT * FROM couriers") == []


def test_an_orphan_waits_for_no_orphan(tmp_path):
    """Of two files of one command, a courier that came late to the second would wait for itself."""
    dead = Process(Process.now().host, 2**22 + 1, 0.0)
    first = Replies(tmp_path / CACHE)
    first.entrust(0, dead)
    opened = []
    late = threading.Thread(
        target=lambda: opened.append(Replies(tmp_path / CACHE, command=dead)), daemon=True
    )
    late.start()
    late.join(10)
    assert opened
    first.dismiss(0)


def test_modules_that_lie_in_the_folder_are_not_read(endpoint, tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    line = courier._Line()
    monkeypatch.setattr(courier._LINES, "_line", line)
    assert judge(endpoint, tmp_path / "one").compare(pairs(1))[0].p is not None
    finish(tmp_path)
    line.end()


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_courier_that_is_told_to_end_keeps_what_is_under_way(endpoint, tmp_path, told):
    asked = judge(endpoint, tmp_path)
    asked.compare(pairs(1))
    line = courier._LINES.line()
    endpoint.answer = lambda body, n: os.kill(line.process.pid, told) or longer_wins(body, n)
    assert all(j.p is not None for j in asked.compare(pairs(4)))
    assert courier._LINES.line() is line


def test_a_fork_that_asks_what_its_parent_opened_is_told(endpoint, tmp_path, monkeypatch):
    """Its answers would go to its parent, and it would wait for ever."""
    asked = judge(endpoint, tmp_path)
    asked.compare(pairs(1))
    with monkeypatch.context() as fork:
        fork.setattr(courier._LINES.line(), "_owner", os.getppid())
        with pytest.raises(RunFailed, match=r"A fork asks .*\nFix: Make the judge or critic in the fork"):
            asked.compare(pairs(2))
    assert asked.compare(pairs(2))[1].p is not None


def test_a_file_that_nobody_can_write_is_replayed_and_is_never_to_be_removed(endpoint, tmp_path, monkeypatch):
    found = judge(endpoint, tmp_path).compare(pairs(2))
    finish(tmp_path)
    access, connect = os.access, sqlite3.connect
    monkeypatch.setattr(os, "access", lambda path, how: how != os.W_OK and access(path, how))

    def fixed(address, **how):
        if "immutable" not in address:
            raise sqlite3.OperationalError("unable to open database file")
        return connect(address, **how)

    monkeypatch.setattr(sqlite3, "connect", fixed)
    assert judge(endpoint, tmp_path, replay=True).compare(pairs(2)) == found
    with pytest.raises(UserError, match="cannot be used .unable to open database file.") as told:
        judge(endpoint, tmp_path)
    assert "remove" not in str(told.value)


def test_a_path_with_marks_of_an_address_is_a_path(endpoint, tmp_path):
    folder = tmp_path / "50% of #1?mode=memory"
    assert judge(endpoint, folder).compare(pairs(1))[0].p is not None
    finish(folder)
    assert [p.name for p in folder.iterdir()] == [CACHE]


def test_a_row_that_a_full_disk_keeps_ends_no_courier(endpoint, tmp_path):
    asked = judge(endpoint, tmp_path)
    asked.compare(pairs(1))
    with contextlib.closing(sqlite3.connect(tmp_path / CACHE)) as base:
        base.execute("CREATE TRIGGER full BEFORE DELETE ON couriers BEGIN SELECT RAISE(ABORT, 'full'); END")
        base.commit()
    finish(tmp_path)
    assert courier._LINES.line().process.poll() is None


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_labels_of_an_endpoint_need_no_torch(endpoint, tmp_path, more):
    """Its command starts in a fraction of the time, and keeps its memory for others."""
    lines = [{"prompt": f"Q{n}", "chosen": "a longer answer", "rejected": f"no {n}"} for n in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = {"sampler": {"name": "openai", "model": "m", "url": endpoint.url}, "read": "text"}
    (tmp_path / "judge.yaml").write_text(json.dumps(own))
    words = ["--data", "pairs.jsonl", "--feedback", "{judge: judge.yaml}", "--out", "judged", *more]
    code = f"import sys; sys.argv = ['kilter', 'label', *{words!r}]\nfrom kilter.cli import main\n"
    code += "try: main()\nexcept SystemExit as end: print('code', end.code, 'torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.stdout.strip().endswith("code 0 False"), ran.stdout + ran.stderr
