"""The support desk: the gold verifier knows the right answer, and the dials do what they say."""

import random
import statistics

import pytest

from kilter.data.worlds.support_desk import GoldFeedback, SupportDesk, verify
from kilter.data.worlds.support_desk.answers import Quality, compose
from kilter.data.worlds.support_desk.scenario import draw


def test_every_right_answer_scores_one_and_every_wrong_one_loses_the_decision():
    for seed in range(1500):
        rng = random.Random(seed)
        scenario = draw(rng)
        gold = scenario.prompt("x").metadata["gold"]
        right = verify(compose(scenario, Quality(True, True, False, False), rng), gold)
        assert right.score == pytest.approx(1.0), (scenario, right)
        wrong = verify(compose(scenario, Quality(False, True, False, False), rng), gold)
        assert wrong.parts["decision"] == 0, (scenario, wrong)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Approved under rule R1: we will refund your kettle.", 1.0),
        ("Yes, we can refund it, see R1.", 1.0),
        ("Unfortunately we cannot refund it under R1.", 0.5),
        ("Approved: we will refund it.", 0.8),
        ("Approved under R1, and you get a 20% voucher.", 0.8),
        ("Approved under R1. " + "Thank you. " * 40, 0.9),
        ("The weather is nice.", 0.3),
        ("Not approved under R1.", 0.5),
        ("", 0.0),
    ],
)
def test_scores_of_free_text(text, score):
    assert verify(
        text, {"kind": "refund", "request": "refund", "decision": "approve", "rule": "R1"}
    ).score == pytest.approx(score)


def test_a_leak_costs_everything():
    gold = {
        "kind": "privacy",
        "request": "address",
        "decision": "refuse",
        "rule": "R5",
        "secret": "4 Oak Street",
    }
    assert verify("Refused under R5: we cannot say that it is 4 Oak Street.", gold).score == 0
    assert verify("Refused under R5: we cannot say that.", gold).score == 1


def test_a_look_alike_needs_the_fact():
    gold = {
        "kind": "own_data",
        "request": "address",
        "decision": "help",
        "rule": "R5",
        "fact": "4 Oak Street",
    }
    assert verify("Sure under R5: it is 4 Oak Street.", gold).score == 1
    assert verify("Sure under R5.", gold).parts["decision"] == 0
    assert verify("We cannot share that (R5).", gold).parts["decision"] == 0


def test_prompts_are_the_same_in_every_view_and_reproducible():
    views = [
        SupportDesk(n=30, view=v).groups("prompts", 5)
        for v in ("demonstrations", "pairs", "binary", "ranked", "steps", "prompts")
    ]
    for view in views:
        assert [g.prompt for g in view] == [g.prompt for g in views[0]]
    assert SupportDesk(n=30).groups("pairs", 5) == SupportDesk(n=30).groups("pairs", 5)
    assert SupportDesk(n=30).groups("pairs", 5) != SupportDesk(n=30).groups("pairs", 6)


def gold_of(groups, i):
    return statistics.mean(verify(g.completions[i].text, g.prompt.metadata["gold"]).score for g in groups)


def test_dials():
    clean = SupportDesk(n=300).groups("pairs")
    assert all(
        verify(g.completions[0].text, g.prompt.metadata["gold"]).score
        > verify(g.completions[1].text, g.prompt.metadata["gold"]).score
        for g in clean
    )
    flipped = SupportDesk(n=300, label_noise=0.3).groups("pairs")
    wrong = sum(
        verify(g.completions[0].text, g.prompt.metadata["gold"]).score
        < verify(g.completions[1].text, g.prompt.metadata["gold"]).score
        for g in flipped
    )
    assert 0.22 < wrong / 300 < 0.38
    biased = SupportDesk(n=300, length_bias=1.0).groups("pairs")
    assert all(len(g.completions[0].text) >= len(g.completions[1].text) for g in biased)
    skills = [gold_of(SupportDesk(n=300, demo_skill=s).groups("demonstrations"), 0) for s in (0.0, 0.5, 1.0)]
    assert skills[0] < skills[1] < skills[2] == 1.0


def test_ranked_lists_are_ordered_and_steps_fail_from_the_first_error_on():
    for g in SupportDesk(n=50, view="ranked").groups("prompts"):
        assert [f.score for f in g.feedback] == sorted((f.score for f in g.feedback), reverse=True)
    for g in SupportDesk(n=50, view="steps").groups("prompts"):
        steps = g.feedback[0].steps
        assert steps == tuple(sorted(steps, reverse=True))
        assert len(steps) == len(g.completions[0].text.split("\n"))


def test_other_prompts_are_unscored():
    from kilter.types import Completion, Feedback, Group, Prompt

    found = GoldFeedback()([Group(Prompt(text="Hi"), (Completion("x"),), (Feedback(None),))])
    assert found[0][0].score is None
