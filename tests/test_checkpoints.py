"""A damaged checkpoint is named, the one before it is used, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilter.errors import Interrupted, UserError
from kilter.training import checkpoint
from kilter.training.checkpoint import Checkpoints
from kilter.training.learner import LocalLearner
from test_training import read_metrics, run


def saved(folder: Path, steps: int) -> Checkpoints:
    """Checkpoints of a run that has a log, one after each step."""
    found = Checkpoints(folder / "checkpoints", 1)
    for step in range(1, steps + 1):
        with (folder / "metrics.jsonl").open("a") as log:
            log.write(json.dumps({"step": step}) + "\n")

        def write(path: Path, step: int = step) -> None:
            path.write_bytes(bytes([step]) * 64)
            (path.parent / "shards").mkdir()
            (path.parent / "shards" / "rank-0").write_bytes(bytes([step]) * 64)

        found.save(step, write, {"identity": "x"})
    return found


def found(folder: Path) -> tuple[int, list[str]]:
    """What a resumption takes, and what it says of the rest."""
    checkpoints = Checkpoints(folder / "checkpoints")
    whole = checkpoints.find()
    assert whole is not None
    return whole[1]["step"], checkpoints.damaged


def test_two_whole_checkpoints_are_kept(tmp_path):
    saved(tmp_path, 4)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-3", "step-4"]
    assert found(tmp_path) == (4, [])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["state.safetensors", "meta.json", "shards/rank-0"]),
    at=st.integers(0, 10_000),
    how=st.sampled_from(["bit", "cut", "gone", "longer", "empty"]),
)
def test_any_damage_of_the_newest_is_named_and_the_older_one_is_used(tmp_path, name, at, how):
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    saved(tmp_path, 3)
    path = tmp_path / "checkpoints" / "step-3" / name
    content = path.read_bytes()
    at %= len(content)
    new = {
        "bit": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
        "cut": content[:at],
        "longer": content + b" x",
        "empty": b"",
    }
    path.unlink() if how == "gone" else path.write_bytes(new[how])
    step, damaged = found(tmp_path)
    assert step == 2
    assert len(damaged) == 1
    assert str(path) in damaged[0]


@pytest.mark.parametrize(
    "log", ['{"step": 1}\n{"step": 2}\n', '{"step": 1}\n{"step": 2}\n{"step": 9}\n', "", None]
)
def test_a_log_that_lost_lines_of_the_newest_is_named(tmp_path, log):
    saved(tmp_path, 3)
    path = tmp_path / "metrics.jsonl"
    path.unlink() if log is None else path.write_text(log)
    if log:
        step, damaged = found(tmp_path)
        assert step == 2
        assert damaged == [f"{path} is not what it was at step 3: cut, changed or missing"]
    else:
        with pytest.raises(
            UserError, match=r"holds no whole checkpoint: .*metrics\.jsonl is not what it was at step 3"
        ):
            found(tmp_path)


def test_lines_after_the_checkpoint_are_no_damage(tmp_path):
    saved(tmp_path, 2)
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 3}\n{"st')
    assert found(tmp_path) == (2, [])


def test_a_run_goes_on_from_the_older_one_with_the_same_numbers(
    tiny, tmp_path, pairs_file, monkeypatch, capsys
):
    original = LocalLearner.update

    def update(self, batch, objective, step):
        if step == 6:
            raise Interrupted("stop")
        return original(self, batch, objective, step)

    with monkeypatch.context() as once:
        once.setattr(LocalLearner, "update", update)
        with pytest.raises(Interrupted):
            run(tiny, tmp_path / "a", pairs_file, save_every=2, epochs=3)
    newest = Checkpoints(tmp_path / "a" / "checkpoints").latest()
    state = newest / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    run(tiny, tmp_path / "a", pairs_file, save_every=2, epochs=3)
    said = "".join(capsys.readouterr().err.split())
    assert f"{newest.name}/state.safetensorsisdamagedormissing;therungoesonfrom" in said
    run(tiny, tmp_path / "b", pairs_file, epochs=3)
    assert read_metrics(tmp_path / "a") == read_metrics(tmp_path / "b")


def test_checksums_of_logs_read_only_what_is_new(tmp_path):
    log = tmp_path / "x.jsonl"
    log.write_bytes(b"a" * 100)
    first = checkpoint.Seal().over(log)
    log.write_bytes(b"a" * 100 + b"b" * 50)
    assert first.over(log) == checkpoint.Seal().over(log)
    assert checkpoint.Seal().over(log, 100) == first
