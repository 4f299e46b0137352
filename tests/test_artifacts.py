"""Writing: files that are whole or absent, the life of a stage."""

from __future__ import annotations

import contextlib
import json
import re
import resource
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
            RunFailed, match=r"a\.json could not be written \(File too large\)\n  fix: free disk space"
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
    with pytest.raises(UserError, match=r"a\.jsonl:2.*\n.*fix: cut the file back"):
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
        RunFailed, match=r"(?s)^the model could not be written to .*No space.*\n  last good.*fix:"
    ):
        fill()
    assert (folder / "sub" / "weights").read_text() == "new"
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
CODECS = {"artifacts.py": "all of them", "vllm.py": "a folder in memory, which goes with the process"}


def test_nothing_else_writes_or_renames_files():
    found = {
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        if path.name not in CODECS
        for line in path.read_text().splitlines()
        if IDIOMS.search(line)
    }
    assert not found
