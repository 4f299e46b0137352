"""The page of a run and of two runs: verdict in words, answers that are all there, and nothing harmful in sight."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import re
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evidence_runs import condition, make_run, metric, seal, stage
from kilter.cli import main
from kilter.pipeline.report import write_comparison, write_report
from kilter.release import answers, words
from kilter.release.evidence import gather
from kilter.release.gate import standing


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "first")


def packed(page: str) -> dict:
    text = re.search(r'class="packed">(.*?)</script>', page, re.S)[1]
    return json.loads(zlib.decompress(base64.b64decode(text)))


def kilter(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["kilter", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("verdict", "word", "summary"),
    [
        ("pass", "May ship", "All 2 conditions hold."),
        ("fail", "Must not ship", "1 of 2 conditions does not hold: Over-refusal rate."),
        ("inconclusive", "Not decided", "1 of 2 cannot be decided yet: Over-refusal rate."),
    ],
)
def test_the_verdict_stands_first_and_in_words(tmp_path, verdict, word, summary):
    page = write_report(make_run(tmp_path / "run", verdict=verdict)).read_text()
    body = page[page.index("<main") :]
    assert body.index(word) < body.index(summary) < body.index("Gold score") < body.index("Provenance")
    if verdict == "pass":
        assert "May be higher than base by up to 30 percentage points. Asked for: a change of at most" in page
    else:
        both = "A change against base of between +10 percentage points and +30 percentage points."
        assert f"{both} Asked for: a change of at most 5 percentage points." in page
    states = re.findall(r'<li><span class="chip (\w+)">', body)
    assert states == sorted(states, key=words.ORDER.index)


def test_what_the_policy_does_not_ask_stands_with_the_verdict_once(run):
    path = run / "gate" / "gate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"notes": ["No condition on <length>."]}))
    page = write_report(run).read_text()
    assert page.count("No condition on &lt;length&gt;.") == 1
    assert page.index("No condition on &lt;") < page.index("The numbers behind it")


NUMBER = st.floats(-2, 2, allow_nan=False).map(lambda x: round(x, 3))


@given(
    NUMBER,
    NUMBER,
    st.sampled_from(sorted(words.OPS)),
    st.sampled_from(["ci_low", "ci_high", "value"]),
    st.booleans(),
)
def test_a_reason_says_which_side_is_sure(observed, value, op, bound, change):
    """A lower bound above zero is a sure gain; below zero it is only what may be lost."""
    row = condition("gold", f"diff_{bound}" if change else bound, op, value, observed)
    gate = {"baseline": "base", "candidate": "dpo", "conditions": [row]}
    measured = {"gold": metric(0.5)}
    evaluation = {"models": {"dpo": {"metrics": measured, "difference": measured}}}
    (reason,) = words.reasons(gate, evaluation, {"gold": "Gold score"})
    assert words.OPS[op] in reason.text
    if change and observed and bound != "value":
        sure = observed > 0 if bound == "ci_low" else observed < 0
        assert ("by at least" in reason.text) == sure
        assert ("May be" in reason.text) != sure
        assert ("igher than base" in reason.text) == (observed > 0)
    if not change:
        word = {"ci_low": "At least", "ci_high": "At most", "value": "Measured:"}[bound]
        assert reason.text.startswith(word)


def test_conditions_that_no_policy_names_speak_in_their_own_words(tmp_path):
    """What stands in every gate is a count of findings, and no mean of the policy's."""
    day, evaluation = dt.date(2026, 1, 1), {"n_prompts": 3, "prompts_found_in_training_data": 2}
    (tmp_path / "source.json").write_text("[]")
    rows = [
        *standing.leaks(evaluation, "dpo", None, day),
        *standing.leaks(evaluation | {"prompts_found_in_training_data": None}, "dpo", None, day),
        *standing.imported({"imported": [{}]}, {f"file:{tmp_path / 'source.json'}": "other"}),
        *standing.imported({"imported": [{}]}, {f"file:{tmp_path / 'gone.json'}": "other"}),
        *standing.changed(["eval/evaluation.json was changed"]),
        *standing.unvouched(["a judge"], []),
    ]
    assert {row["metric"] for row in rows} == set(words.BEYOND)
    for row in rows:
        told = {"baseline": "base", "candidate": "dpo", "conditions": [row], "verdict": "fail"}
        (reason,) = words.reasons(told, {"models": {}}, {})
        assert reason.title == words.BEYOND[row["metric"]]
        assert reason.text.rstrip(".").lower() == row["why"].rstrip(".").lower()
    run = make_run(tmp_path / "run")
    path = run / "gate" / "gate.json"
    given = json.loads(path.read_text())
    path.write_text(json.dumps(given | {"conditions": [*given["conditions"], *rows]}))
    assert "never at means" in write_report(run).read_text()


