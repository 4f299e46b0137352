"""A reward function written for TRL gets what TRL gives it; verifiers find the user's columns."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from kilter import feedback
from kilter.data.dataset import DataSpec, load
from kilter.errors import UserError
from kilter.feedback.function import Call, FunctionFeedback
from kilter.types import Completion, Feedback, Group, Prompt

TEXTS = [
    {"prompt": f"What is {i} + 1?", "solution": str(i + 1), "answer": i + 1, "id": i, "chosen": "x"}
    for i in range(3)
]
CHATS = [
    row | {"prompt": [{"role": "system", "content": "Add."}, {"role": "user", "content": row["prompt"]}]}
    for row in TEXTS
]


def prompts_of(tmp_path, rows, **settings):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [g.prompt for g in load(DataSpec(path=str(path), heldout=0, **settings), "prompts").train]


def answered(prompts, texts):
    return [
        Group(p, tuple(Completion(t, token_ids=(1, 2)) for t in texts), (Feedback(None),) * len(texts))
        for p in prompts
    ]


def by_trl(rows, texts):
    """What TRL's GRPO trainer calls a reward function with."""
    pytest.importorskip("trl")
    from trl.data_utils import is_conversational
    from trl.trainer.grpo_trainer import GRPOTrainer

    seen = {}

    def reward(**given):
        seen.update(given)
        return [0.0] * len(given["prompts"])

    inputs = [row for row in rows for _ in texts]
    prompts = [row["prompt"] for row in inputs]
    said = [t for _ in rows for t in texts]
    if is_conversational({"prompt": prompts[0]}):
        said = [[{"role": "assistant", "content": t}] for t in said]
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, is_main_process=True),
        reward_funcs=[reward],
        reward_processing_classes=[None],
        reward_func_names=["reward"],
        environments=None,
        state=SimpleNamespace(global_step=0),
        args=SimpleNamespace(report_to=[]),
        _log_completion_extra=None,
        _log_metric=None,
    )
    calculate = GRPOTrainer._calculate_rewards
    getattr(calculate, "__wrapped__", calculate)(trainer, inputs, prompts, said, [[1, 2] for _ in said])
    return {k: v for k, v in seen.items() if k not in ("trainer_state", "log_extra", "log_metric")}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
USER, BOT = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
OTHERS = [
    {"prompt": "Q", "answer": "It is\n#### 5", "question": "Q"},
    {"prompt": "Q", "answer": 5.0, "question": "How many?"},
    {"prompt": "Q", "system": "Be brief.", "answer": "x"},
    {"prompt": [USER], "tools": [TOOL], "chat_template_kwargs": {"a": 1}, "answer": "x"},
    {"prompt": [{"role": "system", "content": "Think."}, USER], "messages": [USER, BOT], "solution": "x"},
    {"prompt": "Another", "messages": [USER, BOT], "solution": "x"},
    {"prompt": "Q", "goal": "win", "target": "x"},
    {
        "prompt": "Q",
        "question": "P",
        "correct_answers": ["a"],
        "incorrect_answers": ["b"],
        "best_answer": "a",
    },
    {"prompt": "Q", "turns": ["a"], "question_id": 1, "category": "x"},
    {"prompt": "Q", "history": [["a", "b"]], "context": "c", "input": "i"},
    {"prompt": "Q", "completion": "c", "label": True},
    {"prompt": "Q", "responses": ["a", "b"], "scores": [1, 2]},
    {"prompt": [USER], "chosen": [BOT], "rejected": [BOT | {"content": "B"}], "margin": 0.5},
]
"""Columns that mean something to Kilter, and nothing but themselves to a reward function."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rows", [TEXTS, CHATS, *([row] for row in OTHERS)])
def test_a_reward_function_gets_what_trl_gives_it(tmp_path, rows, monkeypatch):
    texts = ["one", "two"]
    call = Call.of(
        [(g.prompt, c) for g in answered(prompts_of(tmp_path, rows), texts) for c in g.completions]
    )
    mine = call.arguments(lambda **columns: None)
    monkeypatch.setattr("trl.trainer.grpo_trainer.gather", lambda x: x)
    assert mine == by_trl(rows, texts)


@pytest.mark.parametrize("answer", ["Two and three make five.\n#### 5", 5])
def test_an_answer_reaches_a_function_as_it_is_written_and_a_verifier_as_the_number(tmp_path, answer):
    """As GSM8K's. A question that is text gives texts."""
    groups = answered(prompts_of(tmp_path, [{"question": "2 + 3?", "answer": answer}]), ["It is 5", "6"])
    call = Call.of([(g.prompt, c) for g in groups for c in g.completions])
    assert (call.prompts, call.completions) == (["2 + 3?"] * 2, ["It is 5", "6"])
    assert call.columns["answer"] == [answer] * 2
    assert [f.score for f in feedback.build("math", feedback.Context(known=groups))(groups)[0]] == [1, 0]


