"""Nothing outside a run's own folder is written or removed: names are no paths, and links are not followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter import artifacts, recipe
from kilter.errors import UserError
from kilter.pipeline.runner import Run
from kilter.screen import Screen
from kilter.validation import TAKEN, require_name

BAD = [".", "..", "", "/a", "a/b", "..\\a", "~", ".hidden", "-x", "a b", "a\n", "a\0", "$a", "x" * 101, "a:b"]


def raw(tiny, data: Path, name: str = "sft", **head: str) -> dict:
    stage = {"train": {"method": "sft", "max_steps": 1, "max_length": 64}}
    return {"model": str(tiny), "data": {"path": str(data), "heldout": 0.25}, "stages": {name: stage}} | head


@pytest.mark.parametrize("name", [*BAD, *sorted(TAKEN), "Model", "REPORT.html"])
def test_what_is_a_path_or_a_file_of_kilters_names_nothing(name, tiny, pairs_file):
    block = {"rounds": 1, "stages": {name: {"train": {"method": "sft"}}}}
    for given_, field in (
        (raw(tiny, pairs_file, name), "stages"),
        (raw(tiny, pairs_file) | {"name": name}, "name"),
        (raw(tiny, pairs_file) | {"stages": {"loop": block}}, "stages.loop.stages"),
        (raw(tiny, pairs_file) | {"stages": {name: block | {"stages": {"a": {"train": {}}}}}}, "stages"),
    ):
        with pytest.raises(UserError) as error:
            recipe.build(given_)
        assert (error.value.field, error.value.value) == (field, name)


@given(st.text())
def test_a_name_that_passes_is_a_folder_of_its_own(name):
    try:
        require_name("name", name)
    except UserError:
        return
    path = os.path.normpath(os.path.join("/runs/x", name))
    assert os.path.dirname(path) == "/runs/x"
    assert not name.startswith(".")


def outside(folder: Path) -> tuple[Path, dict[Path, bytes]]:
    """A folder that looks like a stage's, and what is in it."""
    for name in (
        "checkpoints/step-3/w.bin",
        "model/weights.bin",
        "pinned/step-1/a",
        ".superseded/b",
        "log.jsonl",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"mine: {name}\n")
    return folder, contents(folder)


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


LINKS = [
    "sft",
    "sft/checkpoints",
    "sft/model",
    "sft/pinned",
    "sft/metrics.jsonl",
    ".superseded",
    "report.html",
]


@pytest.mark.parametrize("place", LINKS)
def test_a_link_out_of_the_run_is_refused_before_any_work(place, tmp_path, tiny, pairs_file):
    other, before = outside(tmp_path / "other")
    link = tmp_path / "runs" / "r" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(other / "log.jsonl" if "." in link.name[1:] else other)
    run = Run(recipe.build(raw(tiny, pairs_file)), tmp_path / "runs" / "r", Screen(quiet=True))
    with pytest.raises(UserError, match=r"lies outside the run's folder, at .*other.*\nFix: Remove the link"):
        run.execute()
    assert contents(other) == before


def test_a_whole_run_may_lie_on_another_disk(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "scratch")
    with artifacts.lock(tmp_path / "run"):
        artifacts.write_text(tmp_path / "run" / "sft" / "a.txt", "x")
        (tmp_path / "run" / "b").symlink_to(tmp_path / "run" / "sft")
    assert (tmp_path / "scratch" / "sft" / "a.txt").exists()
    with artifacts.lock(tmp_path / "run"):  # a link within the run leads nowhere else
        pass


WRITES = {
    "write_text": lambda p: artifacts.write_text(p / "new.txt", "x"),
    "append_lines": lambda p: artifacts.append_lines(p / "log.jsonl", [1]),
    "cut_lines": lambda p: artifacts.cut_lines(p / "log.jsonl", lambda row: False),
    "remove": lambda p: artifacts.remove(p / "checkpoints"),
    "remove the link itself": artifacts.remove,
    "set_aside": lambda p: artifacts.set_aside(p / "model", p.parent / "old"),
    "write_first": lambda p: artifacts.write_first(p / "first.json", 1),
    "whole_folder": lambda p: artifacts.whole_folder(p / "model").__enter__(),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_link_that_appears_meanwhile_is_refused_too(write, tmp_path):
    other, before = outside(tmp_path / "other")
    with artifacts.lock(tmp_path / "run"):
        (tmp_path / "run" / "sft").symlink_to(other)
        with pytest.raises(UserError, match="outside the run's folder"):
            WRITES[write](tmp_path / "run" / "sft")
        assert contents(other) == before
        (tmp_path / "run" / "sft").unlink()
