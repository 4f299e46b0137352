"""kilter advise: the methods follow from what was measured, every sentence has its evidence, and the recipe runs."""

from __future__ import annotations

import json
import sys

import pytest
import yaml

from kilter.advice.facts import Facts, measure
from kilter.advice.recipe import fitting, make
from kilter.advice.rules import RULES, Machine, cautions, suggest
from kilter.cli import main
from kilter.data.dataset import DataSpec
from kilter.objectives import objectives
from kilter.recipe import build
from kilter.training.estimate import Sizes

MACHINE = Machine(16.0, "test")
SMALL = Sizes(135_000_000, 30, 576, 1536, 49152)


def facts(kind, **more) -> Facts:
    base = {
        "path": "x.jsonl",
        "format": "f",
        "kind": kind,
        "groups": 1000,
        "prompts": 900,
        "answers_per_prompt": 2.0,
        "verifiable": 0,
    }
    return Facts(**base | more)


CASES = [
    (facts("pairs"), ["dpo", "ipo"]),
    (facts("pairs", longer_chosen=0.8, longer_low=0.75, longer_high=0.85), ["r_dpo", "dpo", "simpo"]),
    (facts("pairs", contradictions=0.05), ["dr_dpo", "robust_dpo", "dpo"]),
    (facts("pairs", groups=120), ["dpo", "orpo", "ipo"]),
    (facts("pairs", verifiable=1000), ["dpo", "grpo", "ipo"]),
    (facts("thumbs", desirable=700, undesirable=300), ["kto", "bco", "sft"]),
    (facts("thumbs", desirable=0, undesirable=300), ["npo"]),
    (facts("rankings"), ["lipo_lambda", "plackett_luce", "dpo"]),
    (
        facts("rankings", longer_chosen=0.8, longer_low=0.75, longer_high=0.85),
        ["simpo", "lipo_lambda", "dpo"],
    ),
    (facts("ratings", contradictions=0.05), ["dpo", "lipo_lambda"]),
    (facts("verifiable", verifiable=1000), ["grpo", "dr_grpo", "sft"]),
    (facts("scored"), ["sft", "kto"]),
    (facts("demonstrations"), ["sft", "dft"]),
    (facts("prompts"), ["grpo", "online_dpo"]),
]


@pytest.mark.parametrize(("measured", "want"), CASES, ids=lambda v: getattr(v, "kind", ""))
def test_methods_follow_from_the_facts(measured, want):
    found = suggest(measured)
    assert [s.method for s in found] == want
    for s in found:
        assert s.method in objectives.names()
        for r in (*s.reasons, *cautions(measured)):
            assert any(
                r.evidence.startswith(k) or f"; {k}" in r.evidence
                for k in ("measured: ", "paper: ", "papers: ", "our comparison: ", "our runs: ")
            ), r
    recipe = yaml.safe_load(make("builtin:smollm2-135m", measured, found, fitting(SMALL, MACHINE)))
    assert list(recipe["stages"])[-1] == "eval"
    build(recipe)  # every setting goes, and every source of feedback exists


def test_every_kind_has_a_rule():
    assert set(RULES) == {c[0].kind for c in CASES}


def test_adapters_when_memory_is_short():
    assert "adapter" not in fitting(SMALL, MACHINE)
    assert "adapter" in fitting(SMALL, Machine(3.0, "test"))
    assert fitting(SMALL, Machine(1.0, "test"))["gradient_checkpointing"]


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (
            [{"prompt": f"q{i}", "chosen": "a long good answer", "rejected": f"no {i}"} for i in range(20)],
            "pairs",
        ),
        ([{"prompt": f"q{i}", "completion": "x", "label": i % 2 == 0} for i in range(20)], "thumbs"),
        (
            [
                {"prompt": f"q{i}", "completions": [{"response": f"r{j}", "rating": j} for j in range(3)]}
                for i in range(5)
            ],
            "ratings",
        ),
        ([{"prompt": f"q{i}", "completions": [{"response": "r", "rating": i}]} for i in range(5)], "scored"),
        ([{"question": f"{i} + 1?", "answer": f"#### {i + 1}"} for i in range(5)], "verifiable"),
        ([{"instruction": f"do {i}", "output": "done"} for i in range(5)], "demonstrations"),
        ([{"prompt": f"q{i}"} for i in range(5)], "prompts"),
    ],
)
def test_what_a_file_is(tmp_path, rows, kind):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = measure(DataSpec(path=str(path)))
    assert found.kind == kind
    if kind == "pairs":
        assert found.longer_chosen == 1.0
        assert any("length alone" in r.text for r in cautions(found))


def test_a_recipe_names_a_local_model_as_a_path(tmp_path, monkeypatch, capsys):
    """In a recipe a bare word would be a stage."""
    from kilter import recipe

    text = make(
        "tiny",
        facts("thumbs", desirable=7, undesirable=3),
        suggest(facts("thumbs", desirable=7, undesirable=3)),
        {},
    )
    (tmp_path / "advice.yaml").write_text(text)
    assert recipe.load(tmp_path / "advice.yaml", ()).stages["eval"].spec.models[0] == "./tiny"


def test_too_little_memory_is_said(tmp_path, monkeypatch, capsys, pairs_file):
    monkeypatch.setattr(sys, "argv", ["kilter", "advise", str(pairs_file), "--memory", "0.3"])
    with pytest.raises(SystemExit):
        main()
    assert "too little" in capsys.readouterr().out


def test_the_command_writes_a_recipe_that_loads(tmp_path, monkeypatch, capsys, tiny, pairs_file):
    target = tmp_path / "advice.yaml"
    argv = ["kilter", "advise", str(pairs_file), "--model", str(tiny), "--memory", "8", "--out", str(target)]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stop:
        main()
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "1. " in text
    assert "measured: " in text
    from kilter import recipe

    assert "eval" in recipe.load(target, ()).stages
    with pytest.raises(SystemExit) as stop:  # a second time: nothing is overwritten
        main()
    assert stop.value.code == 2
