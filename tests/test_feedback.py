"""Verifiers, shaping and process rewards: each verdict by hand, and failures that leave an answer unscored."""

import pytest

from kilter import feedback
from kilter.errors import UserError
from kilter.types import Completion, Feedback, Group, Prompt


def score(spec, text, **metadata):
    prompt = Prompt(messages=({"role": "user", "content": "?"},), metadata=metadata)
    return feedback.build(spec, feedback.Context())([Group(prompt, (Completion(text),), (Feedback(None),))])[0][0]


@pytest.mark.parametrize(
    ("spec", "text", "metadata", "want"),
    [
        ({"math": {}}, "So the answer is 1/2.", {"answer": "0.5"}, 1.0),
        ({"math": {}}, "It is $\\frac{3}{4}$", {"answer": "0.75"}, 1.0),
        ({"math": {}}, "It is 7", {"answer": "8"}, 0.0),
        ({"math": {"mark": "####"}}, "3 + 4\n#### 7", {"answer": "work #### 7"}, 1.0),
        ({"math": {"mark": "####"}}, "7", {"answer": "7"}, 0.0),
        ({"exact": {}}, " New  York ", {"answer": "new york"}, 1.0),
        ({"exact": {"mark": "A:"}}, "hm A: yes", {"answer": "yes"}, 1.0),
        ({"regex": "^ab+$"}, "abbb", {}, 1.0),
        ({"regex": {"pattern": "b", "full": True}}, "ab", {}, 0.0),
        ({"json_schema": {"schema": {"type": "object", "required": ["a"]}}}, '```json\n{"a": 1}\n```', {}, 1.0),
        ({"json_schema": {"schema": {"type": "object", "required": ["a"]}}}, "{}", {}, 0.5),
        ({"json_schema": {"schema": {}}}, "no", {}, 0.0),
        ({"format": {}}, "<think>a</think> <answer>b</answer>", {}, 1.0),
        ({"format": {}}, "<think>a</think><think>b</think><answer>c</answer>", {}, 0.0),
        ({"instructions": {"checks": {"max_words": 3, "no_commas": True}}}, "one two, three", {}, 0.5),
        ({"instructions": {"strict": True}}, "yes", {"instructions": {"lowercase": True, "min_words": 2}}, 0.0),
        ({"length": {"limit": 10, "buffer": 4}}, "a b c d e f g h", {}, -0.5),
        ({"repetition": {"n": 1}}, "a a a b", {}, -0.5),
    ],
)
def test_verdicts_by_hand(spec, text, metadata, want):
    assert score(spec, text, **metadata).score == pytest.approx(want)


@pytest.mark.parametrize(
    ("spec", "metadata", "why"),
    [("math", {}, "no 'answer'"), ("instructions", {}, "no 'instructions'"), ("instructions", {"instructions": {"max_words": "many"}}, "TypeError")],
)
def test_what_cannot_be_judged_is_unscored(spec, metadata, why):
    found = score(spec, "text", **metadata)
    assert found.score is None
    assert why in found.rationale


def test_a_verdict_that_takes_too_long_is_unscored(monkeypatch):
    import time

    from kilter.feedback import verifiers

    monkeypatch.setattr(verifiers, "TIMEOUT", 0.05)
    monkeypatch.setattr(verifiers.MathAnswer, "equal", lambda self, gold, text: time.sleep(1))
    assert "longer than" in score("math", "1", answer="1").rationale


def test_a_sum_is_unscored_when_a_part_is_and_keeps_the_others():
    found = score([{"regex": "a"}, {"math": {}, "weight": 2.0}], "a")
    assert found.score is None
    assert found.parts == {"regex": 1.0}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"instructions": {"checks": {"max_word": 3}}}, "max_words"),
        ({"json_schema": {"schema": {"type": "nonsense"}}}, "JSON schema"),
        ({"process_reward": "x"}, "needs the policy"),
    ],
)
def test_wrong_options_are_named(spec, message):
    with pytest.raises(UserError, match=message):
        score(spec, "a")


def test_process_rewards_stand_on_the_last_token_of_each_step(tiny, tmp_path, encoder, scorer):
    import torch
    from transformers import AutoModelForTokenClassification

    from kilter.models.load import quiet_transformers

    folder = tmp_path / "prm"
    with quiet_transformers():
        model = AutoModelForTokenClassification.from_pretrained(str(tiny), num_labels=2)
        model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    source = feedback.build({"process_reward": str(folder)}, feedback.Context(policy=(scorer, encoder)))
    prompt = Prompt(messages=({"role": "user", "content": "?"},))
    found = source([Group(prompt, (Completion("ab\ncd"),), (Feedback(None),))])[0][0]
    ids, _ = encoder.completion(prompt, Completion("ab\ncd"))
    with torch.no_grad():
        right = model.eval()(torch.tensor([[*encoder.prompt(prompt), *ids]])).logits[0, -len(ids) :].softmax(-1)[:, 1]
    assert [i for i, s in enumerate(found.steps) if s] == [2, len(ids) - 1]
    assert found.steps[2] == pytest.approx(float(right[2]), abs=1e-5)
    assert found.score == pytest.approx(min(float(right[2]), float(right[-1])), abs=1e-5)
