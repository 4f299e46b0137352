"""Where rows may come from: files by any name, folders, patterns, mixtures, Python objects."""

from __future__ import annotations

import gzip
import json
import pickle
from collections import Counter

import pytest
import torch
import yaml

import kilter
from conftest import pair_rows
from kilter import recipe as recipes
from kilter.api import make_data_spec
from kilter.data import shelf
from kilter.data.dataset import DataSpec, load
from kilter.errors import UserError
from kilter.pipeline.inputs import inputs_of

ROWS = pair_rows(12)


def lines(rows):
    return "".join(json.dumps(r) + "\n" for r in rows)


def prompts(data, shape="pairs", **settings):
    spec = make_data_spec(data, heldout=0.0).model_copy(update={"heldout": 0.0, **settings})
    return sorted(g.prompt.messages[0]["content"] for g in load(spec, shape).train)


EVERYTHING = sorted(r["prompt"] for r in ROWS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.json", lines(ROWS)),
        ("rows.ndjson", lines(ROWS)),
        ("rows.txt", lines(ROWS)),
        ("rows", lines(ROWS)),
        ("rows.jsonl", json.dumps(ROWS, indent=1)),
        ("rows.data", json.dumps(ROWS)),
        ("rows.json", json.dumps(ROWS, indent=2)),
        ("rows.jsonl", "\ufeff" + lines(ROWS).replace("\n", "\r\n")),
    ],
)
def test_json_under_any_name(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    assert prompts(str(path)) == EVERYTHING
    packed = tmp_path / f"packed-{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert prompts(packed) == EVERYTHING


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_with_any_separator(tmp_path, separator):
    path = tmp_path / "rows.csv"
    names = ["prompt", "chosen", "rejected"]
    path.write_text("\n".join(separator.join(r) for r in [names, *([row[n] for n in names] for row in ROWS)]))
    assert prompts(path) == EVERYTHING


def test_a_broken_line_of_a_table_is_located(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,chosen,rejected\na,b,c\na,b,c,d\ne,f,g\n")
    with pytest.raises(UserError, match="rows.csv:3.*more cells than the header"):
        prompts(path)
    assert prompts(path, on_bad_row="skip") == ["a", "e"]
    path.write_text("prompt,prompt,chosen\na,b,c\n")
    with pytest.raises(UserError, match="two columns 'prompt'"):
        prompts(path)


def test_shards_patterns_and_lists(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in range(3):
        (folder / f"part-{i}.jsonl").write_text(lines(ROWS[i::3]))
    (folder / "README.md").write_text("not data")
    assert prompts(folder) == EVERYTHING
    assert prompts(f"{folder}/part-*.jsonl") == EVERYTHING
    assert prompts([str(folder / f"part-{i}.jsonl") for i in range(3)]) == EVERYTHING
    assert prompts({"path": [str(folder / f"part-{i}.jsonl") for i in range(3)]}) == EVERYTHING
    with pytest.raises(UserError, match="names no file"):
        prompts(f"{folder}/other-*.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no data file"):
        prompts(tmp_path / "empty")


def test_a_folder_by_splits(tmp_path):
    (tmp_path / "train-00000.jsonl").write_text(lines(ROWS[:8]))
    (tmp_path / "validation-00000.jsonl").write_text(lines(ROWS[8:]))
    assert prompts(tmp_path) == sorted(r["prompt"] for r in ROWS[:8])
    assert prompts(tmp_path, split="dev") == sorted(r["prompt"] for r in ROWS[8:])
    with pytest.raises(UserError, match="no files of the split 'test'.*\n.*train, validation"):
        prompts(tmp_path, split="test")


def test_what_datasets_saved(tmp_path):
    from datasets import Dataset, DatasetDict

    one, other = Dataset.from_list(ROWS[:8]), Dataset.from_list(ROWS[8:])
    one.shuffle(seed=1).select(range(6)).save_to_disk(tmp_path / "one")
    assert len(prompts(tmp_path / "one")) == 6
    DatasetDict(train=one, test=other).save_to_disk(tmp_path / "both")
    assert prompts(tmp_path / "both", split="test") == sorted(r["prompt"] for r in ROWS[8:])
    with pytest.raises(UserError) as refused:
        prompts(tmp_path / "both", split="dev")
    assert (refused.value.problem, refused.value.fix) == ("has no split 'dev'", "set split to train, test")


def test_python_objects(tmp_path):
    import pandas
    from datasets import Dataset

    for data in (ROWS, Dataset.from_list(ROWS), pandas.DataFrame(ROWS)):
        assert prompts(data) == EVERYTHING
    assert make_data_spec(ROWS).path == make_data_spec(list(ROWS)).path
    assert make_data_spec(ROWS).path != make_data_spec(ROWS[1:]).path
    with pytest.raises(UserError, match="is not data that can be read"):
        make_data_spec(3)
    with pytest.raises(UserError, match="is not a row"):
        make_data_spec([3])


def test_parts_of_a_mixture_are_objects_too(tmp_path):
    from datasets import Dataset

    (tmp_path / "a.jsonl").write_text(lines(ROWS[:2]))
    parts = [
        str(tmp_path / "a.jsonl"),
        {"path": Dataset.from_list(ROWS[2:4]), "weight": 2},
        {"path": ROWS[4:6]},
    ]
    want = sorted(r["prompt"] for r in (*ROWS[:6], *ROWS[2:4]))
    for data in (parts, {"parts": parts}, {"path": parts}):
        assert prompts(data) == want


def test_keys_of_any_type_are_columns():
    rows = [{**r, 5: "x", (1, 2): "y"} for r in ROWS]
    assert prompts(rows) == EVERYTHING
    assert make_data_spec(rows).path == make_data_spec([dict(reversed(r.items())) for r in rows]).path


def test_a_mixture_weighs_its_parts(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(ROWS[:6]))
    (tmp_path / "b.jsonl").write_text(lines({**r, "prompt": f"b {i}"} for i, r in enumerate(pair_rows(400))))
    parts = [
        {"path": str(tmp_path / "a.jsonl"), "weight": 2},
        {"path": str(tmp_path / "b.jsonl"), "weight": 0.25},
    ]
    seen = Counter(prompts(parts))
    assert {seen[r["prompt"]] for r in ROWS[:6]} == {2}
    share = sum(n for p, n in seen.items() if p.startswith("b ")) / 400
    assert 0.15 < share < 0.35
    # Held-out prompts are asked once, whatever the weight, and never trained on.
    data = load(make_data_spec({"parts": parts, "heldout": 0.5}), "pairs")
    held = Counter(g.prompt.messages[0]["content"] for g in data.heldout)
    assert set(held.values()) == {1}
    assert not held.keys() & {g.prompt.messages[0]["content"] for g in data.train}


def test_a_part_of_a_mixture_holds_out_what_it_would_hold_out_alone(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    (tmp_path / "b.jsonl").write_text(lines({**r, "prompt": f"b {i}"} for i, r in enumerate(ROWS[:8])))
    a, b = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")

    def held(data):
        return {g.prompt.messages[0]["content"] for g in load(make_data_spec(data), "pairs").heldout}

    alone = held({"path": a, "heldout": 0.5, "seed": 7})
    parts = [{"path": a, "weight": 2}, {"path": b, "heldout": 0}]
    assert held({"parts": parts, "heldout": 0.5, "seed": 7}) == alone
    # A prompt that stands in two parts is held out of both.
    twice = {"parts": [{"path": a}, {"path": a, "heldout": 0}], "heldout": 0.5, "seed": 7}
    train = {g.prompt.messages[0]["content"] for g in load(make_data_spec(twice), "pairs").train}
    assert held(twice) == alone and not train & alone


def test_a_part_reads_its_file_in_its_own_way(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(ROWS[:2]))
    (tmp_path / "b.jsonl").write_text(lines([{"frage": "q", "chosen": "a", "rejected": "b"}]))
    parts = [str(tmp_path / "a.jsonl"), {"path": str(tmp_path / "b.jsonl"), "map": {"prompt": "frage"}}]
    assert "q" in prompts({"parts": parts})


def test_a_recipe_takes_a_mixture_and_hashes_every_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(lines(pair_rows(4)))
    recipe = {
        "model": "builtin:smollm2-135m",
        "data": [{"path": "a.jsonl", "weight": 2}, {"path": "b.jsonl"}],
        "stages": {"sft": {"train": {"method": "sft"}}},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    built = recipes.load("r.yaml")
    assert [p.weight for p in built.data["data"].sources()] == [2.0, 1.0]
    from rich.console import Console

    work = built.workspace(tmp_path, Console(quiet=True)).at("sft")
    before = inputs_of(work, {})["data:data"]
    (tmp_path / "b.jsonl").write_text(lines(pair_rows(5)))
    assert inputs_of(work, {})["data:data"] != before
    named = recipe | {
        "data": {"mine": recipe["data"]},
        "stages": {"sft": {"train": {"method": "sft", "data": "$mine"}}},
    }
    (tmp_path / "n.yaml").write_text(yaml.safe_dump(named))
    assert len(recipes.load("n.yaml").data["mine"].parts) == 2


def test_what_is_long_lies_on_disk(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(pair_rows(60)))
    spec = DataSpec(path=str(path), heldout=0.25, seed=1)
    want = load(spec, "pairs")
    monkeypatch.setattr(shelf, "IN_MEMORY", 10)
    found = load(spec, "pairs")
    assert isinstance(found.train, shelf.Shelf)
    assert list(found.train) == list(want.train)
    assert list(found.train[3:9:2]) == list(want.train[3:9:2])
    assert (found.train[-1], found.heldout[2]) == (want.train[-1], want.heldout[2])
    with pytest.raises(IndexError):
        found.train[len(found.train)]
    assert pickle.loads(pickle.dumps(found.train)) == list(want.train)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("KILTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_objects_through_the_python_doors(tiny, place):
    """A model, rows, a short adapter; the same call again finds its result."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny)
    train = lambda: kilter.train(
        model, Dataset.from_list(ROWS), "dpo", "out", adapter="lora", max_steps=1, batch_size=4
    )
    assert train().steps == 1
    assert train().model.is_dir()
    assert (place / "out" / "model" / "adapter_config.json").is_file()
    with pytest.raises(UserError, match="is not a model"):
        kilter.train(3, ROWS, "dpo", "other")


def test_models_in_memory_are_evaluated_as_their_folders_are(tiny, place):
    """Alone, in a list, by name, as baseline and as reference."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    model, tuned = (AutoModelForCausalLM.from_pretrained(tiny) for _ in range(2))
    with torch.no_grad():
        tuned.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    settings = {"max_new_tokens": 4, "limit": 4, "metrics": ["length", "entropy"]}
    folder = kilter.evaluate(str(tiny), ROWS, "a", **settings)
    alone = kilter.evaluate(model, ROWS, "b", **settings)
    assert alone["models"]["tiny"]["metrics"] == folder["models"]["tiny"]["metrics"]
    both = kilter.evaluate({"new": tuned}, ROWS, "c", **settings)
    assert list(both["models"]) == ["new"]
    both = kilter.evaluate([tuned], ROWS, "d", baseline=f"old={tiny}", **settings | {"metrics": ["kl"]})
    assert (both["baseline"], list(both["models"])) == ("old", ["old", "tiny"])
    with pytest.raises(UserError, match="names two models alike.*\\n.*{name: model}"):
        kilter.evaluate([model, tuned], ROWS, "e", **settings)
    with pytest.raises(UserError, match="is not a model"):
        kilter.evaluate([3], ROWS, "e", **settings)

    # Settings that transformers refuses to write stay with the object, and stop nothing.
    model.generation_config = GenerationConfig(eos_token_id=1, temperature=0.7, do_sample=False)
    made = kilter.train(model, ROWS, "dpo", "f", reference=tuned, max_steps=1, batch_size=4)
    assert made.metrics["rewards/margins"] != 0
    assert model.generation_config.temperature == 0.7


def test_a_function_is_a_reward(tiny, place):
    seen = []

    def reward(prompts, completions, solution, **columns):
        seen.extend(zip(prompts, solution, strict=True))
        return [float(len(c) % 3) for c in completions]

    rows = [{"prompt": f"What is {i}?", "solution": str(i)} for i in range(8)]
    result = kilter.train(
        str(tiny),
        rows,
        "grpo",
        "out",
        feedback=reward,
        max_steps=1,
        batch_size=2,
        sampler={"samples": 2, "max_new_tokens": 4},
        monitors={"enabled": False},
    )
    assert result.steps == 1
    assert {f"What is {s}?" for _, s in seen} == {p for p, _ in seen}


def test_training_from_disk_is_training_from_memory(tiny, place, monkeypatch):
    """DPO with a reference and held-out pairs: the same metrics, whatever holds the rows."""
    train = lambda out: kilter.train(
        str(tiny),
        {"path": "rows.jsonl", "heldout": 0.25},
        "dpo",
        out,
        max_steps=3,
        batch_size=4,
        learning_rate=1e-3,
    )
    (place / "rows.jsonl").write_text(lines(ROWS))
    want = train("memory")
    monkeypatch.setattr(shelf, "IN_MEMORY", 2)
    found = train("disk")
    assert found.metrics["loss"] == want.metrics["loss"]
    assert found.heldout == want.heldout
