"""Kinds of stages: references that are found and replaced, kinds of one's own, one stage without a recipe."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import pytest
import yaml
from pydantic import Field

import kilter
from kilter import cli
from kilter import recipe as recipes
from kilter.errors import UserError
from kilter.refs import ModelRef
from kilter.stages import DataRef, FeedbackRef, FileRef, StageSpec, kinds
from kilter.stages.refs import references, replaced


def command(monkeypatch, capsys, *args) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
    monkeypatch.setattr(cli.err, "width", 400)
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    text = capsys.readouterr()
    return code, text.out + text.err


class Inner(StageSpec):
    judge: ModelRef | None = None
    others: list[ModelRef] = Field(default_factory=list)


class Outer(StageSpec):
    text: str = "rm"
    model: ModelRef
    named: list[ModelRef] | dict[str, ModelRef] = Field(default_factory=list)
    inner: Inner = Inner()
    rows: Annotated[DataRef, "a note"] = "$data"
    policy: FileRef | dict[str, str] = "gate.yaml"
    gold: FeedbackRef = None


def test_references_are_found_wherever_they_are_nested_and_nothing_else():
    spec = Outer(
        model="sft",
        named={"a": "dpo"},
        inner=Inner(judge="rm", others=["x", "y"]),
        gold=[{"reward_model": "rm", "weight": 0.5}, {"reward_model": {"model": ["a", "b"]}}, "math"],
    )
    found = [(f.field, f.ref.to, f.value) for f in references(spec)]
    assert found == [
        ("model", "model", "sft"),
        ("named.a", "model", "dpo"),
        ("inner.judge", "model", "rm"),
        ("inner.others", "model", "x"),
        ("inner.others", "model", "y"),
        ("rows", "data", "$data"),
        ("policy", "file", "gate.yaml"),
        ("gold.0.reward_model", "model", "rm"),
        ("gold.1.reward_model.model", "model", "a"),
        ("gold.1.reward_model.model", "model", "b"),
    ]
    changed = replaced(spec, lambda f: f"{f.value}-2" if f.ref.to == "model" else f.value)
    assert changed.model_dump() == {
        "text": "rm",
        "model": "sft-2",
        "named": {"a": "dpo-2"},
        "inner": {"judge": "rm-2", "others": ["x-2", "y-2"]},
        "rows": "$data",
        "policy": "gate.yaml",
        "gold": [
            {"reward_model": "rm-2", "weight": 0.5},
            {"reward_model": {"model": ["a-2", "b-2"]}},
            "math",
        ],
    }
    assert spec.model == "sft"


def test_every_option_of_every_kind_has_a_description_and_a_group():
    from kilter.options import GROUPS, group_of

    for name, kind in kinds:
        for field, info in kind.Spec.model_fields.items():
            assert info.description, f"{name}.{field}"
            assert isinstance(info.json_schema_extra, dict), f"{name}.{field}"
            assert group_of(info.json_schema_extra) in GROUPS, f"{name}.{field}"


MINE = """
from kilter.stages import DataRef, Outcome, Section, StageKind, StageRef, StageSpec

class Longest(StageKind):
    class Spec(StageSpec):
        data: DataRef = "$data"
        at_least: int = 0
        after: StageRef | None = None

    makes = "report"

    def run(self, spec, work, folder):
        groups = work.load(spec.data, "prompts").train
        longest = max(len(g.prompt.messages[-1]["content"]) for g in groups)
        (folder / "longest.txt").write_text(str(longest))
        return Outcome({"longest": longest}, code=1 if longest < spec.at_least else 0)

    def summary(self, facts):
        return [f"  longest prompt: {facts['longest']}"]

    def section(self, folder):
        return Section("The longest prompt", (folder / "longest.txt").read_text() + " characters")
