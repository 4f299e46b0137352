"""A setting that nothing would read is refused, or named once where it may stay."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from conftest import pair_rows
from kilter import recipe as recipes
from kilter import stages
from kilter.errors import UserError
from kilter.pipeline.alone import workspace
from kilter.pipeline.plan import plan


def test_settings_of_monitors_that_are_off_are_named(tmp_path, tiny):
    def notes(**monitors):
        settings = {"method": "grpo", "prompts": "$data", "feedback": "math", "monitors": monitors}
        stage = stages.make("train", settings)
        return stage.maker.notes(stage.spec, workspace(stage, tmp_path, "t", str(tiny)))

    assert notes(enabled=False) == []
    assert notes(stop=False, kl_budget=2) == []
    assert notes(enabled=False, stop=False, kl_budget=2) == [
        "monitors.enabled is false, so that nothing reads monitors.stop, monitors.kl_budget"
    ]


def test_a_setting_of_data_counts_where_one_stage_reads_it():
    """One data set is often read by several methods, of which one alone looks at its margins."""
    rated = {"path": "rated.jsonl", "pairs": {"min_margin": 1}, "threshold": 3}
    chain = {name: {"train": {"method": name}} for name in ("sft", "dpo", "kto")}
    recipes.build({"data": rated, "stages": chain})
    del chain["kto"]
    with pytest.raises(
        UserError, match=r"`data.threshold` = 3.0 has no effect: nothing here learns from lab"
    ):
        recipes.build({"data": rated, "stages": chain})
    named = {"one": rated | {"threshold": None}, "two": {"path": "pairs.jsonl"}}
    chain = {"sft": {"train": {"method": "sft", "data": "$one"}}, "dpo": {"train": {"method": "dpo"}}}
    chain["dpo"]["train"]["data"] = "$two"
    with pytest.raises(UserError, match=r"`data.one.pairs.min_margin` = 1.0 has no effect"):
        recipes.build({"data": named, "stages": chain})


def test_a_data_set_that_no_stage_reads_is_named(tmp_path, tiny):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pair_rows(24)))
    sets = {name: {"path": str(tmp_path / "pairs.jsonl")} for name in ("one", "two", "three")}
    sets["four"] = {"parts": [{"path": "$made"}], "heldout": 0}
    chain = {
        "dpo": {"train": {"method": "dpo", "data": "$one"}},
        "made": {"generate": {"data": "$two"}},
        "last": {"label": {"data": "$four", "feedback": "math"}},
    }
    said = io.StringIO()
    plan(recipes.build({"model": str(tiny), "data": sets, "stages": chain}), Console(file=said, width=200))
    assert said.getvalue() == "note data.three: no stage reads this data set\n"
