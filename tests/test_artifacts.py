"""Writing: files that are whole or absent, the life of a stage."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kilter
from kilter import artifacts, manifest
from kilter.errors import RunFailed, UserError

SOURCE = Path(kilter.__file__).parent


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: what a full disk looks like to a writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_processes_that_write_one_cache_file_at_once_do_not_disturb_each_other(tmp_path):
    code = (
        "import sys; from pathlib import Path; from kilter.artifacts import write_json\n"
        "for n in range(100): write_json(Path(sys.argv[1]), [n] * 500, shared=True)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "found.json")]
    started = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [p.communicate(timeout=60)[1] for p in started] == [""] * 3
    assert [p.returncode for p in started] == [0] * 3
    assert json.loads((tmp_path / "found.json").read_text()) == [99] * 500
    assert names(tmp_path) == {"found.json"}


def test_a_write_is_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "a.json"
    artifacts.write_json(path, {"a": Path("x")}, indent=1)
    artifacts.write_text(path.with_name("b.txt"), "ä\n")
    assert json.loads(path.read_text()) == {"a": "x"}
    assert (path.parent / "b.txt").read_bytes() == "ä\n".encode()
    assert names(path.parent) == {"a.json", "b.txt"}


def test_a_full_disk_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "a.json"
    artifacts.write_json(path, {"old": True})
    with (
        limited(1 << 16),
        pytest.raises(
            RunFailed, match=r"a\.json could not be written \(File too large\)\.\nFix: Free disk space"
        ),
    ):
        artifacts.write_json(path, {"old": "x" * (1 << 17)})
    assert json.loads(path.read_text()) == {"old": True}
    assert names(tmp_path) == {"a.json"}


def test_a_writer_that_fails_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "a"
    artifacts.write_text(path, "old")

    def half(partial: Path) -> None:
        partial.write_text("ne")
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        artifacts.write_by(path, half)
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a"}


def entry(**config: object) -> manifest.Manifest:
    return manifest.new("rm", "train", dict(config), {"data": "d"})


def test_the_life_of_a_stage(tmp_path):
    for name in ("checkpoints", "pinned"):
        (tmp_path / name).mkdir()
    with manifest.life(tmp_path, entry(seed=3)) as stage:
        at_work = manifest.read(tmp_path)
        assert at_work is not None
        assert (at_work.status, at_work.seed, at_work.key) == ("running", 3, stage.key)
        stage.outputs = {"model": "m"}
    done = manifest.read(tmp_path)
    assert done is not None
    assert (done.status, done.outputs) == ("done", {"model": "m"})
    assert names(tmp_path) == {"manifest.json"}


def test_a_stage_that_failed_goes_on_and_adds_its_seconds(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError), manifest.life(tmp_path, entry()):
        raise UserError("x", 1, "is wrong", "mend it")
    failed = manifest.read(tmp_path)
    assert failed is not None
    assert failed.status == "failed"
    failed.seconds = 100.0
    failed.write(tmp_path)
    with manifest.life(tmp_path, entry()):
        assert (tmp_path / "checkpoints").is_dir()
    with manifest.life(tmp_path, entry(other=1)) as another:
        another.status = "waiting"
    waiting = manifest.read(tmp_path)
    assert waiting is not None
    assert (waiting.status, waiting.seconds) == ("waiting", 0.0)


def test_a_run_that_monitors_stopped_keeps_its_pinned_checkpoints(tmp_path):
    for name in ("checkpoints", "pinned"):
        (tmp_path / name).mkdir()
    with manifest.life(tmp_path, entry()) as stage:
        stage.facts = {"stopped": "reward hacking"}
    assert names(tmp_path) == {"manifest.json", "pinned"}


def test_the_cause_of_a_failure_is_told_although_the_disk_is_full(tmp_path):
    @manifest.life(tmp_path, stage := entry())
    def work() -> None:
        stage.facts = {"large": "x" * (1 << 17)}
        raise UserError("x", 1, "is wrong", "mend it")

    with limited(1 << 16), pytest.raises(UserError, match="is wrong"):
        work()


ROWS = [{"step": n, "text": "ä\u2028" * n} for n in range(1, 5)]


def test_lines_are_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    assert list(artifacts.read_lines(path)) == []
    artifacts.append_lines(path, ROWS[:2])
    artifacts.append_lines(path, ROWS[2:3], flush=True, escape=False)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 4, "te')
    assert list(artifacts.read_lines(path)) == ROWS[:3]
    artifacts.append_lines(path, ROWS[3:])
    assert list(artifacts.read_lines(path)) == ROWS
    assert path.read_bytes().startswith(whole)


def test_a_torn_line_is_dropped_however_long_it_is(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n{"text": "' + b"x" * 200_000)
    artifacts.append_lines(path, [{"step": 2}])
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    path.write_bytes(b"x" * 70_000)
    artifacts.append_lines(path, [{"step": 1}])
    assert path.read_bytes() == b'{"step": 1}\n'


def test_lines_are_cut_after_a_step(tmp_path):
    path = tmp_path / "a.jsonl"
    artifacts.append_lines(path, ROWS)
    with path.open("a") as file:
        file.write('{"st')
    artifacts.cut_lines(path, lambda row: row["step"] <= 9)
    assert path.read_bytes().endswith(b"}\n")
    artifacts.cut_lines(path, lambda row: row["step"] <= 2)
    assert list(artifacts.read_lines(path)) == ROWS[:2]
    artifacts.cut_lines(path, lambda row: row["step"] <= 0)
    assert path.read_bytes() == b""
    artifacts.cut_lines(tmp_path / "absent.jsonl", lambda row: False)
    assert names(tmp_path) == {"a.jsonl"}


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\ngarbage\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2.*\n.*Fix: Cut the file back"):
        list(artifacts.read_lines(path))


def test_lines_that_do_not_fit_leave_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.jsonl"
    artifacts.append_lines(path, ROWS)
    before = path.read_bytes()
    rows = [{"text": "x" * 100_000}] * 30
    with limited(1 << 20), pytest.raises(RunFailed, match=r"a\.jsonl could not be written"):
        artifacts.append_lines(path, rows)
    assert path.read_bytes() == before
    with pytest.raises(TypeError):
        artifacts.append_lines(path, [*rows, object()])
    assert path.read_bytes() == before


def test_a_folder_is_whole_or_absent(tmp_path):
    folder = tmp_path / "model"
    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".model.partial" / "of a killed process").touch()
    for text in ("old", "new"):
        with artifacts.whole_folder(folder) as partial:
            (partial / "sub").mkdir()
            (partial / "sub" / "weights").write_text(text)
            assert folder.exists() == (text == "new")
        assert (folder / "sub" / "weights").read_text() == text
        assert names(tmp_path) == {"model"}

    @artifacts.whole_folder(folder, "the model", note="last good: none")
    def fill() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        RunFailed, match=r"(?s)^The model could not be written to .*No space.*\n(?i:last good).*Fix:"
    ):
        fill()
    assert (folder / "sub" / "weights").read_text() == "new"
    assert names(tmp_path) == {"model"}


def test_an_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    folder, original = tmp_path / "model", os.replace
    with artifacts.whole_folder(folder) as partial:
        (partial / "weights").write_text("old")

    def replace(source: Path, target: Path) -> None:
        if source.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        original(source, target)

    monkeypatch.setattr(artifacts.os, "replace", replace)
    with pytest.raises(RunFailed, match="model could not be written"), artifacts.whole_folder(folder):
        pass
    assert (folder / "weights").read_text() == "old"
    assert names(tmp_path) == {"model"}


def test_of_two_that_make_a_shared_folder_the_first_one_stays(tmp_path):
    folder = tmp_path / "model"
    with artifacts.whole_folder(folder, shared=True) as partial:
        (partial / "weights").write_text("mine")
        folder.mkdir()
        (folder / "weights").write_text("first")
    assert (folder / "weights").read_text() == "first"
    assert names(tmp_path) == {"model"}


def test_the_first_of_several_writes(tmp_path):
    path = tmp_path / "cause.json"
    assert artifacts.write_first(path, {"rank": 1})
    assert not artifacts.write_first(path, {"rank": 0})
    assert json.loads(path.read_text()) == {"rank": 1}
    assert names(tmp_path) == {"cause.json"}


def test_a_folder_steps_aside(tmp_path):
    for _ in range(2):
        (tmp_path / "rm").mkdir()
        assert artifacts.set_aside(tmp_path / "rm", tmp_path / ".superseded").is_dir()
    assert len(names(tmp_path / ".superseded")) == 2


IDIOMS = re.compile(r"os\.replace|os\.rename|shutil\.move|\.rename\(|\.write_text\(|\.open\(\"[wax]")
MEMORY = "a folder in memory, which goes with the process"
CODECS = {"artifacts.py": "all of them", "vllm_weights.py": MEMORY, "vllm_ends.py": MEMORY}


def test_nothing_else_writes_or_renames_files():
    found = {
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        if path.name not in CODECS
        for line in path.read_text().splitlines()
        if IDIOMS.search(line)
    }
    assert not found


HOLDER = """
import os, sys, time
from pathlib import Path
from kilter.artifacts import lock
with lock(Path(sys.argv[1])):
    if not (os.environ.get("FORK") and os.fork()):
        print("held", flush=True)
    time.sleep(60)
    os._exit(0)
