"""Writing: files that are whole or absent, the life of a stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kilter import artifacts, manifest
from kilter.errors import RunFailed, UserError


def full_disk(path: Path) -> None:
    """The next atomic write of `path` meets a full device."""
    path.with_name(f".{path.name}.partial").symlink_to("/dev/full")


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
    full_disk(path)
    with pytest.raises(
        RunFailed, match=r"(?s)a\.json could not be written \(No space left.*fix: free disk space"
    ):
        artifacts.write_json(path, {"old": False})
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
    @manifest.life(tmp_path, entry())
    def work() -> None:
        full_disk(tmp_path / "manifest.json")
        raise UserError("x", 1, "is wrong", "mend it")

    with pytest.raises(UserError, match="is wrong"):
        work()