REWARDS = """
def by_column(prompts, completions, solution, **columns):
    return [float(s in c) for c, s in zip(completions, solution)]

def bare(completions, answer):
    return [float(str(a) in c) for c, a in zip(completions, answer)]

def chat(completions, **columns):
    return [float(len(c[0]["content"])) for c in completions]

def needs(completions, gold):
    return [0.0] * len(completions)

async def later(prompts, completions, solution, **columns):
    return [float(s) for s in solution]

def one(prompt, completion):
    return float(prompt.columns["solution"] in completion.text)
"""


@pytest.mark.parametrize(
    ("name", "rows", "scores"),
    [
        ("by_column", TEXTS, [1, 0, 0]),
        ("bare", TEXTS, [1, 0, 0]),
        ("one", TEXTS, [1, 0, 0]),
        ("later", TEXTS, [1, 2, 3]),
        ("chat", CHATS, [11, 11, 11]),
    ],
)
def test_columns_travel_from_the_file_to_the_function(tmp_path, name, rows, scores):
    (tmp_path / "reward.py").write_text(REWARDS)
    groups = answered(prompts_of(tmp_path, rows), ["x" * 11 if name == "chat" else "It is 1."])
    source = feedback.build(f"{tmp_path}/reward.py:{name}", feedback.Context(known=groups))
    assert [f.score for (f,) in source(groups)] == scores


def test_a_parameter_that_is_no_column_is_named_before_any_work(tmp_path):
    (tmp_path / "reward.py").write_text(REWARDS)
    groups = answered(prompts_of(tmp_path, TEXTS), ["x"])
    with pytest.raises(UserError, match=r"(?s)gold.*is needed.*answer, chosen, id, solution.*--map gold"):
        feedback.build(f"{tmp_path}/reward.py:needs", feedback.Context(known=groups))


@pytest.mark.parametrize("name", ["trainer_state", "log_extra", "log_metric", "environments"])
def test_an_argument_of_trls_trainers_is_not_asked_of_the_data(tmp_path, name):
    code = f"def reward(prompts, completions, {name}, **columns):\n    return [1.0 for _ in completions]\n"
    (tmp_path / "reward.py").write_text(code)
    groups = answered(prompts_of(tmp_path, TEXTS), ["x"])
    with pytest.raises(UserError, match=f"{name}.*argument of TRL's trainers") as raised:
        feedback.build(f"{tmp_path}/reward.py:reward", feedback.Context(known=groups))
    assert "--map" not in str(raised.value) and "give it a default" in str(raised.value)


