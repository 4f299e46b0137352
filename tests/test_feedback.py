"""Verifiers, shaping and process rewards: each verdict by hand, and failures that leave an answer unscored."""

import pytest

from kilter import feedback
from kilter.errors import UserError
from kilter.feedback.function import FunctionFeedback
from kilter.seams import FeedbackSource
from kilter.types import Completion, Feedback, Group, Prompt


def score(spec, text, **metadata):
    prompt = Prompt(messages=({"role": "user", "content": "?"},), metadata=metadata)
    return feedback.build(spec, feedback.Context())([Group(prompt, (Completion(text),), (Feedback(None),))])[
        0
    ][0]


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
        (
            {"json_schema": {"schema": {"type": "object", "required": ["a"]}}},
            '```json\n{"a": 1}\n```',
            {},
            1.0,
        ),
        ({"json_schema": {"schema": {"type": "object", "required": ["a"]}}}, "{}", {}, 0.5),
        ({"json_schema": {"schema": {}}}, "no", {}, 0.0),
        ({"json_schema": {"schema": {}}}, "[" * 100_000, {}, 0.0),
        ({"instructions": {"checks": {"json": True}}}, "[" * 100_000, {}, 0.0),
        ({"format": {}}, "<think>a</think> <answer>b</answer>", {}, 1.0),
        ({"format": {}}, "<think>a</think><think>b</think><answer>c</answer>", {}, 0.0),
        ({"instructions": {"checks": {"max_words": 3, "no_commas": True}}}, "one two, three", {}, 0.5),
        (
            {"instructions": {"strict": True}},
            "yes",
            {"instructions": {"lowercase": True, "min_words": 2}},
            0.0,
        ),
        ({"length": {"limit": 10, "buffer": 4}}, "a b c d e f g h", {}, -0.5),
        ({"repetition": {"n": 1}}, "a a a b", {}, -0.5),
    ],
)
def test_verdicts_by_hand(spec, text, metadata, want):
    assert score(spec, text, **metadata).score == pytest.approx(want)


@pytest.mark.parametrize(
    ("spec", "metadata", "why"),
    [
        ("math", {}, "no 'answer'"),
        ("instructions", {}, "no 'instructions'"),
        ("instructions", {"instructions": {"max_words": "many"}}, "wrong kind"),
    ],
)
def test_what_cannot_be_judged_is_unscored(spec, metadata, why):
    found = score(spec, "text", **metadata)
    assert found.score is None
    assert why in found.rationale


def test_a_verdict_that_takes_too_long_is_unscored(monkeypatch):
    """Both hold the interpreter's lock, so that no thread could end them."""
    from kilter.feedback import verifiers

    assert score("math", "1", answer="1").score == 1.0
    monkeypatch.setattr(verifiers, "TIMEOUT", 2.0)
    assert "longer than 2 s" in score("math", "$9^{9^{9^9}}$", answer="1").rationale
    assert "longer than 2 s" in score({"regex": "(a+)+$"}, "a" * 40 + "b").rationale
    assert score("math", "1", answer="1").score == 1.0  # a new worker


