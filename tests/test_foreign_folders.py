"""A folder with files that Kilter would write and has not written is refused, and nothing in it changes."""

from __future__ import annotations

import json

import pytest
import yaml

from conftest import pair_rows
from kilter.errors import UserError
from kilter.pipeline.foreign import refuse_foreign_run
from kilter.recipe import dump, load
from kilter.validation import TAKEN
from test_wrong_inputs import kilter


@pytest.fixture
def place(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(12)))
    data = {"path": "pairs.jsonl", "heldout": 0.25}
    train = {"method": "sft", "max_steps": 1, "data": "$data"}
    recipe = {"name": "mine", "model": str(tiny), "data": data, "stages": {"sft": {"train": train}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def held(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def trained(tiny, out):
    return (
        "train",
        "--model",
        tiny,
        "--data",
        "pairs.jsonl",
        "--method",
        "sft",
        "--max-steps",
        1,
        "--out",
        out,
    )


@pytest.mark.parametrize(
    ("name", "out"),
    [
        ("checkpoints", "."),
        *((name, "own") for name in sorted(TAKEN - {"manifest.json", "chain.json", "chain.sig.json"})),
    ],
)
def test_files_of_the_users_are_not_written_over(place, tiny, monkeypatch, capsys, name, out):
    folder = place / out
    folder.mkdir(exist_ok=True)
    if "." in name:
        (folder / name).write_text("my own\n")
    else:
        (folder / name).mkdir()
        (folder / name / "notes.txt").write_text("my own\n")
    before = held(folder)
    code, text = kilter(monkeypatch, capsys, *trained(tiny, out))
    assert code == 2 and name in text and "has not written here" in text
    assert held(folder) == before


def test_a_run_that_lost_its_manifest_says_so(place, tiny, monkeypatch, capsys):
    (place / "own").mkdir()
    for name in ("chain.json", "train.json"):
        (place / "own" / name).write_text("{}\n")
    before = held(place / "own")
    code, text = kilter(monkeypatch, capsys, *trained(tiny, "own"))
    assert code == 2 and "has lost its manifest.json" in text and "put manifest.json back" in text.lower()
    assert held(place / "own") == before


def test_a_models_folder_takes_no_run(place, tiny, monkeypatch, capsys):
    before = held(tiny)
    code, text = kilter(monkeypatch, capsys, *trained(tiny, tiny))
    assert code == 2 and "holds a model (config.json)" in text
    assert held(tiny) == before


def test_an_evaluation_does_not_replace_the_manifest_of_a_model(place, tiny, monkeypatch, capsys):
    assert kilter(monkeypatch, capsys, *trained(tiny, "sft"))[0] == 0
    before = held(place / "sft")
    kind = ("eval", "--model", "sft", "--data", "pairs.jsonl", "--out", "sft")
    code, text = kilter(monkeypatch, capsys, *kind)
    assert code == 2 and "holds what a stage of kind train made" in text
    assert held(place / "sft") == before


def test_a_refused_run_leaves_no_folder(place, tiny, monkeypatch, capsys):
    kind = ("train", "--model", tiny, "--data", "nope.jsonl", "--method", "sft", "--out", "a/b")
    assert kilter(monkeypatch, capsys, *kind)[0] == 2
    assert not (place / "a").exists()


def test_data_that_never_began_is_no_result(place, monkeypatch, capsys):
    kind = (
        "generate",
        "--model",
        "m",
        "--sampler",
        "scripted",
        "--data",
        "pairs.jsonl",
        "--out",
        "g",
        "--k",
        1,
    )
    (place / "s.jsonl").write_text('{"prompt": "nobody asks this", "answer": "a"}\n')
    assert kilter(monkeypatch, capsys, *kind, "--sampler.script", "s.jsonl")[0] != 0
    assert (place / "g" / "manifest.json").exists() and not (place / "g" / "groups.jsonl").read_text()
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    script = "".join(json.dumps({"prompt": r["prompt"], "answer": "yes"}) + "\n" for r in rows)
    (place / "t.jsonl").write_text(script)
    code, text = kilter(monkeypatch, capsys, *kind, "--sampler.script", "t.jsonl")
    assert code == 0, text
    assert (place / "g" / "groups.jsonl").read_text()


def test_a_recipe_does_not_write_over_the_users_own_recipe(place, monkeypatch, capsys):
    (place / "mine").mkdir()
    (place / "r.yaml").rename(place / "mine" / "recipe.yaml")
    before = held(place / "mine")
    code, text = kilter(monkeypatch, capsys, "run", "mine/recipe.yaml", "--runs", ".")
    assert code == 2 and "`--runs` = 'mine' holds recipe.yaml" in text
    assert held(place / "mine") == before


def test_a_recipe_refuses_the_foreign_folder_of_a_stage_before_any_stage(place, monkeypatch, capsys):
    folder = place / "runs" / "mine" / "sft"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("my own\n")
    code, text = kilter(monkeypatch, capsys, "run", "r.yaml")
    assert code == 2 and "`stages.sft`" in text and "metrics.jsonl" in text
    assert held(place / "runs") == {"mine/sft/metrics.jsonl": b"my own\n"}


def test_a_run_that_was_killed_before_its_chain_goes_on(place):
    (place / "run").mkdir()
    (place / "run" / "recipe.yaml").write_text(dump(load(place / "r.yaml")))
    refuse_foreign_run(place / "run")
    (place / "run" / "report.html").write_text("my own")
    with pytest.raises(UserError, match="holds report.html"):
        refuse_foreign_run(place / "run")
