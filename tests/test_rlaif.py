"""RLAIF: a judge with dialled faults labels a model's own answers, and every way of using it trains."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kilter import feedback
from kilter.cli import main
from kilter.data import store
from kilter.data.dataset import DataSpec, load
from kilter.data.lineage import lineage
from kilter.data.worlds.registry import find
from kilter.errors import UserError
from kilter.feedback.agreement import labels_of_people
from kilter.feedback.context import Context
from kilter.feedback.route import Route, routed
from kilter.release.trace import find as traced_row
from kilter.release.trace import lines
from kilter.sampling.world import Faults, open_world
from kilter.types import Completion, Feedback, Group, Prompt

ROOT = Path(__file__).resolve().parents[1]
JUDGE = {"judge": {"sampler": {"name": "world", "options": {"critic": "helpful"}}}}


def judged(**faults):
    groups = find("builtin:support-desk").dials(n=300, differ="any").groups("pairs")
    options = {"critic": "helpful", **faults}
    source = feedback.build({"judge": {"sampler": {"name": "world", "options": options}}}, Context())
    return [row[0].against[1] for row in source(groups)]


def test_a_judge_of_the_desk_has_the_faults_that_its_dials_say():
    """Rows of pairs have the better answer first; both orders err by chances of their own."""
    right = judged()
    assert all(a > 0.5 and a == pytest.approx(b) for a, b in right)
    wrong = [p < 0.5 for both in judged(error=0.2) for p in both]
    assert abs(sum(wrong) / 600 - 0.2) < 0.05
    first = judged(first=0.4)
    assert abs(sum(a == 1.0 for a, _ in first) / 300 - 0.4) < 0.09
    assert abs(sum(b == 0.0 for _, b in first) / 300 - 0.4) < 0.09
    assert {max(abs(p - 0.5) for p in both) <= 0.4 for both in judged(sure=0.9)} == {True}
    assert judged(error=0.2) == judged(error=0.2) != judged(error=0.2, seed=1)
    assert Faults(sure=0.75).applied(1.0, "x") == 0.75


def test_odds_follow_the_gold_score():
    (prompt,) = [g.prompt for g in find("builtin:support-desk").dials(n=2).groups("prompts")][:1]
    one = Group(prompt, (Completion("no words of use"), Completion("nothing")), (Feedback(None),) * 2)
    (row,) = feedback.build(JUDGE, Context())([one])
    assert (row[0].score, row[0].over(1)) == (0.5, 0.5)
    other = Group(Prompt(text="no case of the desk"), one.completions, one.feedback)
    assert [f.score for f in feedback.build(JUDGE, Context())([other])[0]] == [None, None]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"error": 1.2}, "error"),
        ({"error": 0.7, "first": 0.6}, "error + first"),
        ({"sure": 0.3}, "between 0.5 and 1"),
        ({"critic": "helpfull"}, "helpful"),
    ],
)
def test_impossible_faults_are_refused(options, problem):
    with pytest.raises(UserError) as refused:
        open_world(**options)
    assert problem in str(refused.value)


def test_labels_that_no_judge_gave_odds_for_are_never_sent_to_people_as_doubtful():
    certain = [
        Group(Prompt(text=f"{n}"), (Completion("a"), Completion("b")), (Feedback(1.0), Feedback(0.0)))
        for n in range(10)
    ]
    assert routed(certain, Route(human=0.5)) == (certain, [])


@pytest.fixture
def kilter(monkeypatch, capsys, tmp_path, tiny):
    """Runs a command in a folder of its own; the built-in model is the tests' tiny one."""
    from kilter.models import resolve

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(resolve, "_builtin", lambda reference, field: tiny)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kilter", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), " ".join((shown.out + shown.err).split())

    return run


def answers(path, n=24, k=3):
    """Answers of the desk's own agents, good and bad ones, to n prompts."""
    groups = find("builtin:support-desk").dials(n=n, k=k).groups("ranked")
    plain = [Group(g.prompt, g.completions, (Feedback(None),) * len(g.completions)) for g in groups]
    store.write(path, plain)
    return plain