"""


def test_a_kind_of_ones_own_runs_from_the_command_line(tmp_path, tiny, pairs_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    raw = {
        "model": str(tiny),
        "data": {"path": str(pairs_file)},
        "stages": {"look": {"mine.py:Longest": {"at_least": 3}}},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(raw))
    code, text = command(monkeypatch, capsys, "run", "r.yaml")
    assert code == 0, text
    assert "longest prompt: 1" in text
    manifest = json.loads((tmp_path / "runs/r/look/manifest.json").read_text())
    assert set(manifest["inputs"]) == {"kilter", "data:data", "file:mine.py"}
    assert "The longest prompt" in (tmp_path / "runs/r/report.html").read_text()

    # The exit code and the lines are the stage's, whether it runs or stands; its file is part of its key.
    code, text = command(
        monkeypatch, capsys, "run", "r.yaml", "--set", "stages.look.mine.py:Longest.at_least=999"
    )
    assert code == 1
    code, text = command(
        monkeypatch, capsys, "run", "r.yaml", "--set", "stages.look.mine.py:Longest.at_least=999"
    )
    assert code == 1
    assert "unchanged" in text
    assert "longest prompt: 1" in text
    (tmp_path / "mine.py").write_text(MINE + "# changed\n")
    code, text = command(
        monkeypatch, capsys, "run", "r.yaml", "--set", "stages.look.mine.py:Longest.at_least=999"
    )
    assert "unchanged" not in text

    for settings, problem in (
        ({"at_leest": 3}, "Did you mean 'at_least'"),
        ({"after": "look"}, "comes later in the recipe"),
        ({"after": "loook"}, "stages.look.*earlier stage"),
        ({"data": "$date"}, "Did you mean 'data'"),
    ):
        with pytest.raises(UserError, match=problem):
            recipes.build(raw | {"stages": {"look": {"mine.py:Longest": settings}}})
    (tmp_path / "mine.py").write_text("class Longest: pass\n")
    with pytest.raises(UserError, match=r"stages.look.mine.py:Longest.*is not a kind of stage"):
        recipes.build(raw)
    head = "from kilter.stages import StageKind, StageSpec\n\nclass Longest(StageKind):\n    class Spec(StageSpec):\n        at_least: int = 0\n"
    (tmp_path / "mine.py").write_text(head)
    with pytest.raises(UserError, match=r"stages.look.mine.py:Longest.*has no method run"):
        recipes.build(
            {"data": raw["data"], "model": raw["model"], "stages": {"look": {"mine.py:Longest": {}}}}
        )


def _stages(**stages) -> dict:
    return {"data": {"path": "builtin:support-desk"}, "stages": stages}


@pytest.mark.parametrize(
    ("stages", "field", "problem"),
    [
        ({"g": {"gate": {"policy": {}}}}, "stages.g.gate.evaluation", "none is above"),
        ({"s": {"train": {"method": "sft", "data": "$dat"}}}, "stages.s.train.data", "names no data set"),
        (
            {"a": {"audit": {}}, "e": {"evaluate": {"models": ["a"]}}},
            "stages.e.evaluate.models",
            "makes no model: it is a stage of kind audit",
        ),
        (
            {"e": {"evaluate": {"models": ["s"]}}, "s": {"train": {"method": "sft"}}},
            "stages.e.evaluate.models",
            "comes later",
        ),
        (
            {"e": {"evaluate": {"models": ["builtin:x"], "gold": {"reward_model": "rm"}}}},
            "stages.e.evaluate.gold.reward_model",
            "earlier stage",
        ),
        ({"e": {"evaluate": {"models": []}}}, "stages.e.evaluate.models", "Name a model to evaluate"),
    ],
)
def test_references_that_lead_nowhere(stages, field, problem):
    with pytest.raises(UserError) as error:
        recipes.build(_stages(**stages))
    assert error.value.field.startswith(field)
    assert problem in str(error.value)


def test_gold_may_be_a_reward_model_of_the_recipe(tmp_path, tiny, pairs_file):
    """It is ordered, hashed, and resolved to the stage's folder."""
    raw = {
        "name": "gold",
        "model": str(tiny),
        "data": {"path": str(pairs_file), "heldout": 0.25},
        "stages": {
            "rm": {"train": {"method": "bradley_terry", "max_steps": 1, "max_length": 96}},
            "eval": {
                "evaluate": {
                    "models": {"start": str(tiny)},
                    "gold": {"reward_model": {"model": "rm", "normalize": False}},
                    "max_new_tokens": 4,
                }
            },
        },
    }
    path = tmp_path / "gold.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    assert kilter.run(path, runs=tmp_path / "runs") == 0
    folder = tmp_path / "runs" / "gold" / "eval"
    manifest = json.loads((folder / "manifest.json").read_text())
    trained = json.loads((folder.parent / "rm" / "manifest.json").read_text())
    assert manifest["inputs"]["model:rm"] == trained["outputs"]["model"]
    result = json.loads((folder / "evaluation.json").read_text())
    assert result["models"]["start"]["metrics"]["gold"]["n"] == 6


