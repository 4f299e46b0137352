"""Options of a train stage that end it earlier, shape its rate, or change what is saved."""

from __future__ import annotations

import json
import math

import pytest
import torch

import kilter
from conftest import pair_rows
from kilter.errors import UserError
from kilter.training.config import TrainSpec
from kilter.training.optim import schedule_factor


def write_pairs(path, n=16):
    path.write_text("".join(json.dumps(r) + "\n" for r in pair_rows(n)))
    return str(path)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# Learning rate


@pytest.mark.parametrize("minimum", [0.0, 0.1, 0.5])
def test_a_cosine_with_a_minimum_is_that_of_transformers(minimum):
    """Behind the warm-up, whose first step of transformers has a rate of zero."""
    from transformers import get_cosine_with_min_lr_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_with_min_lr_schedule_with_warmup(optimizer, 5, 40, min_lr_rate=minimum).lr_lambdas[0]
    spec = TrainSpec(method="sft", schedule="cosine", min_lr_rate=minimum, warmup_steps=5)
    ours = schedule_factor(spec, 40)
    assert [ours(step) for step in range(5, 40)] == pytest.approx([theirs(step) for step in range(5, 40)])
    assert ours(40) == pytest.approx(minimum)


def test_a_linear_decay_ends_at_its_minimum_too():
    ours = schedule_factor(TrainSpec(method="sft", min_lr_rate=0.2, warmup_steps=0), 10)
    assert [ours(0), ours(5), ours(10)] == pytest.approx([1.0, 0.6, 0.2])


