"""A mixture's name, as plans and progress print it, is what --method and a recipe take."""

from __future__ import annotations

import json
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import pair_rows
from kilter.errors import UserError
from kilter.objectives import build_objective, method_name
from kilter.objectives.registry import settings as method_settings
from kilter.study import study
from kilter.training.config import TrainSpec

NAMES = ("dpo", "simpo", "sft", "apo_zero", "my_losses.py:Loss", "of.mine:Loss")
weights = st.one_of(
    st.integers(1, 10**6),
    st.floats(1e-9, 1e21, allow_nan=False).filter(lambda x: math.isfinite(x) and x > 0),
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), weights, min_size=2))
def test_a_printed_mixture_reads_back_as_itself(parts):
    name = method_name({"mix": parts})
    assert method_settings(name) == method_settings({"name": name}) == {"mix": parts}
    assert method_name(name) == name


@pytest.mark.parametrize(
    ("typed", "mix", "printed"),
    [
        ("dpo+sft", {"dpo": 1, "sft": 1}, "dpo+sft"),
        ("dpo:1+sft:0.5", {"dpo": 1, "sft": 0.5}, "dpo+sft:0.5"),
        ("dpo:2+sft:1e-3", {"dpo": 2, "sft": 0.001}, "dpo:2+sft:0.001"),
        (
            {"name": "dpo+sft:0.1", "mix": {"dpo": {"beta": 0.05}}},
            {"dpo": {"weight": 1, "beta": 0.05}, "sft": 0.1},
            "dpo+sft:0.1",
        ),
    ],
)
def test_a_mixture_in_short_is_the_mixture(typed, mix, printed):
    assert build_objective(typed) == build_objective({"mix": mix})
    assert TrainSpec(method=typed) == TrainSpec(method={"mix": mix})
    assert method_name(typed) == printed


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("dpo+dpo", "names a method twice"),
        ("dpo+", "lacks a method beside a +"),
        ("+sft", "lacks a method"),
        ("dpo+sfft", "Did you mean 'sft'"),
        ("dpo+sft:-1", "finite weight above 0"),
        ("dpo+sft:0", "finite weight above 0"),
        ("dpo+grpo", "wants different data"),
        ({"name": "dpo+sft", "beta": 0.1}, "--set mix.dpo.beta=0.05"),
        ({"name": "dpo+sft", "mix": {"kto": 1}}, "is not a part of dpo.sft"),
    ],
)
def test_a_wrong_mixture_in_short_says_what_is_wrong(typed, message):
    with pytest.raises(UserError, match=message):
        build_objective(typed)


def test_a_path_with_a_plus_is_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a+b.py").write_text("")
    assert method_settings("a+b.py:Loss") == {"name": "a+b.py:Loss"}


def test_a_mixture_in_short_works_wherever_a_method_does(tmp_path, tiny, monkeypatch, capsys):
    from test_wrong_inputs import kilter

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(12)))
    data = {"path": "pairs.jsonl", "heldout": 0.25}
    recipe = {"model": str(tiny), "data": data, "stages": {"a": {"train": {"method": "dpo"}}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    kind = ("run", "r.yaml", "--dry-run", "--set", "stages.a.train.method=dpo+sft:0.5")
    code, text = kilter(monkeypatch, capsys, *kind)
    assert code == 0 and "dpo+sft:0.5 from" in text

    # The label of a comparison is a label; its method may be the same text.
    methods = {"dpo+sft": "dpo+sft", "half": {"method": "dpo+sft:0.5"}}
    spec = {"name": "s", "model": str(tiny), "data": {"data": data}, "start": {"data": "$data"}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(spec | {"methods": methods, "seeds": [0]}))
    found = study.expand(study.load(tmp_path / "s.yaml")).stages
    assert found["dpo_sft__s0"].spec.method == {"mix": {"dpo": 1, "sft": 1}}
    assert found["half__s0"].spec.method == {"mix": {"dpo": 1, "sft": 0.5}}

    args = ("train", "--model", tiny, "--data", "pairs.jsonl", "--method", "dpo+sft:0.5", "--max-steps", 1)
    code, text = kilter(monkeypatch, capsys, *args)
    assert code == 0 and "runs/dpo+sft-0.5/model" in text and "dpo+sft:0.5: dpo" not in text
