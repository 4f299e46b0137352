"""Statistics, gate, report."""

import datetime as dt
import json
import math
import random
import re
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter import manifest
from kilter.data.dataset import learned_keys, was_learned
from kilter.errors import Exit, UserError
from kilter.evaluation import classifiers
from kilter.evaluation.aggregate import Origin, measure
from kilter.evaluation.metrics import resolve
from kilter.evaluation.metrics.distinct import Distinct1, Distinct2
from kilter.evaluation.metrics.win_rate import win
from kilter.evaluation.suites import Suite
from kilter.pipeline.report import write_report
from kilter.release import gate
from kilter.statistics import (
    mean,
    n_to_certify,
    paired_difference,
    proportion,
    wilson_bounds,
    win_rate,
)
from kilter.types import Answered, Completion, Feedback, Group, Prompt


def test_wilson_numbers_of_the_power_check():
    """No violation in 100 bounds the rate at 3.7 %, in 300 at 1.3 %."""
    assert wilson_bounds(0, 100)[1] == pytest.approx(0.037, abs=5e-4)
    assert wilson_bounds(0, 300)[1] == pytest.approx(0.0126, abs=5e-4)
    n = n_to_certify(0.02)
    assert wilson_bounds(0, n)[1] < 0.02 <= wilson_bounds(0, n - 1)[1]


def test_bootstrap_covers_the_mean():
    rng = np.random.default_rng(0)
    hits = sum(
        m.ci_low <= 0.3 <= m.ci_high for m in (mean(list(rng.normal(0.3, 1, 40)), seed=i) for i in range(60))
    )
    assert hits >= 52


def test_missing_is_counted_and_never_zero():
    m = mean([1.0, None, 2.0, float("nan")])
    assert (m.value, m.n, m.n_unscored) == (1.5, 2, 2)
    assert proportion([True, None, False]).n_unscored == 1
    assert proportion([True, math.nan, False]) == proportion([True, None, False])
    assert proportion([math.nan] * 3).value is None
    assert mean([None]).value is None


def test_constant_values_claim_no_certainty():
    """Two identical models: every paired difference is 0, and no interval may pretend to exclude it."""
    same = paired_difference([0.5, 1.0, 0.2] * 20, [0.5, 1.0, 0.2] * 20)
    assert same.value == 0
    assert same.ci_high == -same.ci_low == pytest.approx(wilson_bounds(0, 60)[1])
    more = paired_difference([0.0] * 500, [0.0] * 500)
    assert 0 < more.ci_high < same.ci_high
    assert more.method == "paired, Wilson (constant), McNemar exact p=1"
    gained = paired_difference([1.0] * 500, [0.0] * 500)
    assert (gained.ci_low, gained.ci_high) == (pytest.approx(1 - 2 * more.ci_high), 1.0)
    shifted = paired_difference([1.3, 1.3], [1.0, 1.0])
    assert shifted.ci_low is None
    assert win_rate([win(1.0, 0.0)] * 10).ci_low == pytest.approx(wilson_bounds(10, 10)[0])
    assert wilson_bounds(0, 50)[0] == 0.0
    assert wilson_bounds(50, 50)[1] == 1.0


def test_paired_difference_and_mcnemar_by_hand():
    a, b = [1.0] * 8 + [0.0] * 2, [0.0] * 6 + [1.0] * 4
    d = paired_difference(a, b)
    assert d.value == pytest.approx(0.4)
    assert "McNemar exact p=0.289" in d.method  # 6 against 2 discordant: 2 * (1 + 8 + 28) / 256


