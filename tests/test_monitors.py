"""What watches an online run: evidence that cannot silently be missing, signals that say what is true, a log that can be replayed."""

from __future__ import annotations

import json
import os

import pytest
import safetensors.torch
import torch

import kilter
from kilter.errors import UserError
from kilter.sampling.choose import choose
from kilter.training.monitors.signals import signals
from kilter.types import Completion, Feedback, Group, Prompt, SamplingParams
from test_online import prompts, rewards, run  # noqa: F401


def test_a_gold_source_that_judges_nothing_is_refused(tiny, prompts, rewards, tmp_path):
    with pytest.raises(UserError, match="scores none of them") as stop:
        run(
            tiny,
            prompts,
            tmp_path / "run",
            "grpo",
            f"{rewards}:letters",
            heldout=0.25,
            monitors={"gold": {"math": {}}},
        )
    assert stop.value.field == "monitors.gold"


def test_thin_evidence_is_an_event(tiny, prompts, rewards, tmp_path):
    source = tmp_path / "rewards.py"
    source.write_text(
        source.read_text()
        + "\ndef rare(prompt, completion):\n    return float('nan') if hash(prompt.messages[0]['content']) % 4 else 1.0\n"
    )
    source.write_text(
        source.read_text().replace(
            "hash(prompt.messages[0]['content'])", "ord(prompt.messages[0]['content'][-1])"
        )
    )
    run(
        tiny,
        prompts,
        tmp_path / "run",
        "grpo",
        f"{rewards}:letters",
        heldout=0.5,
        max_steps=4,
        monitors={"gold": f"{source}:rare", "gold_every": 2},
    )
    found = [
        json.loads(line)["monitor"] for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    ]
    assert "gold:unscored" in found


