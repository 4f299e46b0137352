"""Training, sampling and evaluation where weights are on a GPU and data is not: no tensor meets one on the other device."""

from __future__ import annotations

import functools
import json
import math

import pytest
import torch

import kilter
from conftest import pair_rows
from pretend_gpu import GPU, pretended

REWARDS = """
def letters(prompt, completion):
    return sum("a" <= c <= "m" for c in completion.text.lower()) / max(1, len(completion.text))
"""


@pytest.fixture
def gpu(monkeypatch):
    with pretended(monkeypatch):
        yield


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in pair_rows(16)))
    return str(path)


def test_a_tensor_on_the_wrong_device_fails(gpu):
    here, there = torch.ones(2), torch.ones(2, device="cuda")
    assert (there.device, there.cpu().device.type) == (GPU, "cpu")
    with pytest.raises(RuntimeError, match="on cuda:0, and on the CPU"):
        here + there
    assert torch.equal((here.to(there.device) + there).cpu(), torch.full((2,), 2.0))


def rewards(folder) -> str:
    (folder / "rewards.py").write_text(REWARDS)
    return f"{folder / 'rewards.py'}:letters"


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sft", {"early_stopping": {"metric": "loss"}, "eval_every": 1}),
        ("dpo", {}),
        ("dpo", {"adapter": "lora", "gradient_checkpointing": True}),
        ("orpo", {}),
        ("aot", {"tokens_per_microbatch": 64}),
        ("kto", {}),
        ("bradley_terry", {}),
    ],
)
def test_offline_methods_train_and_go_on(method, options, tiny, pairs, tmp_path, gpu):
    run = functools.partial(
        kilter.train, tiny, pairs, method, tmp_path / "run", batch_size=4, save_every=1, **options
    )
    found = run(max_steps=2)
    assert math.isfinite(found.metrics["loss"])
    # The folder's checkpoint is read again, and its end is found.
    assert run(max_steps=2).steps == 2


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("grpo", {}),
        ({"name": "grpo", "beta": 0.1}, {}),
        ("rloo", {}),
        ({"name": "ppo", "beta": 0.1}, {"critic": {"learning_rate": 1e-3}}),
        ("online_dpo", {}),
        ("distill", {"teacher": "TINY"}),
    ],
)
def test_online_methods_train(method, options, tiny, pairs, tmp_path, gpu):
    options = {k: tiny if v == "TINY" else v for k, v in options.items()}
    if "teacher" not in options:
        options |= {"feedback": rewards(tmp_path)}
    found = kilter.train(
        tiny,
        pairs,
        method,
        tmp_path / "run",
        prompts="$data",
        sampler={"samples": 2, "max_new_tokens": 6},
        batch_size=4,
        max_steps=2,
        monitors={"allow_truncation": True},
        **options,
    )
    assert found.steps == 2
    assert math.isfinite(found.metrics["loss"])


def test_a_reward_model_scores_and_two_models_are_compared(tiny, pairs, tmp_path, gpu):
    kilter.train(tiny, pairs, "bradley_terry", tmp_path / "rm", batch_size=4, max_steps=2)
    found = kilter.evaluate(
        {"a": tiny, "b": tiny},
        pairs,
        tmp_path / "eval",
        baseline="a",
        reward_model=tmp_path / "rm",
        max_new_tokens=6,
    )
    assert found["models"].keys() == {"a", "b"}
