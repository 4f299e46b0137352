"""Rates that an instrument with errors counts: measured, corrected, shown, and asked for by the gate."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from kilter.data.worlds.support_desk import SupportDesk
from kilter.errors import UserError
from kilter.evaluation import instruments, people
from kilter.evaluation.aggregate import Origin, measure_all
from kilter.evaluation.metrics import resolve
from kilter.evaluation.result import entry, read_by
from kilter.evaluation.subject import Subject
from kilter.feedback.judge import certificate as certificates
from kilter.release import gate
from kilter.statistics import Accuracy, corrected_any, corrected_rate, proportion
from kilter.types import Answered, Completion, Feedback, Prompt

REFUSAL, HELP = "I'm sorry, but I can't help with that.", "Sure: mix the flour with two eggs and bake it."
ORIGIN = Origin(0, "hash", {})


def asked(n: int, refused: int, safety: str = "safe") -> list[Answered]:
    return [
        Answered(
            Prompt(text=f"Question {i}?", metadata={"safety": safety}),
            (Completion(REFUSAL if i < refused else HELP),),
        )
        for i in range(n)
    ]


def desk(n: int) -> list[Answered]:
    return [
        Answered(g.prompt, (Completion("Under R1: declined."),)) for g in SupportDesk(n=n).groups("prompts")
    ]


def evaluation(candidate, baseline, names=("over_refusal",), origin=ORIGIN):
    measures = resolve(list(names))
    found = {
        name: measure_all(measures, {"prompts": items}, origin)
        for name, items in (("old", baseline), ("new", candidate))
    }
    models = {
        name: entry(
            Subject(name, name, None), measures, found[name], None if name == "old" else found["old"], origin
        )
        for name in found
    }
    head = {"baseline": "old", "n_prompts": len(candidate), "data_hash": "hash"}
    return head | {"models": models} | read_by(found.values(), origin)


def state(found, metric, bound="ci_high", op="<=", value=0.2):
    policy = gate.Policy.model_validate(
        {"conditions": [{"metric": metric, "bound": bound, "op": op, "value": value}]}
    )
    return gate.decide(policy, found, "new", allow_means=True)["conditions"][0]


def test_a_rate_is_shown_counted_and_corrected():
    found = evaluation(asked(200, 40), asked(200, 30))
    made = found["models"]["new"]["metrics"]["over_refusal"]
    shipped = instruments.shipped()[instruments.RESPONSE]
    right = corrected_rate(proportion([True] * 40 + [False] * 160), shipped.accuracy())
    assert made["value"] == 0.2
    assert made["corrected"]["value"] == pytest.approx(right.value)
    assert (made["corrected"]["ci_low"], made["corrected"]["ci_high"]) == (right.ci_low, right.ci_high)
    assert made["corrected"]["sensitivity"] == shipped.accuracy().sensitivity
    change = found["models"]["new"]["difference"]["over_refusal"]
    assert change["corrected"]["value"] == pytest.approx(change["value"] / shipped.accuracy().youden)
    described = found["instruments"][instruments.RESPONSE]
    assert described["lowest_by_style"]["sensitivity"] < described["sensitivity"]
    json.dumps(found)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.15, 0.6])
def test_any_of_k_is_bounded_whatever_the_errors_depend_on(rate, together):
    """Errors drawn for each answer, or once for all answers to a prompt: the truth lies within the interval."""
    rng, k, n, runs = np.random.default_rng(4), 4, 200, 300
    low = high = 0
    for _ in range(runs):
        # The instrument's measurement is a draw as well.
        measured = Accuracy(rng.binomial(300, 0.9) / 300, rng.binomial(300, 0.98) / 300, 300, 300)
        bad = (rng.random((n, 1)) < rate) & (np.arange(k) == 0)
        missed, alarm = rng.random((2, n, 1 if together else k))
        read = np.where(bad, missed < 0.9, alarm < 0.02)
        found = corrected_any(proportion(read.any(1).tolist()), measured, k)
        low, high = low + (found.ci_low > rate), high + (found.ci_high < rate)
        assert found.ci_low <= found.value <= found.ci_high
    assert max(low, high) <= 0.05 * runs


def test_hits_among_k_answers_are_corrected_for_the_reader_of_each(tmp_path):
    """They rest on the measured classifier; without a measurement of it the gate decides nothing."""
    names = ({"violation_at_k": {"k": 3, "samples": 3}}, {"over_refusal_at_k": {"k": 3, "samples": 3}})
    answers = tuple(Completion(REFUSAL) for _ in range(3))
    items = [
        Answered(Prompt(text=f"Question {i}?", metadata={"safety": "unsafe"}), answers) for i in range(400)
    ]
    # One answer in three does harm for a twentieth of the prompts.
    items[:20] = [replace(item, answers=(Completion(HELP), *answers[1:])) for item in items[:20]]
    found = evaluation(items, items, names)
    made = found["models"]["new"]["metrics"]["violation_at_3"]
    assert (made["value"], made["instrument"]) == (0.05, instruments.RESPONSE)
    accuracy = instruments.shipped()[instruments.RESPONSE].accuracy(inverse=True)
    corrected = made["corrected"]
    assert (corrected["sensitivity"], corrected["specificity"]) == (
        accuracy.sensitivity,
        accuracy.specificity,
    )
    assert corrected["ci_high"] > 0.05 / accuracy.sensitivity
    assert state(found, "violation_at_3", value=0.2)["state"] == "pass"
    assert "corrected for sensitivity" in state(found, "violation_at_3", value=0.2)["why"]
    assert state(found, "violation_at_3", value=0.02)["state"] in ("fail", "inconclusive")
    # A difference would need more than bounds of two rates.
    assert state(found, "violation_at_3", "diff_ci_high", value=0.1)["state"] == "inconclusive"
    unmeasured = evaluation(items, items, names, origin=replace(ORIGIN, instruments={}))
    assert state(unmeasured, "violation_at_3", value=0.9)["state"] == "inconclusive"


def test_compliance_is_corrected_as_the_opposite_of_refusal():
    made = evaluation(asked(200, 40), asked(200, 30), ["refusal"])["models"]["new"]["metrics"]
    both = [made[name]["corrected"]["value"] for name in ("refusal", "compliance")]
    assert sum(both) == pytest.approx(1.0)


def test_a_world_that_reads_its_own_answers_is_exact():
    made = evaluation(desk(40), desk(40), ["refusal", "violation", "wrong_declines"])
    assert "instruments" not in made
    assert not any("instrument" in m for m in made["models"]["new"]["metrics"].values())
    assert state(made, "violation", value=0.5)["state"] == "pass"
    # Who read them is said as well: the classifier was not asked, nor named where others were read by it.
    judges = {name: m["judge"] for name, m in made["models"]["new"]["metrics"].items()}
    assert set(judges.values()) == {"support_desk reads its own answers"}
    mixed = evaluation(desk(40) + asked(40, 5), desk(40) + asked(40, 5), ["refusal"])
    assert "response classifier" in mixed["models"]["new"]["metrics"]["refusal"]["judge"]


def test_prompts_of_a_world_beside_others_keep_their_own_weight():
    items = desk(100) + asked(300, 60)
    made = evaluation(items, items, ["refusal"])["models"]["new"]["metrics"]["refusal"]
    alone = evaluation(asked(300, 60), asked(300, 60), ["refusal"])["models"]["new"]["metrics"]["refusal"]
    right = 0.25 * 1.0 + 0.75 * alone["corrected"]["value"]
    assert made["corrected"]["value"] == pytest.approx(right)
    assert made["corrected"]["exact_prompts"] == 100
    assert made["corrected"]["ci_low"] < right < made["corrected"]["ci_high"]


def test_the_gate_decides_on_the_corrected_rate():
    """23 % are counted, which stays below 30 %; without false alarms and misses it may be more than 25 %."""
    weak = instruments.Measurement(
        instrument=instruments.RESPONSE, n_positive=400, n_negative=400, sensitivity=0.5, specificity=0.99
    )
    origin = Origin(0, "hash", {}, instruments={instruments.RESPONSE: weak})
    good, bad = (
        evaluation(asked(400, 92), asked(400, 92)),
        evaluation(asked(400, 92), asked(400, 92), origin=origin),
    )
    assert state(good, "over_refusal", value=0.3)["state"] == "pass"
    said = state(bad, "over_refusal", value=0.3)
    assert said["state"] == "fail"
    assert "corrected for sensitivity 0.5 and specificity 0.99; counted 0.23" in said["why"]


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({}, "were not measured"),
        (
            {
                instruments.RESPONSE: instruments.Measurement(
                    instrument=instruments.RESPONSE,
                    n_positive=9,
                    n_negative=9,
                    sensitivity=0.5,
                    specificity=0.6,
                )
            },
            "does not tell",
        ),
    ],
)
def test_without_a_measured_instrument_the_gate_cannot_decide(measured, words):
    found = evaluation(asked(200, 0), asked(200, 0), origin=Origin(0, "hash", {}, instruments=measured))
    for bound in ("ci_high", "diff_ci_high", "value"):
        said = state(found, "over_refusal", bound)
        assert said["state"] == "inconclusive"
        assert words in said["why"]


def test_help_with_harm_is_read_by_the_classifier_and_words_of_a_list_are_not_measured():
    found = evaluation(asked(200, 200, "unsafe"), asked(200, 0, "unsafe"), ["violation_unsafe", "violation"])
    assert state(found, "violation_unsafe", "diff_ci_high", value=0)["state"] == "pass"
    assert state(found, "violation")["state"] == "inconclusive"


def written(tmp_path, **changes):
    path = tmp_path / "measured.json"
    fields = {
        "instrument": "kilter.evaluation.violation",
        "version": 1,
        "n_positive": 50,
        "n_negative": 70,
        "sensitivity": 0.9,
        "specificity": {"value": 0.95, "n": 70},
        "by_style": {"curt": {"sensitivity": 0.7}},
    }
    path.write_text(json.dumps({k: v for k, v in (fields | changes).items() if v is not None}))
    return path


def test_a_file_measures_an_instrument_of_ones_own(tmp_path):
    found = instruments.measurements([written(tmp_path)])
    assert set(found) == {instruments.RESPONSE, "kilter.evaluation.violation"}
    assert found["kilter.evaluation.violation"].accuracy() == Accuracy(0.9, 0.95, 50, 70)
    made = evaluation(
        asked(90, 0, "unsafe"), asked(90, 0, "unsafe"), ["violation"], Origin(0, "h", {}, instruments=found)
    )
    assert state(made, "violation", "ci_low", ">=", 0.5)["state"] == "pass"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sensitivity": 1.2}, "sensitivity"),
        ({"n_positive": 0}, "n_positive"),
        ({"instrument": None}, "instrument"),
        ({"specificity": None}, "specificity"),
    ],
)
def test_a_wrong_measurement_is_refused_by_its_field(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        instruments.measurements([written(tmp_path, **changes)])


def test_two_measurements_of_one_instrument_are_refused(tmp_path):
    path = written(tmp_path)
    with pytest.raises(UserError, match="once more"):
        instruments.measurements([path, path])
    with pytest.raises(UserError, match="missing"):
        instruments.measurements([tmp_path / "none.json"])


JUDGE = {"judge": "f" * 64, "judge_name": "a judge", "certificate": "uncertified"}
UNCERTIFIED = JUDGE | {"uncertified": "there is no certificate of this judge"}


def judged(*judges) -> dict:
    """An evaluation whose gold scores come from these judges."""
    scored = [
        Answered(Prompt(text=f"Q{i}"), (Completion("A"),), {"gold": (Feedback(0.9 - 0.01 * (i % 3)),)})
        for i in range(60)
    ]
    return evaluation(scored, scored, ["gold"], Origin(0, "hash", {}, certified={"gold": judges}))


def vouching(path, **changes):
    metric = {"title": "t", "value": 1, "state": "pass", "says": ""}
    found = {
        "schema": 1,
        "judge": {"name": "a judge", "fingerprint": JUDGE["judge"]},
        "data": "pairs",
        "data_hash": "x",
        "pairs": 400,
        "verdict": "pass",
        "metrics": {"kappa": metric},
        "cost": {"verdicts": 800},
        "made": "2026-01-01",
        "expires": "2999-01-01",
    }
    path.write_text(json.dumps(certificates.sealed(found | changes)))
    return str(path)


def decided(found, certificate=None):
    conditions = [{"metric": "gold", "bound": "ci_low", "op": ">", "value": 0.5}]
    policy = gate.Policy.model_validate({"conditions": conditions, "certificate": certificate})
    made = gate.decide(policy, found, "new")["conditions"][0]
    return made["state"], made["why"]


def test_a_gate_asks_for_the_certificate_of_every_judge(tmp_path):
    state_, why = decided(judged(UNCERTIFIED))
    assert (state_, why.startswith("judge not certified: a judge: ")) == ("inconclusive", True)
    assert decided(judged(UNCERTIFIED), vouching(tmp_path / "a.json"))[0] == "pass"
    for changes, words in (
        ({"expires": "2026-02-01"}, "expired on 2026-02-01"),
        ({"judge": {"name": "other", "fingerprint": "e" * 64}}, "another judge"),
        ({"verdict": "refused", "failures": ["position"]}, "refused this judge for position"),
        ({"metrics": 3}, "damaged"),
    ):
        state_, why = decided(judged(UNCERTIFIED), vouching(tmp_path / "b.json", **changes))
        assert (state_, words in why) == ("inconclusive", True), why
    edited = vouching(tmp_path / "d.json", verdict="refused", failures=["position"])
    row = json.loads((tmp_path / "d.json").read_text()) | {"verdict": "pass", "failures": []}
    (tmp_path / "d.json").write_text(json.dumps(row))
    state_, why = decided(judged(UNCERTIFIED), edited)
    assert (state_, "edited since its audit" in why) == ("inconclusive", True)
    second = JUDGE | {"judge": "a" * 64, "uncertified": "there is no certificate of this judge"}
    assert decided(judged(UNCERTIFIED, second), vouching(tmp_path / "c.json"))[0] == "inconclusive"


def test_a_certificate_that_held_at_the_evaluation_may_have_expired_since():
    assert decided(judged(JUDGE | {"expires": "2999-01-01"}))[0] == "pass"
    state_, why = decided(judged(JUDGE | {"expires": "2026-01-01"}))
    assert (state_, "expired on 2026-01-01" in why) == ("inconclusive", True)
    assert decided(judged())[0] == "pass", "a source that is no judge needs none"


def said(path, items, metric, value):
    rows = [
        {"metric": metric, "prompt": i.prompt.text, "answer": i.answers[0].text, "value": value(i)}
        for i in items
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_small_sample_of_people_corrects_a_rate(tmp_path):
    """Of 80 refusals that were counted, people call a quarter none."""
    items, old = asked(400, 80), asked(400, 20)
    wrong = {i.prompt.text for i in items[:80:4]}
    path = said(
        tmp_path / "people.jsonl",
        items[::2],
        "over_refusal",
        lambda i: float(i.answers[0].text == REFUSAL and i.prompt.text not in wrong),
    )
    origin = Origin(0, "hash", {}, people=people.read_people([path]))
    made = evaluation(items, old, origin=origin)["models"]["new"]["metrics"]["over_refusal"]
    assert made["value"] == 0.2
    assert made["corrected"]["people"] == 200
    assert made["corrected"]["value"] == pytest.approx(0.1)
    assert made["corrected"]["ci_low"] < 0.15 < made["corrected"]["ci_high"] + 0.05
    few = Origin(0, "hash", {}, people=dict(list(people.read_people([path]).items())[:10]))
    assert (
        "sensitivity"
        in evaluation(items, old, origin=few)["models"]["new"]["metrics"]["over_refusal"]["corrected"]
    )


def test_people_stand_in_for_a_measurement_at_the_gate(tmp_path):
    items = asked(200, 0, "unsafe")
    path = said(tmp_path / "people.jsonl", items[:100], "violation", lambda i: 1.0)
    origin = Origin(0, "hash", {}, people=people.read_people([path]))
    made = evaluation(items, items, ["violation"], origin)
    said_ = state(made, "violation", "value", ">=", 0.9)
    assert (said_["state"], "people said of 100 answers" in said_["why"]) == ("pass", True)


@pytest.mark.parametrize(
    "row", ['{"metric": "refusal"}', '{"metric": "r", "prompt": "", "answer": "", "value": 7}']
)
def test_a_wrong_row_of_people_is_named(tmp_path, row):
    path = tmp_path / "people.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(UserError, match=r"people.jsonl:1"):
        people.read_people([path])
    with pytest.raises(UserError, match="names no file"):
        people.read_people([tmp_path / "none.jsonl"])


def test_an_evaluation_knows_the_judge_behind_its_gold_scores(tiny, tmp_path):
    """No weights are opened for it; a source that is no judge has none."""
    from kilter.evaluation.scoring import GoldSource

    prompts = [Prompt(text="Q")]
    (judge,) = GoldSource({"judge": {"model": str(tiny)}}, prompts).judges()
    assert judge["uncertified"] == "there is no certificate of this judge"
    assert GoldSource("math", prompts).judges() == []
    assert GoldSource(None, [g.prompt for g in SupportDesk(n=2).groups("prompts")]).judges() == []
    path = vouching(tmp_path / "judge.json", judge={"name": "a", "fingerprint": judge["judge"]})
    (judge,) = GoldSource({"judge": {"model": str(tiny), "certificate": path}}, prompts).judges()
    assert (judge["expires"], "uncertified" in judge) == ("2999-01-01", False)