def test_routed_pairs_are_counted_left_out_and_kept_for_people(kilter, tmp_path):
    answers(tmp_path / "answers.jsonl")
    spec = {"judge": {"sampler": {"name": "world", "options": {"critic": "helpful", "error": 0.15}}}}
    command = ["label", "--data", "answers.jsonl", "--feedback", json.dumps(spec), "--out", "labels"]
    code, shown = kilter(*command, "--route.human", "0.2")
    assert code == 0, shown
    kept, people = (list(store.read(tmp_path / "labels" / f"{n}.jsonl")) for n in ("groups", "people"))
    assert f"{len(people)} pairs wait for people" in shown
    facts = json.loads((tmp_path / "labels/manifest.json").read_text())["facts"]
    assert (facts["rows"], facts["people"]) == (len(kept), len(people))
    assert len(people) >= math.ceil(0.2 * (len(kept) + len(people)))
    assert not any(g.feedback[0].flipped(1) for g in kept)
    assert {g.prompt.id for g in kept}.isdisjoint({g.prompt.id for g in people})
    assert "agreement with the truth of support_desk" in shown
    code, shown = kilter(*command[:-1], "all", "--route.human", "1")
    assert (code, "pairs that wait for people" in shown) == (4, True), shown


def test_what_a_judge_cannot_order_goes_to_people_whose_labels_come_back_as_their_own(kilter, tmp_path):
    """A judge that takes the answer shown first has odds of one half: the least certain that there are."""
    known = {g.prompt.id: g for g in answers(tmp_path / "answers.jsonl", n=8, k=2)}
    judge = {"judge": {"sampler": {"name": "world", "options": {"critic": "helpful", "first": 1.0}}}}
    command = ["label", "--data", "answers.jsonl", "--feedback", json.dumps(judge), "--out", "labels"]
    code, shown = kilter(*command, "--route.human", "0.1", "--allow-empty")
    assert code == 0, shown
    people = list(store.read(tmp_path / "labels/people.jsonl"))
    differ = [g for g in known.values() if len({c.text for c in g.completions}) == 2]
    assert len(people) == len(differ) > 2
    for pair in people:
        # Neither a score nor the place tells what the judge preferred.
        assert [f.score for f in pair.feedback] == [None, None] and not lineage(pair.prompt)
        assert [c.text for c in pair.completions] == [c.text for c in known[pair.prompt.id].completions]

    mine = tmp_path / "mine.jsonl"
    scores = [(0.0, 1.0), (1.0, 0.0)]
    labels = [tuple(replace(f, score=s) for f, s in zip(p.feedback, two)) for p, two in zip(people, scores)]
    store.write(mine, [*(replace(p, feedback=f) for p, f in zip(people, labels)), *people[2:]])
    read = load(DataSpec(path=str(mine), heldout=0), "pairs").train
    assert [g.completions[0] for g in read] == [people[0].completions[1], people[1].completions[0]]
    assert {who for who, _ in labels_of_people(read)} == {"people"}


@pytest.mark.parametrize("named", [True, False])
def test_whoever_raises_the_limit_of_cost_goes_on_from_what_was_paid(kilter, tmp_path, named):
    answers(tmp_path / "answers.jsonl", n=12, k=2)
    world = {"name": "world", "options": {"critic": "helpful"}}

    def label(limit):
        judge = {"sampler": world, "price": {"prompt": 1000.0}, "max_cost": limit, "canary": False}
        (tmp_path / "judge.yaml").write_text(yaml.safe_dump(judge))
        spec = json.dumps({"judge": "judge.yaml" if named else judge})
        few = ("--batch-size", "2", "--out", "labels")
        return kilter("label", "--data", "answers.jsonl", "--feedback", spec, *few)

    code, shown = label(4.0)
    assert (code, "above max_cost" in shown) == (4, True), shown
    kept = (tmp_path / "labels/scored.jsonl").read_text()
    assert 0 < len(kept.splitlines()) < 12
    code, shown = label(400.0)
    assert code == 0 and f"{len(kept.splitlines())} of 12 prompts are scored already" in shown, shown
    assert (tmp_path / "labels/scored.jsonl").read_text().startswith(kept)