def test_the_test_of_several_paired_changes_is_mcnemars_and_holds_its_level_over_clusters():
    from statsmodels.stats.contingency_tables import mcnemar

    from kilter.statistics import holm, paired_changes, sign_test
    from kilter.statistics.paired import _net

    # Of independent decisions it is McNemar's exact test, as statsmodels has it, and its holm.
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2, 60).astype(float)
    others = {str(n): np.where(rng.random(60) < n / 20, 1 - base, base) for n in range(1, 8)}
    found = paired_changes(others, list(base))
    for name, values in others.items():
        table = [[int(((values == i) & (base == j)).sum()) for j in (0, 1)] for i in (0, 1)]
        assert found[name].p == pytest.approx(mcnemar(table, exact=True).pvalue)
    p = [c.p for c in found.values()]
    assert [c.p_holm for c in found.values()] == pytest.approx(holm(p))

    # Six rows of a prompt that change alike: rows would reject far too often, prompts do not.
    by_row, by_prompt = [], []
    prompts = np.repeat(np.arange(20), 6)
    for _ in range(400):
        change = np.repeat(rng.choice([-1, 0, 1], 20), 6)
        low = np.where(change > 0, 0.0, 1.0)
        by_row.append(sign_test(_net(list(low + change), list(low), None)) < 0.05)
        by_prompt.append(sign_test(_net(list(low + change), list(low), prompts)) < 0.05)
    assert np.mean(by_row) > 0.2 and np.mean(by_prompt) <= 0.07


def test_win_rate_with_ties():
    w = win_rate([win(*pair) for pair in [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (2.0, 1.0)]])
    assert w.value == pytest.approx(0.625)
    assert w.method.startswith("W/T/L 2/1/1")


def answered(*texts):
    return [Answered(Prompt(text="x"), (Completion(text),)) for text in texts]


def test_distinct_n_at_a_fixed_budget(monkeypatch):
    monkeypatch.setattr(Distinct1, "budget", 8)
    assert Distinct1().over_corpus(answered(*["a b a b"] * 10)) == (2 / 8, "first 8 words")
    assert Distinct2().over_corpus(answered("a b c"))[1].startswith("first 3 words (fewer")


def kl(name, policy, reference):
    items = [
        Answered(Prompt(text="x"), (Completion("a"),), {}, own, ref)
        for own, ref in zip(policy, reference, strict=True)
    ]
    return measure(resolve([name])[0], items, Origin(0, "", {})).estimate


def test_kl_estimators_by_hand():
    k1 = kl("kl", [(-1.0, -2.0), (-1.0,)], [(-1.5, -2.0), (-0.5,)])
    assert k1.value == pytest.approx(0.0)
    assert k1.judge == "k1"
    k3 = kl("kl_token_k3", [(-1.0,)], [(-1.5,)])
    assert k3.value == pytest.approx(np.exp(-0.5) - 1 + 0.5)


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("I can't help with that.", True),
        ("I'm sorry, but I cannot do this.", True),
        ("Refused under rule R5.", True),
        ("As an AI, I do not think I can", True),
        ("Sure, here it is.", False),
        ("You cannot go wrong with soup.", False),
    ],
)
def test_refusals(text, yes):
    assert classifiers.refuses(text) is yes


def test_violations():
    unsafe = Prompt(text="x", metadata={"safety": "unsafe"})
    assert classifiers.violates(unsafe, "Take the bolt and open it")
    assert not classifiers.violates(unsafe, "I cannot help with that at all")
    assert classifiers.violates(Prompt(text="x"), "you idiot")
    assert not classifiers.violates(Prompt(text="x"), "Take the bolt and open it")


def evaluation(**numbers):
    metric = {
        "value": 0.2,
        "n": 100,
        "n_unscored": 0,
        "ci_low": 0.1,
        "ci_high": 0.3,
        "unit": "",
        "method": "",
        "higher_is_better": True,
        "judge": "",
    } | numbers
    return {
        "schema": 1,
        "baseline": "sft",
        "n_prompts": 100,
        "data_hash": "d",
        "prompts_found_in_training_data": 0,
        "models": {
            "sft": {"metrics": {"gold": metric}, "model_hash": "a"},
            "dpo": {"metrics": {"gold": metric}, "difference": {"gold": metric}, "model_hash": "b"},
        },
    }


def verdict(ev, **condition):
    policy = gate.Policy.model_validate(
        {"conditions": [{"metric": "gold", "bound": "diff_ci_low", "op": ">", "value": 0.0} | condition]}
    )
    result = gate.decide(policy, ev, today=dt.date(2026, 1, 10))
    return result["conditions"][0]["state"], result["verdict"]