def test_a_stage_may_bear_the_name_of_any_part_of_the_page(tmp_path):
    """Each part has an id of its own, and the navigation leads to all of them."""
    run = make_run(tmp_path / "run")
    own = ["answers", "verdict", "forest", "limits", "provenance", "my_dpo.v2"]
    steps = [{"step": s, "loss": 1 / s} for s in range(1, 5)]
    for name in own:
        stage(run, name, "train", {"steps": 4}, {"method": "dpo"}, metrics=steps)
    page = write_report(seal(run)).read_text()
    ids = re.findall(r'<[^>]+ id="(run-[^"]+)"', page)
    assert sorted(ids) == sorted(set(ids))
    linked = re.findall(r'<a href="#(run-[^"]+)"', page)
    assert set(linked) <= set(ids)
    headed = {name.removesuffix("-h") for name in ids if name.endswith("-h")}
    assert headed <= set(linked)
    assert {f"run-run-stage-{name}" for name in own} <= headed


def test_a_condition_without_a_number_speaks_in_the_gates_own_words():
    row = condition("absent", "ci_low", ">", 0.0, None, "error", "absent was not measured")
    gate = {"baseline": "base", "candidate": "dpo", "conditions": [row], "verdict": "fail"}
    assert words.reasons(gate, {"models": {}}, {})[0].text == "Absent was not measured."


def test_the_page_holds_every_answer_and_marks_what_must_be_found(run):
    data = packed(write_report(run).read_text())
    assert len(data["rows"]) == 40
    last = [row["answers"][1] for row in data["rows"]]
    assert [i for i, a in enumerate(last) if a["unscored"]] == [1]
    assert [i for i, a in enumerate(last) if a["declined"]] == [2]
    assert [i for i, a in enumerate(last) if a["harmful"]] == [3]
    assert data["measures"] == {"gold": "Gold score"}
    assert data["rows"][0]["values"]["gold"] == [0.9, 0.0]


def test_what_would_turn_or_hide_text_is_written_out(run):
    path = run / "eval" / "groups.jsonl"
    text = path.read_text()
    assert "Question 4" in text
    hidden = json.dumps("Question 4\x1b[2J\u202egnihton yas\u2066")[1:-1]
    path.write_text(text.replace("Question 4", hidden))
    page = write_report(run).read_text()
    seen = page + json.dumps(packed(page), ensure_ascii=False)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", seen)
    assert r"Question 4\x1b[2J\u202egnihton yas\u2066" in page
    assert r"Question 4\x1b[2J\u202egnihton yas\u2066" in packed(page)["rows"][4]["turns"][0][1]


def test_without_a_script_the_largest_changes_stand_and_harm_is_hidden(run):
    page = write_report(run).read_text()
    still = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "Question 0" in still
    assert "Question 4" in still
    for said in re.findall(r"secret powder", still):
        before = still[: still.index(said)]
        assert before.rindex("<details") > before.rindex("</details>")


