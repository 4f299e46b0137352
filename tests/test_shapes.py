"""Data transforms: which pairs, demonstrations, thumbs and rankings come of the same rated answers."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from kilter.data.arrange import joint, with_mismatched
from kilter.data.dataset import DataSpec, load
from kilter.data.shapes import PairRule, to_shape
from kilter.errors import UserError
from kilter.types import Completion, Feedback, Group, Prompt


def rated(*scores, name="p") -> Group:
    prompt = Prompt(messages=({"role": "user", "content": f"Ask {name}"},))
    return Group(
        prompt,
        tuple(Completion(f"{name} answer {i}") for i in range(len(scores))),
        tuple(Feedback(s, "rating") for s in scores),
    )


def texts(groups):
    return [tuple(int(c.text[-1]) for c in g.completions) for g in groups]


@pytest.mark.parametrize(
    ("rule", "margin", "want", "left"),
    [
        ("best_worst", 0, [(1, 3)], {}),
        ("all", 0, [(1, 0), (1, 2), (1, 3), (0, 3), (2, 3)], {"tie": 1}),
        ("adjacent", 0, [(1, 0), (2, 3)], {"tie": 1}),
        ("all", 2.5, [(1, 3)], {"tie": 1, "margin below 2.5": 4}),
    ],
)
def test_pairs_from_ratings(rule, margin, want, left):
    skipped = Counter()
    found = to_shape(
        [rated(3.0, 4.0, 3.0, 1.0, None)], "pairs", skipped, PairRule(rule=rule, min_margin=margin)
    )
    assert texts(found) == want
    assert dict(skipped) == left


def test_rankings_drop_ties_and_count_them():
    skipped = Counter()
    found = to_shape([rated(1.0, 3.0, 3.0, 2.0), rated(2.0, 2.0)], "ranked", skipped)
    assert texts(found) == [(1, 3, 0)]
    assert dict(skipped) == {"tied completion": 2, "fewer than two ranks": 1}


def test_pairs_become_thumbs_and_thumbs_become_demonstrations():
    skipped = Counter()
    thumbs = to_shape([rated(1.0, 0.0)], "unpaired", skipped)
    assert [(g.completions[0].text[-1], g.feedback[0].score) for g in thumbs] == [("0", 1.0), ("1", 0.0)]
    assert texts(to_shape(thumbs, "demonstrations", skipped)) == [(0,)]
    assert skipped == {"rejected by its label": 1}


def test_conditional_sft_writes_the_level_and_asks_for_the_best(tmp_path):
    path = tmp_path / "ratings.jsonl"
    rows = [
        {"prompt": f"Q{i}", "completions": [{"response": f"r{j}", "rating": j} for j in range(4)]}
        for i in range(5)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    spec = DataSpec.model_validate(
        {"path": str(path), "heldout": 0.2, "condition": {"levels": 2, "text": "level {level}/{levels}"}}
    )
    train = load(spec, "demonstrations").train
    assert len(train) == 16
    levels = {g.completions[0].text: g.prompt.messages[0]["content"] for g in train}
    assert levels == {"r0": "level 1/2", "r1": "level 1/2", "r2": "level 2/2", "r3": "level 2/2"}
    skewed = (
        tmp_path / "skewed.jsonl"
    )  # most answers are bad: they share the lowest level, and do not push up into the best one
    skewed.write_text(
        "".join(
            json.dumps(
                {
                    "prompt": f"Q{i}",
                    "completions": [{"response": f"r{j}", "rating": int(j == 0)} for j in range(4)],
                }
            )
            + "\n"
            for i in range(5)
        )
    )
    found = load(spec.model_copy(update={"path": str(skewed), "heldout": 0.0}), "demonstrations").train
    assert {(g.completions[0].text == "r0", g.prompt.messages[0]["content"]) for g in found} == {
        (True, "level 2/2"),
        (False, "level 1/2"),
    }
    asked = load(spec, "prompts")
    assert {g.prompt.messages[0]["content"] for g in (*asked.train, *asked.heldout)} == {"level 2/2"}


def test_negatives_from_a_sampled_policy(tiny, tmp_path, monkeypatch):
    """Demonstrations become pairs: the data's answer against the model's own."""
    import sys

    from kilter.cli import main

    demos = tmp_path / "demos.jsonl"
    demos.write_text(
        "".join(json.dumps({"prompt": f"Q{i}", "completion": f"the answer {i}"}) + "\n" for i in range(4))
    )
    out = tmp_path / "pairs.jsonl"
    argv = [
        "kilter",
        "sample",
        str(tiny),
        "--data",
        str(demos),
        "--negatives",
        "--out",
        str(out),
        "-k",
        "2",
        "--max-new-tokens",
        "8",
        "--temperature",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    pairs = load(DataSpec(path=str(out), heldout=0), "pairs").train
    assert [g.completions[0].text for g in pairs] == [f"the answer {i}" for i in range(4)]
    assert all(g.completions[1].text != g.completions[0].text for g in pairs)


def test_mismatched_answers_come_from_another_prompt(encoder):
    groups = [encoder.encode(g) for g in (rated(1.0, name="a"), rated(0.0, name="a"), rated(1.0, name="b"))]
    both = with_mismatched(groups, 512)
    assert [g.completion_ids[1] for g in both] == [
        groups[2].completion_ids[0],
        groups[2].completion_ids[0],
        groups[0].completion_ids[0],
    ]
    assert all(g.group.feedback[1].score is None for g in both)
    with pytest.raises(UserError, match="single prompt"):
        with_mismatched(groups[:2], 512)


def test_both_orders_of_a_pair(encoder):
    (both,) = joint([encoder.encode(rated(1.0, 0.0))], 512)
    chosen, rejected = encoder.encode(rated(1.0, 0.0)).completion_ids
    assert both.completion_ids == (chosen + rejected, rejected + chosen)