def test_states():
    assert verdict(evaluation()) == ("pass", "pass")
    assert verdict(evaluation(ci_low=-0.1)) == ("inconclusive", "inconclusive")
    assert verdict(evaluation(ci_low=-0.3, ci_high=-0.1, value=-0.2)) == ("fail", "fail")
    assert verdict(evaluation(), min_n=200) == ("inconclusive", "inconclusive")
    assert verdict(evaluation(n_unscored=50)) == ("inconclusive", "inconclusive")
    assert verdict(evaluation(ci_low=-0.3, ci_high=-0.1), severity="warn") == ("warn", "pass")
    assert verdict(evaluation(), metric="absent") == ("error", "fail")
    assert verdict(evaluation(), requires=["absent"]) == ("error", "fail")
    assert verdict(evaluation(value=None)) == ("error", "fail")
    assert verdict(evaluation(value=0.0, ci_low=None, ci_high=None)) == ("inconclusive", "inconclusive")


def test_it_fails_closed_on_leaks():
    ev = evaluation()
    ev["prompts_found_in_training_data"] = 2
    assert verdict(ev)[1] == "fail"


@pytest.mark.parametrize("count", ["absent", None])
def test_leakage_that_nobody_measured_is_inconclusive_unless_somebody_answers_for_it(count):
    ev = evaluation()
    ev.pop("prompts_found_in_training_data")
    ev |= {} if count == "absent" else {"prompts_found_in_training_data": count}
    asked = {"conditions": [{"metric": "gold", "bound": "diff_ci_low", "op": ">", "value": 0.0}]}
    waiver = {"owner": "Ada", "reason": "newer than the data", "expires": "2026-01-10"}

    def decided(leaked=ev, **more):
        policy = gate.Policy.model_validate(asked | more)
        found = gate.decide(policy, leaked, today=dt.date(2026, 1, 10))
        gate.Verdict.model_validate(found)
        last = found["conditions"][-1]
        return found["verdict"], last["state"], last["why"]

    assert decided()[:2] == ("inconclusive", "inconclusive")
    assert "leakage not measured" in decided()[2]
    assert decided(unmeasured_leakage=waiver)[:2] == ("pass", "waived")
    late = decided(unmeasured_leakage=waiver | {"expires": "2026-01-09"})
    assert late[:2] == ("inconclusive", "inconclusive")
    assert "expired" in late[2]
    # Nobody answers for prompts that were found.
    found = decided(ev | {"prompts_found_in_training_data": 1}, unmeasured_leakage=waiver)
    assert found[:2] == ("fail", "fail")


def test_of_a_candidate_that_kilter_did_not_train_nothing_is_known():
    """A model from the Hub or behind an endpoint; the baseline may be one."""
    ev = evaluation() | {"training_data_unknown": ["base"]}
    assert verdict(ev)[1] == "pass"
    candidate = next(name for name in ev["models"] if name != ev["baseline"])
    ev["training_data_unknown"] = ["base", candidate]
    assert verdict(ev)[1] == "inconclusive"
    assert verdict(ev | {"prompts_found_in_training_data": 1})[1] == "fail"


def test_waivers_expire():
    waiver = {"owner": "Ada", "reason": "known", "expires": "2026-01-10"}
    bad = evaluation(ci_low=-0.3, ci_high=-0.1)
    assert verdict(bad, waiver=waiver) == ("waived", "pass")
    assert verdict(bad, waiver=waiver | {"expires": "2026-01-09"}) == ("fail", "fail")


def test_inconclusive_prints_the_n_needed():
    policy = gate.Policy.model_validate(
        {"conditions": [{"metric": "gold", "bound": "ci_low", "op": ">", "value": 0.15}]}
    )
    found = gate.decide(policy, evaluation())["conditions"][0]
    assert "about 400 prompts" in found["why"]


def test_power_check_before_any_generation():
    policy = gate.Policy.model_validate(
        {"conditions": [{"metric": "violation", "bound": "ci_high", "op": "<", "value": 0.02}]}
    )
    assert "needs 189" in gate.power_warnings(policy, {"prompts": unlike(100)})[0]
    assert gate.power_warnings(policy, {"prompts": unlike(300)}) == []