def test_warm_up_steps_come_before_the_ratio():
    ours = schedule_factor(TrainSpec(method="sft", warmup_steps=3, warmup_ratio=0.5, schedule="constant"), 10)
    assert [ours(step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_a_minimum_without_a_decay_is_refused(tiny, tmp_path):
    with pytest.raises(UserError, match="min_lr_rate.*does not decay"):
        kilter.train(
            str(tiny),
            write_pairs(tmp_path / "p"),
            "dpo",
            tmp_path / "o",
            schedule="constant",
            min_lr_rate=0.1,
        )


@pytest.mark.parametrize("steps", [{"max_steps": 4}, {"epochs": 1}])
def test_a_warm_up_without_a_peak_is_refused(tiny, tmp_path, steps):
    data = {"path": write_pairs(tmp_path / "p.jsonl"), "heldout": 0}
    with pytest.raises(UserError, match="warmup_ratio.*has no effect"):
        kilter.train(str(tiny), data, "dpo", tmp_path / "o", warmup_steps=2, warmup_ratio=0.5, batch_size=4)
    with pytest.raises(UserError, match="warmup_steps.*never reached"):
        kilter.train(str(tiny), data, "dpo", tmp_path / "o", warmup_steps=4, batch_size=4, **steps)


# What is saved


@pytest.mark.parametrize("adapter", [None, {"r": 2}, {"r": 2, "merge": True}], ids=["full", "lora", "merged"])
def test_weights_are_saved_in_half_precision(tiny, tmp_path, adapter):
    """The same weights, rounded; tied ones once; and the folder trains and loads like any other."""
    from safetensors.torch import load_file

    data, options = write_pairs(tmp_path / "pairs.jsonl"), {"max_steps": 1, "adapter": adapter}
    saved = {}
    for dtype in ("float32", "bfloat16"):
        made = kilter.train(str(tiny), data, "dpo", tmp_path / dtype, export_dtype=dtype, **options)
        (path,) = made.model.glob("*.safetensors")
        saved[dtype] = load_file(path)
    assert saved["float32"].keys() == saved["bfloat16"].keys()
    for name, value in saved["float32"].items():
        torch.testing.assert_close(saved["bfloat16"][name], value.bfloat16(), rtol=0, atol=0)
    if adapter is None or adapter.get("merge"):
        config = json.loads((tmp_path / "bfloat16" / "model" / "config.json").read_text())
        assert config["dtype"] == "bfloat16"
        assert "lm_head.weight" not in saved["bfloat16"]
    again = kilter.train(
        str(tmp_path / "bfloat16"), data, "dpo", tmp_path / "again", max_steps=1, adapter={"r": 2}
    )
    assert math.isfinite(again.metrics["loss"])


def test_a_reward_model_is_saved_in_half_precision(tiny, tmp_path):
    from safetensors.torch import load_file

    data = write_pairs(tmp_path / "pairs.jsonl")
    made = kilter.train(
        str(tiny), data, "bradley_terry", tmp_path / "rm", export_dtype="bfloat16", max_steps=1
    )
    assert {v.dtype for v in load_file(made.model / "model.safetensors").values()} == {torch.bfloat16}


# Early stopping


def early(tiny, tmp_path, name="run", rate=1e-3, **changes):
    data = {"path": write_pairs(tmp_path / "pairs.jsonl", 24), "heldout": 0.34, "seed": 1}
    options = {
        "learning_rate": rate,
        "schedule": "constant",
        "warmup_ratio": 0,
        "batch_size": 4,
        "eval_every": 1,
        "max_steps": 12,
        "early_stopping": {"patience": 2},
    } | changes
    return kilter.train(str(tiny), data, "sft", tmp_path / name, **options)


def test_a_run_that_gets_worse_ends_and_keeps_its_best_weights(tiny, tmp_path, capsys):
    """The rate is far too high: the start stays the best, and its weights are those saved."""
    from kilter.models.load import load_causal

    result = early(tiny, tmp_path, rate=1.0)
    assert (result.steps, result.best_step, result.stopped) == (2, 0, None)
    assert len(lines(tmp_path / "run")) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "ended at step 2 of 12: eval_loss has not improved in 2 evaluations. It was best at step 0" in said
    assert "step 0 had the best eval_loss and is kept: that is the start" in said
    trained = load_causal(result.model).state_dict()
    for name, value in load_causal(tiny).state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=0)


def test_the_saved_model_is_the_one_of_the_best_evaluation(tiny, tmp_path):
    """A run that learns, then overfits with a high rate: what is saved has the lowest loss on its own rows."""
    from kilter.models.load import load_causal

    result = early(tiny, tmp_path, rate=3e-2, early_stopping={"patience": 12})
    seen = {r["step"]: r["eval_loss"] for r in lines(tmp_path / "run") if "eval_loss" in r}
    assert result.best_step == min(seen, key=seen.__getitem__) < 12
    # The same run cut off at that step has the same weights, and what is reported is of held-out rows.
    cut = early(tiny, tmp_path, "cut", rate=3e-2, early_stopping={"patience": 12}, max_steps=result.best_step)
    torch.testing.assert_close(load_causal(result.model).state_dict(), load_causal(cut.model).state_dict())
    assert result.heldout["eval_loss"] == pytest.approx(cut.heldout["eval_loss"], abs=1e-6)
    assert result.heldout["eval_loss"] != pytest.approx(seen[result.best_step])


def test_a_run_that_improves_goes_to_its_end(tiny, tmp_path):
    result = early(tiny, tmp_path, rate=1e-3, max_steps=4)
    assert (result.steps, result.best_step) == (4, None)


def test_a_stopped_run_resumes_to_the_same_end(tiny, tmp_path, monkeypatch):
    """Killed between two evaluations: patience is counted on, and the end is the same."""
    from kilter.training.hooks.early_stopping import StopEarly

    whole = early(tiny, tmp_path, "whole", rate=3e-2, save_every=1)
    after = StopEarly.after_step
    monkeypatch.setattr(
        StopEarly,
        "after_step",
        lambda self, step, *rest: 1 / 0 if step.number == 2 else after(self, step, *rest),
    )
    with pytest.raises(ZeroDivisionError):
        early(tiny, tmp_path, "killed", rate=3e-2, save_every=1)
    monkeypatch.undo()
    again = early(tiny, tmp_path, "killed", rate=3e-2, save_every=1)
    assert (again.steps, again.best_step) == (whole.steps, whole.best_step)
    reached = [(tmp_path / name / "reached.jsonl").read_text() for name in ("whole", "killed")]
    assert reached[0] == reached[1] and '"step": 1' in reached[0]
    assert again.heldout == pytest.approx(whole.heldout)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"eval_every": None}, "early_stopping.*eval_every is not set"),
        (
            {"early_stopping": {"metric": "rewards/accuracies"}},
            r"(?s)metric.*Use one of logps/completion, loss, nll",
        ),
        ({"early_stopping": {"patience": 0}}, "patience"),
    ],
)
def test_early_stopping_that_cannot_see_is_refused(tiny, tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        early(tiny, tmp_path, **changes)


def test_early_stopping_needs_rows_held_out(tiny, tmp_path):
    data = {"path": write_pairs(tmp_path / "pairs.jsonl"), "heldout": 0}
    with pytest.raises(UserError, match="needs held-out rows"):
        kilter.train(str(tiny), data, "sft", tmp_path / "o", eval_every=1, early_stopping={})


# Replay


@pytest.mark.parametrize("method", ["grpo", "ppo", "rloo", "online_dpo"])
def test_rollouts_are_never_replayed_in_silence(tiny, tmp_path, method):
    """Scored rollouts lie there, but nobody said that they are to be learned from."""
    with pytest.raises(UserError, match=r"(?s)`feedback`.*--replay"):
        kilter.train(str(tiny), write_pairs(tmp_path / "pairs.jsonl"), method, tmp_path / "o")


def test_replay_is_for_methods_of_rollouts(tiny, tmp_path):
    with pytest.raises(UserError, match="(?s)replay.*Leave it out"):
        kilter.train(str(tiny), write_pairs(tmp_path / "pairs.jsonl"), "dpo", tmp_path / "o", replay=True)


def test_replay_and_feedback_are_two_things(tiny, tmp_path):
    with pytest.raises(UserError, match="replay"):
        kilter.train(
            str(tiny),
            write_pairs(tmp_path / "pairs.jsonl"),
            "grpo",
            tmp_path / "o",
            replay=True,
            feedback="math",
        )


def test_the_dials_of_every_world_are_options():
    from kilter.cli.train import OPTIONS
    from kilter.data.worlds import registry as worlds

    flags = {option.flag for option in OPTIONS}
    wanted = {f"--data.world.{n.replace('_', '-')}" for _, w in worlds.worlds for n in w.dials.model_fields}
    assert wanted <= flags


# Counts beyond what the machine has


def test_more_processes_than_gpus_are_refused_and_than_cores_are_noted(tiny, tmp_path, monkeypatch, capsys):
    """Two processes of NCCL cannot share a GPU; on cores they can, as under torchrun, but slowly."""
    import torch
    import yaml

    from kilter import cli, runtime

    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "pairs.jsonl")
    train = {"method": "dpo", "data": "$data", "processes": 64}
    recipe = {"model": str(tiny), "data": {"path": "pairs.jsonl"}, "stages": {"dpo": {"train": train}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))

    def dry() -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["kilter", "run", "r.yaml", "--dry-run"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), " ".join((said.out + said.err).split())

    cores = runtime.core_count()
    code, said = dry()
    assert code == 0
    note = f"64 processes share {cores} cores, and wait for each other; at most {cores} are usual"
    assert said.count(note) == 1

    monkeypatch.setattr("kilter.stages.train.core_count", lambda: 2)
    recipe["stages"]["dpo"]["train"] = train | {"processes": 500, "batch_size": 500}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    code, said = dry()
    assert (code, "processes` = 500 is too many for this machine's 2 cores" in said) == (2, True)
    recipe["stages"]["dpo"]["train"] = train
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    code, said = dry()
    assert code == 2
    assert "`stages.dpo.train.processes` = 64 is more than this machine's 8 GPUs" in said
    assert "Fix: Use at most 8." in said
    train["processes"] = 8
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert "note" not in dry()[1]


def test_a_rank_above_some_layers_is_noted(tiny):
    from kilter.models.adapters import note_on_rank
    from kilter.models.config import AdapterSpec
    from kilter.models.load import outline

    assert note_on_rank(AdapterSpec(r=16), outline(tiny)) == ""
    assert "above the width of k_proj, v_proj" in note_on_rank(AdapterSpec(r=17), outline(tiny))