def test_a_function_typed_at_a_prompt_gets_the_same(tmp_path):
    space = {"__name__": "__main__"}
    exec(REWARDS, space)
    (found, *_) = FunctionFeedback(space["by_column"], "by_column")(
        answered(prompts_of(tmp_path, TEXTS), ["1", "2"])
    )
    assert [f.score for f in found] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("spec", "columns", "right"),
    [
        ("math", {"answer": "35"}, "The sum is 35."),
        ("math", {"answer": 35.0}, "The sum is 35."),
        ({"math": {"key": "solution"}}, {"solution": r"So it is $\boxed{\frac{1}{2}}$."}, "It is 0.5"),
        ({"math": {"key": "solution"}}, {"solution": "25 + 10 = 35\n#### 35"}, "It is 35"),
        ({"exact": {"key": "capital"}}, {"capital": "Paris"}, "paris"),
        ({"exact": {"key": "year"}}, {"year": 1999.0}, "1999"),
        ("instructions", {"instructions": {"keywords": ["river"]}}, "A river."),
        ("instructions", {"instructions": '{"max_words": 3}'}, "Two words."),
    ],
    ids=str,
)
def test_a_verifier_reads_the_users_column(tmp_path, spec, columns, right):
    groups = answered(
        prompts_of(tmp_path, [{"prompt": "Q?", **columns}]), [right, "Something else, and 7 more."]
    )
    (found,) = feedback.build(spec, feedback.Context())(groups)
    assert [f.score for f in found] == [1.0, 0.0]


@pytest.mark.parametrize("missing", [None, "", "nan", float("nan")])
def test_a_missing_reference_leaves_the_answer_unscored(tmp_path, missing):
    rows = [{"prompt": "Q?", "answer": missing}, {"prompt": "P?", "answer": "1"}]
    found = feedback.build("math", feedback.Context())(answered(prompts_of(tmp_path, rows), ["1"]))
    assert [f.score for (f,) in found] == [None, 1.0]


REACHED = [
    "def reward(prompt, completion): return 1.0",
    "def reward(a, b): return 1.0",
    "def reward(*both): return 1.0",
    "def reward(prompt, completion, limit=3): return 1.0",
    "async def reward(prompt, completion): return 1.0",
    "class Asked:\n    async def __call__(self, prompt, completion): return 1.0\nreward = Asked()",
    "def reward(completions): return [1.0] * len(completions)",
    "def reward(completion_ids, **columns): return [1.0] * len(completion_ids)",
    "def reward(**given): return [1.0] * len(given['completions'])",
    "def reward(prompts, **columns): return [1.0] * len(columns['completions'])",
    "def reward(prompts, completions, prompt=None): return [1.0] * len(prompts)",
]


@pytest.mark.parametrize("code", REACHED)
def test_a_function_of_any_form_that_can_be_called_is_called(code):
    space = {"__name__": "__main__"}
    exec(code, space)
    group = Group(Prompt(text="x"), (Completion("a"), Completion("b")), (Feedback(None),) * 2)
    (found,) = FunctionFeedback(space["reward"], "reward")([group])
    assert [f.score for f in found] == [1.0, 1.0], found[0].rationale


UNREACHED = {
    "def reward(completion): return 1.0": "cannot be called with a prompt and a completion",
    "def reward(): return 1.0": "cannot be called with a prompt and a completion",
    "def reward(prompt, completion, answer): return 1.0": "missing a required argument: 'answer'",
    "def reward(prompt, completion, *, answer): return 1.0": "argument: 'answer'",
    "def reward(completion, prompt): return 1.0": "takes the completion first",
    "def reward(prompts, completions, /): return [1.0]": "takes prompts by its place alone",
    "def reward(prompts, completion): return [1.0]": "takes completion for one answer",
    "def reward(completions):\n    yield 1.0": "yields its scores",
    "def reward(prompt, completion):\n    yield 1.0": "yields its score",
    "async def reward(prompt, completion):\n    yield 1.0": "yields its score",
}


@pytest.mark.parametrize("code", UNREACHED)
def test_a_function_that_no_call_can_reach_is_refused_before_any_work(tmp_path, code):
    path = tmp_path / "odd.py"
    path.write_text(code + "\n")
    with pytest.raises(UserError) as caught:
        feedback.check(f"{path}:reward")
    assert UNREACHED[code] in caught.value.problem
    assert "def reward(prompt, completion)" in caught.value.fix