"""


@contextlib.contextmanager
def holder(folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A second process that holds the lock of a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE.parent)} | environment,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_folder_in_use_names_its_holder(tmp_path):
    folder = tmp_path / "run"
    with holder(folder) as process:
        with (
            pytest.raises(
                UserError, match=rf"(?s)--out` = .*run.*in use by process {process.pid} on .*Fix: Wait"
            ) as no,
            artifacts.lock(folder, "--out"),
        ):
            pass
        assert no.value.code == 2
    with artifacts.lock(folder):  # its holder was killed, and left the file behind
        assert str(os.getpid()) in (folder / ".lock").read_text()
        assert process.pid != os.getpid()
    assert names(folder) == set()


def test_a_child_of_a_dead_holder_does_not_hold_the_lock(tmp_path):
    with holder(tmp_path, FORK="1") as process:
        process.kill()
        process.wait()
        with artifacts.lock(tmp_path):
            pass


def test_one_process_cannot_take_a_folder_twice_and_workers_do_not_take_it(tmp_path, monkeypatch):
    with artifacts.lock(tmp_path):
        with pytest.raises(UserError, match=f"process {os.getpid()}"), artifacts.lock(tmp_path):
            pass
        monkeypatch.setenv("RANK", "1")
        with artifacts.lock(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()
        monkeypatch.delenv("RANK")


@pytest.mark.parametrize("command", ["run", "train", "eval"])
def test_commands_that_write_a_run_folder_want_it_for_themselves(command, tmp_path, tiny, pairs_file):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        f"model: {tiny}\ndata: {{path: {pairs_file}}}\nstages: {{dpo: {{train: {{method: dpo}}}}}}\n"
    )
    folder = tmp_path / "small"
    arguments = {
        "run": ["run", str(recipe), "--runs", str(tmp_path)],
        "train": [
            "train",
            "--method",
            "dpo",
            "--model",
            str(tiny),
            "--data",
            str(pairs_file),
            "--out",
            str(folder),
        ],
        "eval": ["eval", "--model", str(tiny), "--data", str(pairs_file), "--out", str(folder)],
    }[command]
    with holder(folder) as process:
        done = subprocess.run(
            [sys.executable, "-m", "kilter.cli", *arguments],
            env=os.environ | {"PYTHONPATH": str(SOURCE.parent)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2, done.stderr
    assert f"in use by process {process.pid}" in done.stderr
    assert "Fix: Wait until that run has ended" in done.stderr


WAITING_READER = '''
import time
from pathlib import Path

from kilter.data.formats import reader


def read(row):
    """The first of two processes reads on when the second is gone."""
    while not Path("go").exists():
        time.sleep(0.05)
    yield from reader("preference")(row)
'''


def test_of_two_runs_that_begin_at_once_one_works_and_one_is_told_who(tiny, pairs_file, tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING_READER)
    words = [sys.executable, "-m", "kilter", "train", "--method", "dpo", "--model", str(tiny)]
    words += ["--data", str(pairs_file), "--format", "waiting.py:read", "--max-steps", "1", "--out", "one"]
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(words, **options) for _ in range(2)]
    try:
        end = time.monotonic() + 60
        while not (gone := [p for p in both if p.poll() is not None]) and time.monotonic() < end:
            time.sleep(0.05)
        (tmp_path / "go").touch()
        said = {p.pid: p.communicate(timeout=60)[0] for p in both}
    finally:
        for process in both:
            process.kill()
    (refused,) = gone
    (works,) = (p for p in both if p is not refused)
    assert (refused.returncode, works.returncode) == (2, 0), said
    text = " ".join(said[refused.pid].split())
    who = rf"in use by process {works.pid} on {re.escape(socket.gethostname())} \(.*train.*\), since 20\d\d-"
    assert re.search(who, text), text
    assert "Fix: Wait until that run has ended" in text
    lines = (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
    assert (len(lines), (tmp_path / "one" / "model").is_dir()) == (1, True)