def test_what_was_paid_for_is_kept_where_a_recipe_changes_another_setting(kilter, tmp_path):
    answers(tmp_path / "answers.jsonl", n=6, k=2)
    stage = {"label": {"data": "$data", "feedback": JUDGE}}
    for more, calls in (({}, False), ({"write": "ratings"}, True)):
        stage["label"] |= more
        data = {"path": "answers.jsonl", "format": "groups", "heldout": 0}
        raw = {"name": "paid", "model": "builtin:smollm2-135m", "data": data, "stages": {"labels": stage}}
        (tmp_path / "paid.yaml").write_text(yaml.safe_dump(raw))
        code, shown = kilter("run", "paid.yaml")
        assert code == 0 and ("prompts 0 calls" in shown) is calls, shown


def ways(tmp_path):
    """recipes/rlaif-ways.yaml over answers that were given before, a step or two of each method."""
    raw = yaml.safe_load((ROOT / "recipes" / "rlaif-ways.yaml").read_text())
    answers(tmp_path / "answers.jsonl")
    raw["data"]["desk"]["world"]["n"] = raw["data"]["mixed"]["parts"][0]["world"]["n"] = 24
    raw["data"]["answers"] = {"path": "answers.jsonl", "format": "groups", "heldout": 0}
    # A model that decides nothing yet has no two answers that the judge tells apart: nothing to learn online.
    for name in ("sft", "answers", "eval", "online"):
        del raw["stages"][name]
    for body in raw["stages"].values():
        if (train := body.get("train")) is not None:
            train.pop("from")
            train |= {
                "max_steps": 1,
                "batch_size": 4,
                "max_length": 1500,
                "dtype": "float32",
            }
    raw["data"]["half"] = {"path": "$pairs", "heldout": 0.5}
    raw["stages"]["half"] = {"train": raw["stages"]["dpo"]["train"] | {"data": "$half"}}
    (tmp_path / "ways.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))


def test_every_way_of_using_a_judge_trains(kilter, tmp_path):
    ways(tmp_path)
    code, shown = kilter("run", "ways.yaml")
    assert code == 0, shown
    run = tmp_path / "runs" / "ways"
    soft = [g.feedback[0].over(1) for g in store.read(run / "pairs" / "groups.jsonl")]
    assert any(0.5 < p < 0.95 for p in soft)
    sizes = {
        s: json.loads((run / s / "manifest.json").read_text())["facts"]["groups"]
        for s in ("dpo", "listwise", "plackett_luce", "with_people")
    }
    # Of people's pairs, every second row is seen in a pass.
    assert sizes["with_people"] < sizes["dpo"] + 24
    assert sizes["with_people"] > sizes["dpo"]
    assert sizes["listwise"] > 0 < sizes["plackett_luce"]
    assert "agreement" in (run / "report.html").read_text()
    # Whoever holds a row out has not learned from it, nor has who ended before it: here after a step of 4 rows.
    traced = ["\n".join(lines(traced_row(run, str(n), "pairs"))) for n in range(len(soft))]
    for text in traced:
        said = ("dpo: learned from it, first at step 1;" in text, "dpo: not reached in its 1 step;" in text)
        assert sum(said) == 1
    assert sum("dpo: learned from it" in text for text in traced) == 4 < len(soft)
    held = ["half: read its file, and held it out" in text for text in traced]
    reached = ["half: learned from it" in text for text in traced]
    assert 0 < sum(held) < len(soft) and sum(reached) == 4
    assert not any(map(min, held, reached))