def test_the_power_check_counts_what_a_metric_counts():
    """Of a hundred prompts ten deserve help, and thirty others are five questions asked six times."""

    def warned(condition, prompts, **more):
        policy = gate.Policy.model_validate({"conditions": [condition]})
        return gate.power_warnings(policy, {"prompts": prompts, **more})

    rate = {"metric": "over_refusal", "bound": "ci_high", "op": "<", "value": 0.5, "min_n": 20}
    safe, unsafe = unlike(10, safety="safe"), unlike(90, 10, safety="unsafe")
    assert "it counts 10 prompts" in warned(rate, [*safe, *unsafe])[0]
    assert warned(rate, [*safe, *unsafe], probes=unlike(30, 100, safety="safe")) == []
    alike = [p for k in range(5) for p in unlike(6, 10 + 6 * k, safety="safe", cluster=f"c{k}")]
    assert "it counts 30 prompts, of which 5 are independent" in warned(rate, alike)[0]
    tax = {"metric": "tax_nll", "margin": 0.1, "min_n": 50}
    assert warned(tax, unlike(100)) == [], "nobody knows yet what the tax is measured on"
    few = [replace(p) for p in unlike(12)]
    assert "it counts 12 prompts" in warned(tax, unlike(100), demonstrations=few)[0]


@settings(max_examples=60, deadline=None)
@given(st.text("abcé 12+-", min_size=3, max_size=30).filter(lambda t: t.strip()))
def test_a_prompt_that_was_trained_on_is_known_in_other_clothes(text):
    def asked(said, system=None):
        turns = [{"role": "user", "content": said}]
        return Prompt(([{"role": "system", "content": system}] if system else []) + turns)

    plain, ruled = learned_keys(asked(text)), learned_keys(asked(text, "Be kind."))
    forms = [
        text.upper(),
        f"  {text}\n",
        text.replace(" ", "  "),
        f"{text}.",
        unicodedata.normalize("NFD", text),
    ]
    for form in forms:
        for prompt in (asked(form), Prompt(text=form), asked(form, "Be kind.")):
            assert was_learned(prompt, plain)
            assert was_learned(prompt, ruled)
    assert not was_learned(asked(text, "Refuse whatever is asked."), ruled), "other rules make another task"
    assert not was_learned(asked(f"{text} - 7"), plain | ruled)
    assert not was_learned(asked(f"{text} + 7"), learned_keys(asked(f"{text} - 7")))


def test_every_kind_of_question_counts_as_a_leak():
    whole = [Prompt(text=word, id=word) for word in ("asked", "probed", "set", "shown")]
    suite = Suite(
        whole[:1], whole[1:2], [Group(whole[3], (Completion("x"),), (Feedback(None, ""),))], (), whole[2:3]
    )
    for prompt in whole:
        assert suite.found_in(frozenset(learned_keys(prompt))) == 1
    assert suite.found_in(frozenset()) == 0


def unlike(n, first=0, **labels):
    """Prompts of which no two resemble each other."""
    words = [random.Random(first + i).choices("abcdefghijklmnop", k=30) for i in range(n)]
    return [Prompt(text="".join(w), id=str(first + i), metadata=labels) for i, w in enumerate(words)]


def test_exit_codes_and_junit():
    assert [gate.exit_code(v) for v in ("pass", "fail", "inconclusive")] == [
        Exit.OK,
        Exit.GATE_FAILED,
        Exit.INCONCLUSIVE,
    ]
    policy = gate.Policy.model_validate(
        {"conditions": [{"metric": "absent", "bound": "value", "op": ">", "value": 0}]}
    )
    assert 'failures="1"' in gate.junit(gate.decide(policy, evaluation()))


def test_wrong_candidate_names_the_right_ones():
    policy = gate.Policy.model_validate(
        {"conditions": [{"metric": "gold", "bound": "value", "op": ">", "value": 0}]}
    )
    with pytest.raises(UserError, match="sft, dpo"):
        gate.decide(policy, evaluation(), "ppo")


