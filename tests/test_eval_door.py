"""What `kilter eval` prints, and a reward model evaluated alone."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sys

import pytest

import kilter
from conftest import pair_rows
from kilter.cli import main
from kilter.errors import UserError
from kilter.release import gate
from test_chain import kilter as command


def run(monkeypatch, capsys, *args) -> tuple[int, str]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), capsys.readouterr().out


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """Pairs, a reward model and a policy trained on them for a step."""
    folder = tmp_path_factory.mktemp("doors")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(20)))
    data = {"path": str(folder / "pairs.jsonl"), "heldout": 0.5}
    for method, name in (("bradley_terry", "rm"), ("dpo", "dpo")):
        kilter.train(str(tiny), data, method, folder / name, max_steps=2, learning_rate=1e-3)
    return folder


def test_differences_and_the_reward_models_accuracy_are_printed(tiny, models, tmp_path, monkeypatch, capsys):
    """Paired differences with their intervals, as evaluation.json has them."""
    out = tmp_path / "eval"
    args = ("--model", models / "dpo", "--baseline", f"base={tiny}", "--reward-model", models / "rm")
    more = ("--metrics", "standard", "--metrics", "implicit_accuracy", "--max-new-tokens", 4, "--limit", 8)
    code, said = run(
        monkeypatch, capsys, "eval", *args, *more, "--data", models / "pairs.jsonl", "--out", out
    )
    found = json.loads((out / "evaluation.json").read_text())
    assert code == 0
    assert "Differences to base, paired on the same prompts" in said
    difference = found["models"]["dpo"]["difference"]["refusal"]
    assert f"{difference['value']:+.3g} [{difference['ci_low']:+.3g}, {difference['ci_high']:+.3g}]" in said
    accuracy = found["reward_model"]["metrics"]["accuracy"]
    assert f"reward model rm: right on {accuracy['value']:.3g} [" in said
    assert f"of {accuracy['n']} pairs" in said
    assert "Beware: " in said  # the policy was trained on half of these prompts

    # By the pairs, the baseline stands for no change.
    implicit = {name: m["metrics"]["implicit_accuracy"]["value"] for name, m in found["models"].items()}
    assert implicit["base"] == 0.5
    assert implicit["dpo"] > 0.5


def test_a_reward_model_is_evaluated_alone(models, tmp_path, monkeypatch, capsys):
    """Without a policy: its accuracy on every pair of the file, and the scored pairs themselves."""
    out = tmp_path / "rm"
    code, said = run(
        monkeypatch,
        capsys,
        *("eval", "--reward-model", models / "rm", "--data", models / "pairs.jsonl", "--out", out),
    )
    assert code == 0
    assert "reward model rm: right on" in said
    assert "of 20 pairs" in said
    found = json.loads((out / "evaluation.json").read_text())
    rows = [json.loads(line) for line in (out / "groups.jsonl").read_text().splitlines()]
    scores = [[f["score"] for f in row["feedback"]] for row in rows]
    assert found["reward_model"]["metrics"]["accuracy"]["value"] == sum(c > r for c, r in scores) / 20
    assert (found["models"], found["prompts_found_in_training_data"]) == ({}, 10)
    code, _ = run(monkeypatch, capsys, "report", out)
    assert code == 0
    assert "Reward model rm" in (out / "report.html").read_text()


def test_two_reward_models_are_one_paired_difference(tiny, models, tmp_path, monkeypatch, capsys):
    """Of the same problems: an interval of the difference, and not two intervals side by side."""
    data = {"path": str(models / "pairs.jsonl"), "heldout": 0.5}
    kilter.train(str(tiny), data, "bradley_terry", tmp_path / "prm", max_steps=1, learning_rate=3e-2)
    given = f"{{orm: {models / 'rm'}, prm: {tmp_path / 'prm'}}}"
    args = ("--reward-model", given, "--data", models / "pairs.jsonl", "--out", tmp_path / "o")
    code, said = run(monkeypatch, capsys, "eval", *args)
    assert (code, "Differences of prm to orm, paired by problem" in said) == (0, True), said
    found = json.loads((tmp_path / "o" / "evaluation.json").read_text())["reward_model"]
    assert (found["name"], found["baseline"]["name"]) == ("prm", "orm")
    difference = found["difference"]["accuracy"]
    means = [part["metrics"]["accuracy"]["value"] for part in (found, found["baseline"])]
    assert difference["value"] == pytest.approx(means[0] - means[1])
    assert difference["n"] == 20 and difference["ci_low"] is not None
    assert {"accuracy", "brier", "exploit_wins"} <= set(found["difference"])

    # A condition would read the bound of the difference, and a page shows it.
    asked = {"metric": "reward_model.accuracy", "bound": "diff_ci_low", "op": ">", "value": 0.9}
    case = gate.condition.Case({"models": {}, "reward_model": found}, "", dt.date.today())
    assert case.metric(gate.Condition.model_validate(asked))["ci_low"] == difference["ci_low"]
    assert run(monkeypatch, capsys, "report", tmp_path / "o")[0] == 0
    assert "Against reward model orm, paired by problem" in (tmp_path / "o" / "report.html").read_text()

    # The gate reads it: the candidate is the last reward model, and nothing asks what it refuses.
    policy = {"conditions": [asked | {"value": -1.0}, {"metric": "reward_model.brier", "margin": 1.0}]}
    (tmp_path / "p.yaml").write_text(json.dumps(policy))
    code, said = run(monkeypatch, capsys, "gate", tmp_path / "o", "--policy", tmp_path / "p.yaml")
    assert (code, "note:" in said) == (1, False), said
    verdict = json.loads((tmp_path / "o" / "gate.json").read_text())
    assert (verdict["candidate"], verdict["baseline"]) == ("prm", "orm")
    # Half of the pairs were trained on, which no bound makes good.
    assert [(c["metric"], c["state"]) for c in verdict["conditions"]] == [
        ("reward_model.accuracy", "pass"),
        ("reward_model.brier", "pass"),
        ("leakage", "fail"),
    ]
    assert run(monkeypatch, capsys, "report", tmp_path / "o")[0] == 0
    assert "Must not ship" in (tmp_path / "o" / "report.html").read_text()

    # Another model under that name was not evaluated.
    kilter.train(str(tiny), data, "bradley_terry", tmp_path / "rm2", max_steps=1, learning_rate=1e-2)
    shutil.rmtree(tmp_path / "prm" / "model")
    shutil.copytree(tmp_path / "rm2" / "model", tmp_path / "prm" / "model")
    code, said = command(monkeypatch, capsys, "gate", tmp_path / "o", "--policy", tmp_path / "p.yaml")
    assert (code, f"stale: prm ({tmp_path / 'prm' / 'model'}) has changed since" in said) == (2, True), said

    # Of three there is no one difference, and with policies one of them scores.
    three = {"a": str(models / "rm"), "b": str(models / "rm"), "c": str(models / "rm")}
    with pytest.raises(UserError, match="names 3 reward models"):
        kilter.evaluate([], data, tmp_path / "x", reward_model=three)
    with pytest.raises(UserError, match="names 2 reward models"):
        kilter.evaluate([str(tiny)], data, tmp_path / "x", reward_model={"a": three["a"], "b": three["b"]})


def test_one_part_of_the_pairs_may_be_held_out(models, tmp_path):
    data = {"path": str(models / "pairs.jsonl"), "heldout": 0.5}
    found = kilter.evaluate([], data, tmp_path / "o", reward_model=str(models / "rm"), limit=6)
    assert found["reward_model"]["metrics"]["accuracy"]["n"] == 6
    assert found["prompts_found_in_training_data"] == 0


def test_leaks_of_models_that_kilter_did_not_train_are_not_counted(tiny, models, tmp_path, capsys):
    """0 would say that somebody had looked."""
    data = {"path": "builtin:support-desk", "heldout": 0.5, "world": {"n": 12}}
    asked = {"metrics": ["length"], "max_new_tokens": 2, "limit": 2}
    found = kilter.evaluate({"hub": str(tiny)}, data, tmp_path / "o", **asked)
    assert found["prompts_found_in_training_data"] is None
    assert found["training_data_unknown"] == ["hub"]
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(models / "rm" / "model", elsewhere)
    data = {"path": str(models / "pairs.jsonl"), "heldout": 0.5}
    found = kilter.evaluate([], data, tmp_path / "r", reward_model=str(elsewhere), limit=6)
    assert found["prompts_found_in_training_data"] is None


def test_a_reward_model_that_no_metric_asks_for_reads_pairs_alone(tiny, models, tmp_path, capsys):
    data = {"path": "builtin:support-desk", "heldout": 0.5, "world": {"n": 12}}
    settings = {"reward_model": str(models / "rm"), "max_new_tokens": 4}
    found = kilter.evaluate([str(tiny)], data, tmp_path / "o", metrics=["length"], **settings)
    assert found["reward_model"]["metrics"]["accuracy"]["n"] > 0
    said = capsys.readouterr()
    assert (
        "reward model on held-out pairs" in said.out + said.err and ": reward of" not in said.out + said.err
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "`models`.*is empty"),
        ({"reward_model": "RM", "baseline": "RM"}, "baseline"),
        ({"reward_model": "RM", "temperature": 0.5}, "temperature.*no model answers"),
        ({"reward_model": "RM", "metrics": ["length"]}, "metrics.*no model answers"),
    ],
)
def test_what_only_policies_have_is_refused(models, tmp_path, options, match):
    options = {k: str(models / "rm") if v == "RM" else v for k, v in options.items()}
    with pytest.raises(UserError, match=match):
        kilter.evaluate([], str(models / "pairs.jsonl"), tmp_path / "o", **options)


def test_a_reward_model_alone_needs_pairs(models, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello"}\n')
    with pytest.raises(UserError):
        kilter.evaluate([], str(tmp_path / "prompts.jsonl"), tmp_path / "o", reward_model=str(models / "rm"))


def test_log_probs_of_pairs_are_those_of_the_model(tiny, encoder, scorer):
    """Against the model's own logits, row by row; pairs of one prompt object stay apart."""
    import torch

    from kilter.evaluation.likelihood import pair_logps
    from kilter.models.load import load_causal
    from kilter.types import Completion, Feedback, Group, Prompt

    prompt = Prompt(messages=({"role": "user", "content": "Hi"},))
    pairs = [
        Group(prompt, (Completion("good " * i), Completion("bad")), (Feedback(None),) * 2) for i in (1, 3)
    ]
    found = pair_logps(scorer, encoder, pairs, 64, lambda done: None)
    model = load_causal(tiny).eval()
    for pair, sums in zip(pairs, found, strict=True):
        encoded = encoder.encode(pair)
        for tail, ours in zip(encoded.completion_ids, sums, strict=True):
            head = encoded.prompt_ids
            with torch.no_grad():
                logps = model(torch.tensor([[*head, *tail]])).logits[0].log_softmax(-1)
            theirs = sum(float(logps[len(head) - 1 + i, token]) for i, token in enumerate(tail))
            assert ours == pytest.approx(theirs, abs=1e-3)
