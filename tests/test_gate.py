"""The gate's rooms: margins, families, shipped policies, the published schema, more evidence."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
from pathlib import Path
from unittest.mock import Mock

import jsonschema
import pytest
import yaml

from evidence_runs import make_run
from kilter import recipe
from kilter.errors import UserError
from kilter.release import gate
from kilter.statistics import proportion
from test_chain import kilter
from test_release import evaluation

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "gate.schema.json").read_text())


def decided(ev, *conditions, **options):
    policy = gate.Policy.model_validate({"conditions": list(conditions)})
    return gate.decide(policy, ev, today=dt.date(2026, 1, 10), **options)


def states(ev, *conditions, **options) -> list[str]:
    return [c["state"] for c in decided(ev, *conditions, **options)["conditions"]]


def test_more_evidence_never_takes_a_pass_back():
    """499 of 500 passes; so must 500 of 500, and none of 500."""
    at_least = {"metric": "gold", "bound": "ci_low", "op": ">", "value": 0.97}
    at_most = {"metric": "gold", "bound": "ci_high", "op": "<", "value": 0.03}
    for good in (499, 500):
        found = proportion([True] * good + [False] * (500 - good))
        numbers = {k: getattr(found, k) for k in ("value", "n", "ci_low", "ci_high")}
        assert states(evaluation(**numbers), at_least) == ["pass"], good
        found = proportion([False] * good + [True] * (500 - good))
        numbers = {k: getattr(found, k) for k in ("value", "n", "ci_low", "ci_high")}
        assert states(evaluation(**numbers), at_most) == ["pass"], good


@pytest.mark.parametrize(
    ("metric", "low", "high", "state"),
    [
        ("gold", -0.04, 0.02, "pass"),  # higher is better: the lower bound counts
        ("gold", -0.06, 0.02, "inconclusive"),
        ("gold", -0.2, -0.1, "fail"),
    ],
)
def test_a_margin_is_read_at_the_bound_that_could_hurt(metric, low, high, state):
    ev = evaluation(value=(low + high) / 2, ci_low=low, ci_high=high)
    assert states(ev, {"metric": metric, "margin": 0.05}) == [state]


def test_a_margin_of_a_rate_that_should_be_low_is_an_upper_bound():
    condition = gate.Policy.model_validate(
        {"conditions": [{"metric": "over_refusal", "margin": 0.05}]}
    ).conditions[0]
    assert (condition.bound, condition.op, condition.value) == ("diff_ci_high", "<=", 0.05)


def test_a_family_makes_one_of_many_harder():
    """p = .02 alone passes; among six claims it is .12, and does not."""
    claim = {"metric": "gold", "bound": "diff_ci_low", "op": ">", "value": 0.0}
    ev = evaluation(value=0.1, ci_low=0.004, ci_high=0.196)
    assert states(ev, claim) == ["pass"]
    # A claim that was never measured counts as one that does not hold.
    others = [claim | {"metric": f"absent{i}", "family": "f"} for i in range(5)]
    found = decided(ev, claim | {"family": "f"}, *others)["conditions"][0]
    assert found["state"] != "pass"
    assert found["p_holm"] == pytest.approx(6 * 0.0206, rel=0.05)


@pytest.mark.parametrize("name", ["helpful", "harmless", "no-regression", "support-desk"])
def test_shipped_policies_watch_what_a_gain_is_bought_with(name):
    policy = gate.load_policy(name)
    assert policy.why
    watched = {c.metric.partition(".")[0] for c in policy.conditions}
    assert watched & {"over_refusal", "ordinary_refusal"}
    assert "length" in watched
    assert "tax_nll" in watched
    assert not policy.means()


def test_what_a_policy_forgets_stands_in_its_verdict():
    notes = " ".join(
        decided(evaluation(), {"metric": "gold", "bound": "diff_ci_low", "op": ">", "value": 0.0})["notes"]
    )
    for word in ("over-refusal", "length", "tax"):
        assert word in notes


@pytest.mark.parametrize(
    ("name", "low", "high", "told"),
    [
        ("wrong_declines", 0.17, 0.38, True),
        ("wrong_declines", -0.02, 0.38, False),
        ("wrong_declines", -0.38, -0.17, False),
        ("decision", -0.3, -0.1, True),
        ("decision", 0.1, 0.3, False),
        ("length", 5.0, 9.0, False),
        ("wrong_declines", None, None, False),
    ],
)
def test_what_got_worse_and_is_not_asked_about_is_said(name, low, high, told):
    """A demo passed once whose model declined a third of all just claims: no condition was about them."""
    found = evaluation()
    model = found["models"]["dpo"]
    lost = {**model["difference"]["gold"], "value": 0.27 if low is None else (low + high) / 2}
    lost |= {"ci_low": low, "ci_high": high}
    model["difference"] |= {name: lost, f"{name}.part": lost}
    gold = {"metric": "gold", "bound": "diff_ci_low", "op": ">", "value": 0.0}
    assert ("Worse than the baseline" in " ".join(decided(found, gold)["notes"])) is told
    asked = {"metric": name, "bound": "diff_value", "op": "<", "value": 9.0}
    assert "Worse than the baseline" not in " ".join(decided(found, gold, asked, allow_means=True)["notes"])
    # Nobody knows how often an unmeasured instrument is wrong.
    model["difference"][name] = model["difference"][f"{name}.part"] = lost | {
        "instrument": "it",
        "corrected": None,
    }
    assert "Worse than the baseline" not in " ".join(decided(found, gold)["notes"])


def test_a_mean_decides_only_where_that_was_allowed():
    mean = {"metric": "gold", "bound": "value", "op": ">", "value": 0.0}
    assert states(evaluation(), mean) == ["error"]
    found = decided(evaluation(), mean, allow_means=True)
    assert found["verdict"] == "pass"
    assert "Means were allowed" in " ".join(found["notes"])


@pytest.mark.parametrize(
    "numbers", [{}, {"ci_low": -0.1}, {"ci_low": None, "ci_high": None}, {"value": None}]
)
def test_every_verdict_fits_the_published_schema(numbers):
    claim = {"metric": "gold", "bound": "diff_ci_low", "op": ">", "value": 0.0, "family": "f"}
    waived = claim | {"waiver": {"owner": "Ada", "reason": "known", "expires": "2027-01-01"}}
    found = decided(evaluation(**numbers), claim, waived, {"metric": "gold", "margin": 0.1})
    jsonschema.validate(json.loads(json.dumps(found)), SCHEMA)


@pytest.mark.parametrize(
    ("models", "condition", "problem"),
    [
        (2, {"bound": "diff_ci_low", "op": ">", "value": 0}, ""),
        (2, {"metric": "reward_model.brier", "margin": 0.1}, ""),
        (2, {"metric": "reward_model.exploit_wins", "bound": "diff_ci_high", "op": "<", "value": 0.1}, ""),
        (2, {"metric": "length", "bound": "ci_high", "op": "<", "value": 9}, "is not a metric that"),
        (2, {"bound": "diff_ci_low", "op": ">", "value": 3}, "lies outside -1 to 1"),
        (2, {"metric": "reward_model.ece", "margin": 0.1}, "no difference to a baseline"),
        (1, {"bound": "ci_low", "op": ">", "value": 0.5}, ""),
        (1, {"bound": "diff_ci_low", "op": ">", "value": 0}, "name two reward models without models"),
    ],
)
def test_a_policy_of_reward_models_is_checked_before_anything_is_read(models, condition, problem):
    names = {name: "builtin:smollm2-135m" for name in ("first", "second")[:models]}
    policy = {"conditions": [{"metric": "reward_model.accuracy"} | condition]}
    raw = {
        "model": "builtin:smollm2-135m",
        "data": {"path": "builtin:support-desk"},
        "stages": {"eval": {"evaluate": {"reward_model": names}}, "gate": {"gate": {"policy": policy}}},
    }
    if not problem:
        assert recipe.build(raw).stages.keys() == {"eval", "gate"}
        return
    with pytest.raises(UserError, match=problem):
        recipe.build(raw)


@pytest.mark.parametrize(
    ("limit", "disk", "code"),
    [("> 0", "", 0), ("> 0.3", "", 1), ("> 7 apples", "", 2), ("> 0.1", "", 3), ("> 0", "full", 4)],
)
def test_the_command_ends_with_five_codes(limit, disk, code, tmp_path, monkeypatch, capsys):
    """Pass, fail, wrong input, inconclusive, and a machine that fails: a script tells them apart."""
    run = make_run(tmp_path / "run", gate=False)
    value = limit.removeprefix("> ")
    (tmp_path / "p.yaml").write_text(
        f"conditions: [{{metric: gold, bound: diff_ci_low, op: '>', value: {value}}}]"
    )
    if disk:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(gate.files, "write_json", Mock(side_effect=full))
    found, said = kilter(monkeypatch, capsys, "gate", run / "eval", "--policy", tmp_path / "p.yaml")
    assert found == code, said
    assert (tmp_path / "run" / "eval" / "gate.json").is_file() is (code in (0, 1, 3))


@pytest.mark.parametrize("file", ["github-actions.yml", "gitlab-ci.yml"])
def test_the_ci_examples_block_a_merge_and_no_other(file):
    """A required check that never starts would block every change, and one that may fail blocks none."""
    examples = Path(__file__).parents[1] / "examples" / "ci"
    text = (examples / file).read_text()
    made = yaml.safe_load(text)
    assert "kilter run" in json.dumps(made)
    assert "continue-on-error" not in text
    if file.startswith("github"):
        # YAML 1.1 reads the key `on` as true.
        assert made[True] == "pull_request", "a filter of paths leaves a required check pending"
        assert "!cancelled()" in made["jobs"]["release-gate"]["if"]
    else:
        jobs = {name: job for name, job in made.items() if isinstance(job, dict)}
        assert jobs["release-gate"]["allow_failure"] is False
        assert any("changes" not in rule for job in jobs.values() for rule in job["rules"])