def test_a_preference_model_compares_with_the_first_answers(tiny, pairs_file, prompts, rewards, tmp_path):
    model = kilter.train(
        str(tiny),
        str(pairs_file),
        "pairwise_preference",
        tmp_path / "pm",
        max_steps=3,
        batch_size=4,
        learning_rate=1e-2,
    ).model
    gold = {"gold": {"preference_model": str(model)}, "gold_every": 3}
    run(
        tiny,
        prompts,
        tmp_path / "run",
        "grpo",
        f"{rewards}:letters",
        heldout=0.25,
        max_steps=6,
        monitors=gold,
    )
    entries = [json.loads(line) for line in (tmp_path / "run" / "gold.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries] == [0, 3, 6]
    assert entries[0]["values"]["gold"] == pytest.approx([0.5] * 4)  # each answer against itself
    assert any(abs(v - 0.5) > 1e-4 for v in entries[-1]["values"]["gold"])
    assert entries[0]["answers"] != entries[-1]["answers"]


def test_entropy_is_that_of_the_distribution_over_everything_sampled(tiny, prompts, rewards, tmp_path):
    logits = torch.randn(5, 600, generator=torch.Generator().manual_seed(0)) * 3
    logits[:, 7] = -torch.inf
    for temperature in (1.0, 0.5):
        entropy = choose(logits, torch.rand(5), SamplingParams(temperature=temperature))[2]
        torch.testing.assert_close(
            entropy,
            torch.distributions.Categorical(logits=logits.clamp_min(-1e4) / temperature).entropy(),
            atol=1e-4,
            rtol=1e-4,
        )
    lines = run(
        tiny, prompts, tmp_path / "run", "grpo", {"regex": "."}, max_steps=2
    )  # one score for all: no gradient, and yet an entropy
    assert all(line["entropy"] > 1.0 for line in lines)
    lines = run(tiny, prompts, tmp_path / "dpo", "online_dpo", f"{rewards}:letters", max_steps=2)
    assert all(line["entropy"] > 1.0 for line in lines)


def test_entropy_under_autocast_is_that_of_float32():
    logits = torch.randn(4, 5000, generator=torch.Generator().manual_seed(1)) * 4 + 20
    plain = choose(logits, torch.rand(4), SamplingParams())[2]
    with torch.autocast("cpu", torch.bfloat16):
        assert (choose(logits, torch.rand(4), SamplingParams())[2] - plain).abs().max() < 1e-5


def test_replay_where_a_method_wants_more_than_the_rollouts(tiny, prompts, rewards, tmp_path):
    """Truncated answers with a reference; no greedy answers for remax; a method without a ratio, corrected by importance weights."""
    run(tiny, prompts, tmp_path / "run", "grpo", f"{rewards}:letters", max_steps=3)
    data = {"path": str(tmp_path / "run" / "groups.jsonl"), "heldout": 0}
    kilter.train(
        str(tiny),
        data,
        {"name": "dapo", "beta": 0.05},
        tmp_path / "dapo",
        max_steps=2,
        batch_size=4,
        replay=True,
    )
    with pytest.raises(UserError, match="greedy"):
        kilter.train(str(tiny), data, "remax", tmp_path / "remax", max_steps=1, batch_size=4, replay=True)
    kilter.train(
        str(tiny),
        data,
        {"name": "reinforce", "beta": 0.0},
        tmp_path / "reinforce",
        max_steps=2,
        batch_size=4,
        replay=True,
    )
    lines = [json.loads(line) for line in (tmp_path / "reinforce" / "metrics.jsonl").read_text().splitlines()]
    assert all("sampling/importance_sampling_ratio/mean" in line for line in lines)


def test_scores_that_are_all_one_number_are_not_saturated():
    def group(*scores):
        return Group(
            Prompt(text="q"),
            tuple(Completion(f"a{i}") for i in range(len(scores))),
            tuple(map(Feedback, scores)),
        )

    assert "reward/at_maximum" not in signals([group(0.0, 0.0)], (0.0, 0.0))
    assert signals([group(0.0, 0.0)], (0.0, 1.0))["reward/at_maximum"] == 0.0
    assert signals([group(1.0, 1.0)], (0.0, 1.0))["reward/at_maximum"] == 1.0


def test_ctrl_c_does_not_reach_the_worker_that_scores():
    from kilter.feedback import isolation

    assert isolation.limited(os.getsid, 0, timeout=10, prepare=os.getpid)[0] != os.getsid(0)


def test_old_rollouts_keep_the_log_probs_and_the_temperature_of_their_policy(
    tiny,
    prompts,
    rewards,
    tmp_path,
):
    run(
        tiny,
        prompts,
        tmp_path / "run",
        "grpo",
        f"{rewards}:letters",
        max_steps=6,
        sampler={"temperature": 0.7},
    )
    rollouts = tmp_path / "run" / "groups.jsonl"
    assert json.loads(rollouts.read_text().splitlines()[0])["prompt"]["metadata"]["sampled_at"] == 0.7
    found = kilter.train(
        str(tiny),
        {"path": str(rollouts), "heldout": 0},
        "grpo",
        tmp_path / "again",
        max_steps=5,
        replay=True,
        batch_size=8,
        learning_rate=1e-2,
        shuffle=False,
    )
    lines = [json.loads(line) for line in (tmp_path / "again" / "metrics.jsonl").read_text().splitlines()]
    assert found.steps == 5
    assert max(line["clip_ratio/region_mean"] for line in lines) > 0  # one pass only, and still not on policy
    mixed = tmp_path / "run" / "mixed.jsonl"  # beside the tokens of its rows
    mixed.write_text(
        rollouts.read_text() + rollouts.read_text().replace('"sampled_at": 0.7', '"sampled_at": 1.0')
    )
    with pytest.raises(UserError, match="several temperatures"):
        kilter.train(
            str(tiny), {"path": str(mixed), "heldout": 0}, "grpo", tmp_path / "m", max_steps=1, replay=True
        )


def test_a_critic_that_was_the_reward_model_starts_on_the_scale_of_the_rewards(
    tiny,
    pairs_file,
    prompts,
    tmp_path,
):
    model = kilter.train(
        str(tiny),
        str(pairs_file),
        "bradley_terry",
        tmp_path / "rm",
        max_steps=8,
        batch_size=4,
        learning_rate=3e-2,
    ).model
    weights = safetensors.torch.load_file(model / "model.safetensors")
    weights["score.weight"] *= 100
    safetensors.torch.save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    lines = run(
        tiny,
        prompts,
        tmp_path / "run",
        {"name": "ppo", "beta": 0.0, "epochs": 1},
        {"reward_model": str(model)},
        max_steps=1,
        critic={"learning_rate": 1e-9},
    )
    assert abs(lines[0]["val/mean"]) < 5  # deviations, not raw scores, which are hundreds
