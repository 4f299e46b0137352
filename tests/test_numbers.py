"""bench.numbers: what counts as a difference between two records, and what is left out of one."""

from __future__ import annotations

import json
import math

import pytest
import yaml
from bench.numbers import WALL_CLOCK, compare, differences, json_lines, read_stage, resumed_alike
from bench.numbers_cases import REWARDS, cases


def record_of(**stages):
    return {"machine": {}, "cases": {"ppo": {"inputs": {}, "exit": 0, "stages": stages}}}


@pytest.mark.parametrize(
    ("a", "b", "fields"),
    [
        ({"loss": 0.1, "x": [1, 2]}, {"loss": 0.1, "x": [1, 2]}, []),
        ({"loss": math.nan}, {"loss": math.nan}, []),
        ({"loss": 0.1}, {"loss": math.nextafter(0.1, 1)}, ["loss"]),
        ({"loss": 1}, {"loss": 1.0}, ["loss"]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, [" (order of fields)"]),
        ({"a": 1}, {"a": 1, "b": None}, ["b"]),
        ({"m": [{"loss": 1}, {"loss": 2}]}, {"m": [{"loss": 1}, {"loss": 3}]}, ["m[1]/loss"]),
        ({"m": [1]}, {"m": [1, 2]}, ["m (count)"]),
    ],
)
def test_what_counts_as_a_difference(a, b, fields):
    assert [where for where, _, _ in differences(a, b)] == fields


def test_a_stage_is_read_without_clock_and_folder(tmp_path):
    """The same numbers at another speed and in another folder are the same record; another weight is not."""
    found = []
    for name, seconds, weight in (("a", 1.0, b"w"), ("b", 2.0, b"w"), ("c", 1.0, b"v")):
        work = tmp_path / name
        (work / "rm" / "model").mkdir(parents=True)
        (work / "rm" / "metrics.jsonl").write_text(
            json.dumps({"step": 1, "loss": 0.5} | dict.fromkeys(WALL_CLOCK, seconds))
        )
        (work / "rm" / "evaluation.json").write_text(json.dumps({"path": f"{work}/rm/model"}))
        (work / "rm" / "model" / "model.safetensors").write_bytes(weight)
        found.append(read_stage(work / "rm", work))
    assert found[0] == found[1]
    assert found[0]["metrics.jsonl"] == [{"step": 1, "loss": 0.5}]
    assert [where for where, _, _ in differences(found[0], found[2])] == ["model weights"]


def test_compare_names_the_first_difference(capsys):
    a = record_of(dpo={"metrics.jsonl": json_lines('{"step": 1, "loss": 0.25}')})
    b = record_of(dpo={"metrics.jsonl": json_lines('{"step": 1, "loss": 0.5}')})
    assert compare(a, a, ["ppo"])
    assert not compare(a, b, ["ppo"])
    assert not compare(a, b, ["quickstart"])
    out = capsys.readouterr().out
    assert "identical   1 stages, 1 steps" in out
    assert "dpo/metrics.jsonl[0]/loss\n              0.25\n              0.5" in out
    assert "quickstart  NOT RECORDED in both" in out


def test_a_resumed_run_must_equal_the_unbroken_one(capsys):
    run = record_of(ppo={"gold.jsonl": [1]})["cases"]["ppo"]
    other = record_of(ppo={"gold.jsonl": [2]})["cases"]["ppo"]
    assert resumed_alike({"cases": {"unbroken": run, "resumed": run}})
    assert not resumed_alike({"cases": {"unbroken": run, "resumed": other}})
    assert "stages/ppo/gold.jsonl[0]" in capsys.readouterr().out


def test_every_recipe_is_valid(tmp_path, monkeypatch):
    """A renamed key would end the comparison with older commits."""
    from kilter.recipe import load

    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARDS)
    for name, case in cases().items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(case.recipe, sort_keys=False))
        assert list(load(path, case.overrides).stages) == list(case.recipe["stages"])
