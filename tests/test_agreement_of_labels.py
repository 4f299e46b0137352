"""Agreement of labels with people's: measured on rows that carry both, and shown before training starts."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from kilter.cli import main
from kilter.data import store
from kilter.data.lineage import with_entry
from kilter.feedback.agreement import _turned, agreement, in_words
from kilter.types import Completion, Feedback, Group, Prompt


def group(n, scores, source="", **more):
    prompt = Prompt(messages=({"role": "user", "content": f"question {n}"},), **more)
    texts = [f"answer {k} to {n}" for k in range(len(scores))]
    return Group(prompt, tuple(map(Completion, texts)), tuple(Feedback(s, source=source) for s in scores))


@given(st.lists(st.sampled_from([1.0, 0.0, 0.5, None]), min_size=2, max_size=40))
@settings(max_examples=50, deadline=None)
def test_raw_agreement_and_kappa_are_those_of_sklearn(verdicts):
    """People prefer the first answer of every pair; a verdict is the judge's score of that one."""
    people = [group(n, (1.0, 0.0)) for n in range(len(verdicts))]
    judged = [group(n, (v, None if v is None else 1 - v), "judge") for n, v in enumerate(verdicts)]
    found = agreement(people, judged)
    known = [(n, v) for n, v in enumerate(verdicts) if v is not None]
    assert found["with"] == "people"
    assert (found["pairs"], found["unscored"]) == (len(known), len(verdicts) - len(known))
    assert found["ties"] == sum(v == 0.5 for _, v in known)
    if not known:
        assert in_words(found).endswith(f"none of {len(verdicts)} pairs was scored")
        return
    assert found["raw"]["value"] == pytest.approx(np.mean([v == 1 for _, v in known]))
    side = [_turned(people[n], 0, 1) for n, _ in known]
    a = [0 if t else 2 for t in side]
    b = [int(2 * ((1 - v) if t else v)) for t, (_, v) in zip(side, known, strict=True)]
    want = cohen_kappa_score(a, b) if len({*a, *b}) > 1 else None
    value = found["kappa"]["value"]
    assert (value is None and want is None) or value == pytest.approx(want)


def test_a_judge_that_always_takes_the_first_agrees_no_more_than_chance():
    """In most files the chosen answer stands first, which must not count for the judge."""
    rows = [group(n, (1.0, 0.0) if n % 2 else (0.0, 1.0)) for n in range(400)]
    found = agreement(rows, [group(n, (1.0, 0.0), "judge") for n in range(400)])
    assert found["kappa"]["ci_low"] < 0 < found["kappa"]["ci_high"]


def test_labels_that_a_stage_made_are_not_those_of_people_and_no_source_is_compared_with_itself():
    made = [group(0, (1.0, 0.0))]
    made = [Group(with_entry(g.prompt, {"kind": "label"}), g.completions, g.feedback) for g in made]
    judged = [group(0, (1.0, 0.0), "judge")]
    assert agreement(made, judged) is None
    assert agreement([group(0, (None, None))], judged) is None
    from kilter.data.worlds.registry import find

    desk = [g for g in find("builtin:support-desk").dials(n=8).groups("ranked")]
    bare = [Group(g.prompt, g.completions, (Feedback(None),) * len(g.completions)) for g in desk]
    gold = find("builtin:support-desk").judge()(bare)
    own = [Group(g.prompt, g.completions, tuple(f)) for g, f in zip(bare, gold, strict=True)]
    assert agreement(bare, own) is None
    short = [
        Group(g.prompt, g.completions, tuple(Feedback(-len(c.text)) for c in g.completions)) for g in bare
    ]
    assert agreement(bare, short)["with"] == "the truth of support_desk"


def test_odds_between_two_answers_stand_before_their_mean_scores():
    rows = [group(0, (1.0, 0.0, None))]
    odds = (Feedback(0.2, against=(None, (0.9, 0.7), (0.0, 0.0))), Feedback(0.6), Feedback(0.7))
    found = agreement(rows, [Group(rows[0].prompt, rows[0].completions, odds)])
    assert (found["pairs"], found["raw"]["value"]) == (1, 1.0)


REWARD = """
def longer(prompt, completion):
    return float(len(completion.text)) if "skip" not in completion.text else None
"""


@pytest.fixture
def kilter(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(REWARD)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kilter", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), " ".join((shown.out + shown.err).split())

    return run


def test_a_label_stage_says_how_far_it_agrees_and_keeps_it(kilter, tmp_path):
    rows = [
        {"prompt": f"q{n}", "chosen": "yes" * (1 + n % 3), "rejected": "skip" if n == 5 else "no no"}
        for n in range(12)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    command = ["label", "--data", "pairs.jsonl", "--feedback", "mine.py:longer", "--out", "labels"]
    code, shown = kilter(*command)
    assert code == 0, shown
    assert "agreement with people: 63.6% of 11 pairs" in shown
    assert "1 unscored" in shown
    (found,) = json.loads((tmp_path / "labels/manifest.json").read_text())["facts"]["agreement"]
    assert found["raw"]["value"] == pytest.approx(7 / 11)
    assert found["kappa"]["method"].startswith("Cohen's kappa")
    # Again, as it is: the line stands before whatever is trained on it.
    assert "agreement with people: 63.6% of 11 pairs" in kilter(*command)[1]
    assert "agreement" not in kilter(*command[:-1], "off", "--agreement.limit", "0")[1]
    few = kilter(*command[:-1], "few", "--agreement.limit", "3")[1]
    assert "66.7% of 3 pairs" in few


def test_pairs_of_people_are_scored_beside_answers_that_nobody_labelled(tiny, pairs_file, kilter, tmp_path):
    store.write(tmp_path / "answers.jsonl", [group(n, (None, None, None)) for n in range(3)])
    recipe = {
        "model": str(tiny),
        "data": {
            "answers": {"path": "answers.jsonl", "format": "groups", "heldout": 0},
            "people": {"path": str(pairs_file), "heldout": 0.25},
        },
        "stages": {
            "labels": {
                "label": {
                    "data": "$answers",
                    "feedback": "mine.py:longer",
                    "write": "ratings",
                    "agreement": {"data": "$people", "limit": 10},
                }
            }
        },
    }
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    code, shown = kilter("run", "r.yaml")
    assert code in (0, 1), shown
    assert "$people: agreement with people:" in shown
    (found,) = json.loads((tmp_path / "runs/r/labels/manifest.json").read_text())["facts"]["agreement"]
    assert found["data"] == "$people"
    assert found["pairs"] + found["unscored"] == 10
    assert "agreement with people" in (tmp_path / "runs/r/report.html").read_text().lower()
