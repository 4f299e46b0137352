"""The two doors for readers: short, runnable, and the same numbers as the loop they stand for."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def module(name):
    spec = importlib.util.spec_from_file_location(
        f"example_{name}", Path(__file__).parents[1] / "examples" / f"{name}.py"
    )
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_an_example_is_a_page_that_readme_points_to(path):
    assert len(path.read_text().splitlines()) <= 80
    readme = (path.parents[1] / "README.md").read_text()
    assert f"examples/{path.name}" in readme


def test_the_dpo_example_takes_the_steps_of_kilter_train(tiny, pairs_file, tmp_path):
    import kilter

    losses = module("dpo_loop").main(str(tiny), str(pairs_file), steps=5, learning_rate=1e-3)
    data = {"path": str(pairs_file), "heldout": 0}
    fixed = {"shuffle": False, "schedule": "constant", "warmup_ratio": 0.0, "learning_rate": 1e-3}
    kilter.train(str(tiny), data, "dpo", tmp_path / "run", batch_size=4, max_steps=5, max_length=512, **fixed)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses == pytest.approx([line["loss"] for line in lines], abs=1e-5)
    assert losses[-1] < losses[0]


def test_the_grpo_example_raises_its_reward(tiny):
    rewards = module("grpo_loop").main(str(tiny), steps=14, learning_rate=1e-2)
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1, rewards