# The page


def stage(run, name, kind, facts=None, **files):
    """A finished stage with these files: a list is written as lines."""
    folder = run / name
    folder.mkdir(parents=True)
    manifest.Manifest(name, kind, "k", {}, {}, "done", facts=facts or {}, started=name).write(folder)
    for stem, content in files.items():
        if isinstance(content, list):
            (folder / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            (folder / f"{stem}.json").write_text(json.dumps(content))


def evaluated(prompts):
    """evaluation.json of one model without a baseline to be compared with."""
    length = {"value": 3.0, "ci_low": 2.0, "ci_high": 4.0, "unit": "tokens", "n": prompts, "n_unscored": 0}
    length |= {"method": "bootstrap", "judge": "", "higher_is_better": None}
    return {
        "models": {"m": {"metrics": {"length": length}}},
        "baseline": "m",
        "n_prompts": prompts,
        "sampling": {"temperature": 1.0, "max_new_tokens": 8},
        "reward_model": None,
        "prompts_found_in_training_data": 0,
        "data_hash": "h",
    }


def test_every_stage_writes_its_own_part_of_the_page(tmp_path):
    """Results first, then how they were learned, then the data; two stages of a kind have a part each."""
    run = tmp_path / "run"
    finding = {"level": "ok", "title": "Duplicates", "value": 0, "meaning": "None.", "waived": ""}
    audit = {"data": "d", "format": "pairs", "train": 1, "heldout": 1, "data_hash": "h", "verdict": "ok"}
    event = {
        "step": 2,
        "level": "stop",
        "message": "<b>hacked</b>",
        "since": 1,
        "confidence": "",
        "action": "",
    }
    change = {"value": -0.5, "ci_low": -0.7, "ci_high": -0.3}
    gold = [{"step": 0}, {"step": 2, "gold_change": change, "proxy_change": change}]
    stage(run, "1-audit", "audit", audit=audit | {"findings": [finding]})
    stage(run, "2-sft", "train", metrics=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    stopped = {"stopped": "reward hacking", "best_step": 0}
    stage(run, "3-ppo", "train", stopped, metrics=[{"step": 1, "reward": 2.0}], gold=gold, events=[event])
    stage(run, "4-begun", "train")
    stage(run, "5-easy", "evaluate", evaluation=evaluated(11))
    stage(run, "6-hard", "evaluate", evaluation=evaluated(22))

    page = write_report(run).read_text()
    headings = re.findall(r"<h2[^>]*>(\w+(?: \w+)*) <small>(.*?)</small>", page)
    assert headings == [
        ("Metrics", "5-easy"),
        ("Metrics", "6-hard"),
        ("Training", "2-sft"),
        ("Training", "3-ppo"),
        ("Data audit", "1-audit"),
    ]
    assert "11 prompts, sampled at temperature 1.0" in page
    assert "22 prompts, sampled at temperature 1.0" in page
    assert page.count("Was the reward hacked?") == 1
    assert "Training was stopped at step 2</strong>, and the model of step 0 was kept." in page
    assert "&lt;b&gt;hacked" in page


@pytest.mark.parametrize(
    ("n", "state"), [(2, "inconclusive"), (14, "inconclusive"), (15, "pass"), (40, "pass")]
)
def test_tiny_samples_do_not_pass_by_a_bootstrap(n, state):
    from kilter.statistics import paired_difference

    gains = [0.4 + 0.1 * (i % 3) for i in range(n)]
    found = paired_difference(gains, [0.0] * n).to_json()
    measured = {"base": {"metrics": {}}, "new": {"metrics": {}, "difference": {"gold": found}}}
    facts = {"model_hash": "x", "path": "x"}
    evaluation = {
        "models": {name: facts | entry for name, entry in measured.items()},
        "baseline": "base",
        "n_prompts": n,
        "data_hash": "h",
    }
    policy = gate.Policy.model_validate(
        {"conditions": [{"metric": "gold", "bound": "diff_ci_low", "op": ">", "value": 0}]}
    )
    assert gate.decide(policy, evaluation)["conditions"][0]["state"] == state
