"""What --dry-run says of an evaluation: tokens that are read and written, and seconds from them."""

from __future__ import annotations

import json
import sys

import pytest

from conftest import pair_rows
from kilter import cli
from kilter import recipe as recipes
from kilter.models.sizes import Sizes
from kilter.pipeline.plan import plan
from kilter.training import estimate
from kilter.training.estimate import Answered, answering_seconds, lengths
from kilter.types import Completion, Feedback, Group, Prompt


def test_seconds_follow_from_tokens_by_arithmetic(monkeypatch, tmp_path):
    """1e6 weights, of which 1e5 are the embedding, on a machine of 1e9 operations a second."""
    monkeypatch.setattr(estimate, "_known", lambda folder, dtype: (Sizes(10**6, 2, 100, 400, 1000), 1e9))
    reading = 2 * 0.9e6 * 1000 / (1e9 * estimate.READING)
    writing = 2 * 1e6 * 500 / (1e9 * estimate.WRITING)
    found = answering_seconds(tmp_path, Answered(1000, 500, 2), "float32")
    assert found == pytest.approx(reading + writing + 2 * estimate.OPENING)


def test_lengths_are_those_of_the_data(encoder):
    """One byte is one token. Its own answers count, at most as long as an answer may be; else half of that."""
    prompts = [Prompt(text="abcd"), Prompt(text="ab")]
    answers = (Completion("1234567"), Completion("x" * 50))
    group = Group(prompts[0], answers, (Feedback(1.0), Feedback(0.0)))
    assert lengths(encoder, prompts, [group], 20) == (3, (8 + 20) / 2)
    assert lengths(encoder, prompts, [], 20) == (3, 10)


def test_an_evaluation_is_planned_as_it_is_run(tiny, tmp_path):
    """Prompts are read once for all answers to them; only what a metric needs is read once more."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(24)))

    def tokens(**settings) -> int:
        body = {"models": {"a": str(tiny), "b": str(tiny)}, "max_new_tokens": 8, "metrics": ["length"]}
        raw = {"model": str(tiny), "data": {"path": str(tmp_path / "pairs.jsonl"), "heldout": 0.5}}
        built = recipes.build(raw | {"stages": {"e": {"evaluate": body | settings}}})
        (line,) = plan(built)
        assert line.rows == settings.get("limit", 12)
        assert line.seconds is not None
        return line.tokens or 0

    # The data's answers are as long as 8 tokens or longer.
    assert tokens() == 12 * 2 * 8
    assert tokens(limit=5) == 5 * 2 * 8
    assert tokens(metrics=["pass_at_k"], gold={"length": {"limit": 2, "buffer": 1}}) == 12 * 2 * 8 * 8


def test_train_takes_a_dry_run(tiny, tmp_path, monkeypatch, capsys):
    """The row is that of the same stage in a recipe, and nothing is left behind."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(24)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.out, "width", 200)
    typed = ["train", "--method", "dpo", "--model", str(tiny), "--data", "pairs.jsonl", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["kilter", *typed])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    said = capsys.readouterr().out
    assert "nothing was run" in said
    raw = {
        "model": str(tiny),
        "data": {"path": "pairs.jsonl"},
        "stages": {"dpo": {"train": {"method": "dpo"}}},
    }
    (line,) = plan(recipes.build(raw))
    row = next(text for text in said.splitlines() if text.startswith("dpo")).split()
    assert {f"{line.rows:,}", f"{line.tokens:,}", f"{line.steps:,}", str(line.memory_gb)} <= set(row)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]