def test_a_train_door_resumes_returns_and_refuses(tmp_path, tiny, pairs_file):
    settings = {"model": str(tiny), "data": str(pairs_file), "method": "dpo", "out": tmp_path / "dpo"}
    first = kilter.train(**settings, max_steps=2)
    again = kilter.train(**settings, max_steps=2)
    assert again == first
    said = r"holds a finished model of other settings \(max_steps: 2 there, 3 here\)"
    with pytest.raises(UserError, match=said):
        kilter.train(**settings, max_steps=3)
    path = tmp_path / "dpo" / "manifest.json"
    whole = path.read_text()
    manifest = json.loads(whole)
    assert (manifest["kind"], manifest["status"]) == ("train", "done")
    # A damaged record is named, whatever is wrong with it, and what to do.
    for damaged in (whole + "x", whole + whole, whole[:-9], whole.replace(manifest["key"], "0" * 64)):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"manifest.json' is damaged.*\n.*Put it back, or remove"):
            kilter.train(**settings, max_steps=2)


def test_an_adapter_is_not_trained_without_one(tmp_path, tiny, pairs_file):
    """Which weights learn would be a guess; a recipe is refused before its first stage."""
    settings = {"data": str(pairs_file), "method": "sft", "max_steps": 1, "max_length": 96}
    first = kilter.train(str(tiny), **settings, adapter="lora", out=tmp_path / "lora")
    with pytest.raises(
        UserError, match=r"starts from an adapter.*\n.*--adapter lora.*kilter export --merge"
    ) as refused:
        kilter.train(str(first.model), **settings, out=tmp_path / "on")
    assert refused.value.field == "adapter"
    assert not (tmp_path / "on" / "metrics.jsonl").exists()
    stages = {
        "a": {"train": {"method": "sft", "adapter": "lora"}},
        "b": {"train": {"method": "dpo", "from": "a", "adapter": "lora"}},
        "c": {"train": {"method": "dpo", "from": "b"}},
        "d": {"train": {"method": "bradley_terry", "from": "a"}},
    }
    # An adapter on an adapter is written as full weights: c may train them, d may not.
    with pytest.raises(UserError) as refused:
        recipes.build(_stages(**stages))
    assert refused.value.field == "stages.d.train.adapter"
    recipes.build(_stages(**{n: stages[n] for n in "abc"}))


def test_an_adapter_answers_wherever_a_model_does(tmp_path, tiny, pairs_file):
    """By its folder, without a stage that made it: generated, evaluated, trained on with fresh answers."""
    made = kilter.train(str(tiny), str(pairs_file), "sft", tmp_path / "lora", max_steps=1, adapter="lora")
    adapter, answers = str(made.model), {"max_new_tokens": 4}
    found = kilter.generate(adapter, str(pairs_file), tmp_path / "made", sampler=answers, limit=2)
    assert len(found.path.read_text().splitlines()) == 2
    one = kilter.evaluate(adapter, str(pairs_file), tmp_path / "eval", max_new_tokens=4, limit=2)
    assert len(one["models"]) == 1
    (tmp_path / "rewards.py").write_text(
        "def short(completions, **_):\n    return [-len(c) for c in completions]\n"
    )
    online = {"feedback": f"{tmp_path}/rewards.py:short", "adapter": "lora", "batch_size": 2, "max_steps": 1}
    settings = online | {"sampler": answers | {"samples": 2}, "monitors": {"allow_truncation": True}}
    kilter.train(adapter, str(pairs_file), "grpo", tmp_path / "grpo", **settings)


def test_an_evaluate_door_takes_every_field(tmp_path, tiny, pairs_file):
    from kilter.api import evaluate

    (tmp_path / "red.jsonl").write_text(
        "".join(json.dumps({"prompt": t}) + "\n" for t in ("Do harm", "Steal"))
    )
    settings = {"max_new_tokens": 4, "probes": [str(tmp_path / "red.jsonl")], "top_k": 3, "limit": 5}
    names = [f"new={tiny}", str(tiny)]
    found = evaluate(names, str(pairs_file), tmp_path / "eval", baseline=f"old={tiny}", **settings)
    assert list(found["models"]) == ["old", "new", "tiny"]
    assert (found["baseline"], found["n_prompts"], found["n_probes"]) == ("old", 5, 2)
    assert found["sampling"]["top_k"] == 3
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "Answers side by side" in page
    with pytest.raises(UserError, match="names two models alike"):
        evaluate([str(tiny), f"tiny={tiny}"], str(pairs_file), tmp_path / "eval")