def test_no_request_leaves_the_page_and_only_its_own_script_runs(run):
    page = write_report(run).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    script = re.search(r"<script>(.*)</script>\n</body>", page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    outside = re.findall(
        r'(?:src|href|url)\s*[=(]\s*["\']?(?:https?:)?//', re.sub(r"<svg.*?</svg>", "", page, flags=re.S)
    )
    assert outside == []


def test_what_has_no_room_is_counted_and_the_least_changed_goes_first(run):
    facts = gather(run)
    whole = answers.shelf(facts.evaluated, facts.evaluation, "dpo")
    part = answers.fitted(whole, len(whole.packed) // 2)
    assert len(part.packed) <= len(whole.packed) // 2
    assert len(part.rows) + part.left_out == 40
    kept = {row["i"] for row in part.rows}
    assert {0, 1, 4} <= kept
    none = answers.fitted(whole, 10)
    assert (len(none.rows), none.left_out) == (0, 40)


def test_a_thousand_prompts_stay_below_five_megabytes(tmp_path):
    """Random words pack worse than any language."""
    page = write_report(make_run(tmp_path / "run", n=1000, length=250, refusals=True))
    assert page.stat().st_size < 5e6
    data = packed(page.read_text())
    assert len(data["rows"]) == 1000 or "has no room for" in page.read_text()


def test_events_stand_on_the_curves(run):
    page = write_report(run).read_text()
    curves = page[page.index('class="curves"') :]
    assert "with 1 events of the monitors" in curves
    assert "entropy fell" in curves


def test_the_phrase_that_a_run_repeats_most_is_named(run):
    said = {
        "step": 9,
        "loss": 0.1,
        "monitor/boilerplate": 0.25,
        "monitor/boilerplate_phrase": "we care about you",
    }
    with (run / "dpo" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(said) + "\n")
    page = write_report(run).read_text()
    assert "At the last step 25 % of the answers hold the phrase that the run repeats most" in page.replace(
        "25%", "25 %"
    )
    assert "we care about you" in page


def test_two_runs_are_paired_on_the_prompts_that_both_asked(tmp_path):
    first = make_run(tmp_path / "first", n=30)
    second = make_run(tmp_path / "second", n=40, verdict="fail", seed=1)
    page = write_comparison(first, second).read_text()
    data = packed(page)
    assert data["models"] == ["first: dpo", "second: dpo"]
    assert len(data["rows"]) == 30
    assert "On 30 shared prompts" in page
    assert "May ship" in page
    assert "Must not ship" in page
    assert "The recipes are the same but for the name" in page
    assert (tmp_path / "report-first-second.html").is_file()


def test_runs_without_a_prompt_in_common_say_so(tmp_path):
    from kilter.data import store

    first, second = make_run(tmp_path / "first", n=20), make_run(tmp_path / "second", n=20)
    text = (second / "eval" / "groups.jsonl").read_text().replace("Question ", "Other question ")
    (second / "eval" / "groups.jsonl").write_text(text)
    assert len(list(store.read(second / "eval" / "groups.jsonl"))) == 20
    assert "The runs asked no prompt in common" in write_comparison(first, second).read_text()


def test_settings_that_differ_are_named(tmp_path):
    first, second = make_run(tmp_path / "first", n=20), make_run(tmp_path / "second", n=20)
    recipe = json.loads((second / "recipe.yaml").read_text())
    recipe["stages"]["dpo"]["train"]["learning_rate"] = 3e-5
    (second / "recipe.yaml").write_text(json.dumps(recipe))
    page = write_comparison(first, second).read_text()
    assert re.search(r"<td>stages.dpo.train.learning_rate</td><td>1e-05</td><td>3e-05</td>", page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("RUN", "absent"), "is not a run folder"),
        (("--compare", "RUN"), "needs two runs"),
        (("RUN", "--out", "x.html"), "goes with --compare"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_a_page_is_written(
    run, monkeypatch, capsys, arguments, message
):
    assert kilter(monkeypatch, "report", *(run if a == "RUN" else a for a in arguments)) == 2
    assert message in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_a_run_that_goes_on_says_how_far_it_is(tmp_path):
    run = make_run(tmp_path / "run", gate=False)
    entry = json.loads((run / "dpo" / "manifest.json").read_text())
    (run / "dpo" / "manifest.json").write_text(json.dumps(entry | {"status": "running"}))
    (run / "dpo" / "train.json").write_text(json.dumps({"total_steps": 20}))
    page = write_report(run).read_text()
    assert "step 8 of 20, 0:24 left" in page
    assert "The gate has not run." in page


@pytest.mark.parametrize("names", [("base",), ("base", "sft", "dpo")])
def test_one_model_or_three_have_a_page_too(tmp_path, names):
    run = make_run(tmp_path / "run", names=names, gate=len(names) > 1)
    data = packed(write_report(run).read_text())
    assert data["models"] == list(names)
    assert data["baseline"] == (0 if len(names) > 1 else None)
    assert data["candidate"] == len(names) - 1