HANGING = """
import re, sys, time, os
def spins(prompt, completion): re.match(r"(a+)+$", "a" * 40 + "b"); return 1.0
async def blocks(prompt, completion): time.sleep(60); return 1.0
def leaves(prompt, completion): sys.exit(7)
def dies(prompt, completion): os._exit(3)
async def leaves_later(prompt, completion): sys.exit(7)
def talks(prompt, completion): print("to standard output"); return 2.0
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("spins", "longer than"),
        ("blocks", "longer than"),
        ("leaves", "SystemExit"),
        ("dies", "exit code 3"),
        ("leaves_later", "SystemExit"),
        ("talks", ""),
    ],
)
def test_functions_that_will_not_end_end(tmp_path, name, why):
    path = tmp_path / "mine.py"
    path.write_text(HANGING)
    found = score({f"{path}:{name}": {"timeout": 0.3}}, "x")
    assert why in found.rationale
    assert (found.score == 2.0) == (name == "talks")


@pytest.mark.parametrize(
    "spec",
    [
        {"regex": 5},
        {"length": {"limit": "a"}},
        {"repetition": {"n": 2.5}},
        {"format": {"tags": "think"}},
        {"json_schema": "x"},
        {"math": {}, "weight": float("nan")},
    ],
    ids=str,
)
def test_options_of_the_wrong_type_are_refused(spec):
    from kilter.feedback import check

    with pytest.raises(ValueError, match="Fix:"):
        check(spec)


def test_two_sources_of_one_name_are_two_parts():
    from kilter.feedback.registry import Weighted

    class Fixed(FeedbackSource):
        def __init__(self, value):
            self.value = value

        def __call__(self, groups):
            return [[Feedback(self.value)] * len(g.completions) for g in groups]

        def state(self):
            return {"value": self.value}

        def restore(self, state):
            self.value = state["value"]

    both = Weighted([("rm", 1.0, Fixed(1.0)), ("rm", 1.0, Fixed(2.0))])
    assert both([Group(Prompt(text="q"), (Completion("a"),), (Feedback(None),))])[0][0].parts == {
        "rm": 1.0,
        "rm#2": 2.0,
    }
    other = Weighted([("rm", 1.0, Fixed(0.0)), ("rm", 1.0, Fixed(0.0))])
    other.restore(both.state())
    assert [s.value for _, _, s in other.parts] == [1.0, 2.0]


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

    from kilter.models.folder import quiet_transformers

    folder = tmp_path / "prm"
    with quiet_transformers():
        model = AutoModelForTokenClassification.from_pretrained(str(tiny), num_labels=2)
        model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    source = feedback.build({"process_reward": str(folder)}, feedback.Context(policy=(scorer, encoder)))
    prompt = Prompt(messages=({"role": "user", "content": "?"},))
    group = Group(prompt, (Completion("ab\ncd"),), (Feedback(None),))
    found = source([group])[0][0]
    (ids,) = encoder.tokens(group).completion_ids
    with torch.no_grad():
        right = (
            model.eval()(torch.tensor([[*encoder.prompt(prompt), *ids]]))
            .logits[0, -len(ids) :]
            .softmax(-1)[:, 1]
        )
    assert [i for i, s in enumerate(found.steps) if s] == [2, len(ids) - 1]
    assert found.steps[2] == pytest.approx(float(right[2]), abs=1e-5)
    assert found.score == pytest.approx(min(float(right[2]), float(right[-1])), abs=1e-5)


class FixedScores:
    """Stands in for a reward model: the score of a completion is a number in its text, times a factor."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, groups):
        return [[Feedback(self.factor * float(c.text)) for c in g.completions] for g in groups]


def reward_feedback(factors, known=(), gather=lambda value: [value], **options):
    from unittest import mock

    from kilter.feedback import classifier, reward_model
    from kilter.feedback.context import Context

    with mock.patch.object(
        classifier, "RewardModel", lambda folder, *a, **k: FixedScores(float(str(folder)))
    ):
        return reward_model.RewardFeedback(
            [str(f) for f in factors], Context(known=known, gather=gather), **options
        )


def scores_of(source, *texts):
    return [
        f.score
        for f in source(
            [Group(Prompt(text="q"), tuple(map(Completion, texts)), (Feedback(None),) * len(texts))]
        )[0]
    ]


def answers_of_data(*texts):
    return [Group(Prompt(text="q"), (Completion(text),), (Feedback(None),)) for text in texts]


def test_rewards_are_normalised_on_the_answers_of_the_data():
    source = reward_feedback([3.0], known=answers_of_data(*"1313131313"), clip=None)
    assert scores_of(source, "1", "3", "8") == [
        -1.0,
        1.0,
        6.0,
    ]  # mean 6, deviation 3 in the data, whatever the policy answers
    many = reward_feedback([1.0], known=answers_of_data(*["0", "2"] * 32, *["900"] * 50))
    assert scores_of(many, "2") == [1.0]  # no more than 64 answers are read
    few = reward_feedback([1.0], known=answers_of_data("7", "9"))
    assert scores_of(few, "1", "3") == [-1.0, 1.0]  # two answers tell no deviation


def test_ranks_without_answers_in_the_data_share_one_scale():
    source = reward_feedback([1.0], gather=lambda raw: [raw, [[[5.0, 7.0]]]])
    assert scores_of(source, "1", "3") == pytest.approx(
        [-3 / 5**0.5, -1 / 5**0.5]
    )  # of 1, 3 here and 5, 7 on the other rank


def test_rewards_are_normalised_on_the_first_answers_and_clipped():
    source = reward_feedback([3.0])
    assert scores_of(source, "1", "3") == [-1.0, 1.0]  # mean 6, deviation 3
    assert scores_of(source, "2") == [0.0]  # the scale stays what it was
    assert scores_of(source, "1000") == [5.0]
    other = reward_feedback([3.0])
    other.restore(source.state())
    assert scores_of(other, "3") == [1.0]
    assert scores_of(reward_feedback([3.0], normalize=False, clip=None), "1000") == [3000.0]


def test_an_ensemble_is_averaged_or_taken_at_its_worst_and_reports_disagreement():
    both = reward_feedback([1.0, -1.0], normalize=False, clip=None)
    assert scores_of(both, "2") == [0.0]
    assert both.disagreement == 2.0
    assert scores_of(reward_feedback([1.0, -1.0], normalize=False, clip=None, combine="min"), "2") == [-2.0]
    assert reward_feedback([1.0]).disagreement is None


