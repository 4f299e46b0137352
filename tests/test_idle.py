"""A setting that nothing would read is refused, or named once where it may stay."""

from __future__ import annotations

from kilter import stages
from kilter.pipeline.alone import workspace


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
