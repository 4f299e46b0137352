"""The recipe from end to end, in small: its stages, a row's trace, and what an unmeasured judge leads to."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from kilter import cli
from kilter.artifacts import read_lines
from kilter.data import store
from kilter.data.lineage import REACHED, marks
from kilter.manifest import Manifest, read
from kilter.release import gate as gates
from kilter.release.gate import decide, load_policy
from kilter.release.trace import find, lines

RECIPE = Path(__file__).parents[1] / "recipes" / "constitutional-ai.yaml"
SMALL = {
    **{f"data.{name}.world.n": 48 for name in ("desk", "redteam", "agents", "people", "claims")},
    "data.pleasers.parts": "[{path: builtin:support-desk, world: {n: 48, level: 0, pleasing: 0.7}}]",
    **{f"stages.{name}.train.max_steps": 1 for name in ("start", "sl", "rl")},
    **{f"stages.{name}.train.max_length": 1500 for name in ("start", "sl", "rl")},
    "stages.judge.audit_judge.limit": 24,
    "stages.judge.audit_judge.probe_limit": 12,
    "stages.revise.revise.limit": 16,
    "stages.revise.revise.allow_uncertified": "true",
    "stages.sl.train.allow_uncertified": "true",
    "stages.revise.revise.max_length": 1500,
    "stages.revise.revise.sampler.max_new_tokens": 8,
    "stages.helpful.label.limit": 16,
    "stages.answers.generate.limit": 8,
    "stages.answers.generate.max_length": 1500,
    "stages.answers.generate.sampler.max_new_tokens": 8,
    "stages.claim-pairs.label.limit": 24,
    "stages.eval.evaluate.limit": 8,
    "stages.eval.evaluate.max_length": 1500,
    "stages.eval.evaluate.max_new_tokens": 8,
    "stages.eval.evaluate.probe_limit": 4,
    "stages.eval.evaluate.tax_limit": 4,
}


def command(monkeypatch, capsys, *args) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
    monkeypatch.setattr(cli.out, "width", 400)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    text = capsys.readouterr()
    return int(stop.value.code or 0), text.out + text.err


def test_the_recipe_runs_to_its_gate_and_every_row_can_be_traced(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sets = [word for k, v in ({"model": tiny} | SMALL).items() for word in ("--set", f"{k}={v}")]
    code, text = command(monkeypatch, capsys, "run", RECIPE, *sets)
    assert code in (1, 3), text
    run = tmp_path / "runs" / "constitutional-ai"
    assert (run / "gate" / "gate.json").is_file(), text

    # A model of noise is revised towards the constitution, by a judge that was measured.
    rows = list(store.read(run / "revise" / "groups.jsonl"))
    assert rows and read(run / "revise").facts["accepted"] == len(rows)
    said = "\n".join(lines(find(run, "0", "revise")))
    for word in ("principle ", "critique: ", "revision: ", "1 shown first, 1 shown second", "certificate: "):
        assert word in said, said
    assert "as it was written" in said
    # One step of a mixture reaches few of the rows, and every other one is said not to be.
    said = ["\n".join(lines(find(run, str(n), "revise"))) for n in range(len(rows))]
    learned = sum("sl: learned from it, first at step 1" in text for text in said)
    assert learned + sum("sl: not reached in its 1 step;" in text for text in said) == len(rows)
    (step,) = read_lines(run / "sl" / REACHED)
    assert learned == sum(any(marks(mark, row) for mark in step["rows"]) for row in rows) < len(rows)
    judge = json.loads((run / "judge" / "judge.json").read_text())
    vouched = judge["verdict"] == "pass"
    assert (read(run / "revise").facts["uncertified"] == []) is vouched
    gate = json.loads((run / "gate" / "gate.json").read_text())
    assert any("judge not certified" in c["why"] for c in gate["conditions"]) is not vouched

    # By name as by place; a file that was changed is said to be.
    name = find(run, "0", "revise").group.prompt.id
    assert find(run, name, "revise").index == 0
    # What a model was asked at the end is no row that anybody learned from.
    assert find(run, "0").stage in ("harmless", "claim-pairs", "helpful", "answers", "revise")
    assert find(run, "0", "eval").stage == "eval"
    with (run / "revise" / "groups.jsonl").open("a") as file:
        file.write("\n")
    assert "CHANGED" in "\n".join(lines(find(run, "0", "revise")))
    for wrong in (["trace", run, "99999"], ["trace", run, "0", "--stage", "no"], ["trace", "nowhere", "0"]):
        code, text = command(monkeypatch, capsys, *wrong)
        assert code == 2 and "Fix: " in text
    code, text = command(monkeypatch, capsys, "trace", run, "0", "--stage", "harmless")
    assert code in (0, 2)
    shutil.rmtree(run)


def test_the_page_s_way_by_a_preference_model_is_a_recipe(tiny, tmp_path, monkeypatch, capsys):
    page = (RECIPE.parents[1] / "docs" / "constitutional-ai.md").read_text()
    recipe = yaml.safe_load(RECIPE.read_text())
    own = yaml.safe_load(re.search(r"```yaml\n(  pm:.*?)```", page, re.S)[1])
    stages = [
        pair
        for name, body in recipe["stages"].items()
        for pair in (own if name == "rl" else {name: body}).items()
    ]
    recipe["stages"] = dict(stages)
    monkeypatch.chdir(tmp_path)
    Path("pm.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    code, text = command(monkeypatch, capsys, "run", "pm.yaml", "--set", f"model={tiny}", "--dry-run")
    assert code == 0, text
    assert re.search(r"\bpm\b", text) and "grpo" in text


def evaluated():
    """An evaluation in which the candidate b over-refuses no more than a."""
    estimate = {"value": 0.0, "n": 200, "n_unscored": 0, "ci_low": -0.01, "ci_high": 0.01, "method": ""}
    model = {"path": "m", "model_hash": "h", "metrics": {"over_refusal": estimate}}
    model["difference"] = {"over_refusal": estimate}
    evaluation = {"baseline": "a", "n_prompts": 200, "data_hash": "d", "models": {"a": model, "b": model}}
    return evaluation | {"prompts_found_in_training_data": 0}


def limited(value):
    condition = {"metric": "over_refusal", "bound": "diff_ci_high", "op": "<=", "value": value}
    return load_policy({"conditions": [condition]})


def test_the_gate_of_a_run_with_an_unmeasured_judge_is_inconclusive_and_a_failure_stays_one():
    evaluation = evaluated()
    for limit, alone in ((0.05, "pass"), (-0.05, "fail")):
        policy = limited(limit)
        assert decide(policy, evaluation, "b")["verdict"] == alone
        found = decide(policy, evaluation, "b", uncertified=["builtin"])
        assert found["verdict"] == ("fail" if alone == "fail" else "inconclusive")
        assert "judge not certified: builtin" in found["conditions"][-1]["why"]
        found = decide(policy, evaluation, "b", uncertified=["x"], refused=["audit refused it for ties"])
        assert found["verdict"] == "fail"


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ({"accepted": 0, "evasive": 480}, "fail"),
        ({"accepted": 85, "no_change": 240, "evasive": 60}, None),
        ({"unscored": 48}, None),
        ({"accepted": 1, "evasive": 2}, None),
        ({}, None),
    ],
)
def test_a_critic_that_always_declines_fails_the_gate_though_its_judge_is_certified(states, state):
    entries = {"revise": Manifest("revise", "revise", "k", {}, {}, status="done", facts={"states": states})}
    found = decide(limited(0.05), evaluated(), "b", evaded=gates.evaded(entries))
    said = [c for c in found["conditions"] if c["condition"] == "revisions do not evade"]
    assert [c["state"] for c in said] == ([state] if state else [])
    assert found["verdict"] == (state or "pass")