@pytest.mark.parametrize(
    ("spec", "text", "answer", "want"),
    [
        ("math", "Paris", "Paris", None),  # a reference that is no mathematics judges nobody
        ("math", "anything", "", None),
        ("math", "The answer is 3. " + "As one can see from what was said above. " * 15, "3", 1.0),
        ({"format": {}}, "<think><answer>fake</answer></think><answer>b</answer>", None, 0.0),
        ({"format": {}}, "<think>a</think> <answer>b</answer>", None, 1.0),
        ({"instructions": {"checks": {"forbidden_words": ["C++"]}}}, "I like C++ a lot", None, 0.0),
        ({"json_schema": {"schema": {}}}, "NaN", None, 0.0),
        ({"json_schema": {"schema": {}}}, '```JSON\n{"a": 1}\n```', None, 1.0),
    ],
    ids=str,
)
def test_verifiers_on_odd_inputs(spec, text, answer, want):
    prompt = Prompt(text="q", metadata={} if answer is None else {"answer": answer})
    found = feedback.build(spec, feedback.Context())([Group(prompt, (Completion(text),), (Feedback(None),))])[
        0
    ][0]
    assert found.score == want, found.rationale


@pytest.mark.parametrize(
    "checks", [{"keywords": "hello"}, {"min_words": "5"}, {"min_words": True}, {"no_commas": 1}], ids=str
)
def test_instructions_of_the_wrong_kind_are_named(checks):
    with pytest.raises(UserError, match="wrong kind"):
        feedback.build({"instructions": {"checks": checks}}, feedback.Context())


ODD = """
class Number:
    def __float__(self):
        return 0.5

def wrapped(prompt, completion):
    return Number()

def huge(prompt, completion):
    return 10 ** 400

def large(prompt, completion):
    return 1e39

def text(prompt, completion):
    return "good"

def nothing(prompt, completion):
    return None

def array(prompts, completions, **columns):
    import numpy
    return numpy.array([1.0, float("nan")])

def short(prompts, completions, **columns):
    return [1.0]

async def later(prompt, completion):
    return Number()

def slow(prompt, completion):
    import time
    time.sleep(60)
"""


def test_a_function_that_hangs_is_left_alone_for_the_rest_of_the_batch(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text(ODD)
    source = feedback.build({f"{path}:slow": {"timeout": 0.2}}, feedback.Context(None))
    (found,) = source([Group(Prompt(text="x"), (Completion("a"),) * 6, (Feedback(None),) * 6)])
    assert ["took longer" in f.rationale and "not called" not in f.rationale for f in found] == [True] * 3 + [
        False
    ] * 3
    assert all(f.score is None for f in found)
    assert "not called" in found[-1].rationale


@pytest.mark.parametrize(
    ("name", "scores", "why"),
    [
        ("wrapped", [0.5, 0.5], ""),
        ("later", [0.5, 0.5], ""),
        ("array", [1.0, None], "returned nan"),
        ("huge", [None, None], "no number to compute with"),
        ("large", [None, None], "too large"),
        ("text", [None, None], "'good'"),
        ("nothing", [None, None], "returned None"),
        ("short", [None, None], "1 scores for 2"),
    ],
)
@pytest.mark.parametrize("isolated", [True, False])
def test_whatever_a_function_returns_is_a_score_or_a_reason(tmp_path, name, scores, why, isolated):
    path = tmp_path / "odd.py"
    path.write_text(ODD)
    if isolated:
        source = feedback.build(f"{path}:{name}", feedback.Context(None))
    else:
        space = {"__name__": "__main__"}
        exec(ODD, space)
        source = FunctionFeedback(space[name], name)
    group = Group(Prompt(text="x"), (Completion("a"), Completion("b")), (Feedback(None),) * 2)
    (found,) = source([group])
    assert [f.score for f in found] == scores
    assert why in found[-1].rationale


def test_a_source_without_options_is_named_and_built(tmp_path):
    """Its class has no __init__ of its own, and the one of the protocol takes anything."""
    (tmp_path / "mine.py").write_text(
        "from kilter.seams import FeedbackSource\n"
        "from kilter.types import Feedback\n"
        "class One(FeedbackSource):\n"
        "    def __call__(self, groups):\n"
        "        return [[Feedback(1.0) for _ in g.completions] for g in groups]\n"
    )
    for name in ("support_desk", f"{tmp_path / 'mine.py'}:One"):
        feedback.check(name)
        assert feedback.build({name: None}, feedback.Context()).parts
        with pytest.raises(UserError, match="the source takes no options"):
            feedback.check({name: {"limit": 3}})
        with pytest.raises(UserError, match="takes no options"):
            feedback.check({name: 3})
