"""Every metric by its own name: it is measured, or refused before any work with the setting that it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import kilter
from conftest import pair_rows
from kilter import cli
from kilter.errors import UserError
from kilter.evaluation.config import EvaluateSpec
from kilter.evaluation.lacks import uncounted
from kilter.evaluation.metrics import metrics
from kilter.recipe import override
from kilter.types import Prompt

NAMES = sorted(name for name, _ in metrics)

BARE = {"max_new_tokens": 4, "limit": 6}
"""An evaluation that has two models and prompts, and nothing else."""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lacks")
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in range(8))
    )
    return folder


def refused(here, tiny, metric, **settings) -> UserError | None:
    """What an evaluation with one metric is refused with, before anybody is asked; None: it would begin."""
    from rich.console import Console

    from kilter import stages
    from kilter.api import make_data_spec
    from kilter.pipeline.alone import workspace
    from kilter.pipeline.runner import preflight

    models = {"a": str(tiny), "b": str(tiny)}
    body = {"models": models, "metrics": [metric], "split": "all"} | BARE | settings
    data = make_data_spec(str(here / "prompts.jsonl"), heldout=0.0)
    work = workspace(stages.make("evaluate", body), here / "o", "e", str(tiny), data, Console(quiet=True))
    try:
        work.here.maker.check(work.here.spec, work)
        preflight(work)
    except UserError as error:
        return error
    return None


@pytest.mark.parametrize("name", NAMES)
def test_what_a_metric_lacks_is_a_setting(here, tiny, name):
    error = refused(here, tiny, name)
    if error is not None:
        assert error.field.partition(".")[0] in EvaluateSpec.model_fields
        assert not (here / "o").exists()


def test_what_is_not_refused_is_measured(here, tiny, tmp_path):
    """In ONE evaluation: the metrics that plain prompts and two models are enough for."""
    accepted = [name for name in NAMES if refused(here, tiny, name) is None]
    assert {"length", "kl", "entropy", "distinct_1", "refusal", "self_bleu"} <= set(accepted)
    found = kilter.evaluate(
        {"a": str(tiny), "b": str(tiny)},
        str(here / "prompts.jsonl"),
        tmp_path / "o",
        metrics=accepted,
        **BARE,
    )
    measured = found["models"]["b"]["metrics"]
    shown = [cls.facts.name for name, cls in metrics if name in accepted]
    lost = [name for name in shown if name.partition("{")[0].rstrip("_") not in str(sorted(measured))]
    assert not lost


@pytest.mark.parametrize(
    ("metric", "settings", "field"),
    [
        ("reward", {}, "reward_model"),
        ("win_rate_reward", {}, "reward_model"),
        ("reward_std", {}, "reward_model"),
        ("proxy_gold_gap", {}, "gold"),
        ("judge_win_rate", {}, "judge"),
        ("judge_score", {}, "judge"),
        ("human_win_rate", {}, "preferred"),
        ("gold", {}, "gold"),
        ("pass_at_k", {}, "gold"),
        ({"pass_at_k": {"k": 2, "samples": 2}}, {}, "gold"),
        ("twin_accuracy", {"gold": {"regex": "x"}}, "data"),
        ("tax_nll", {}, "tax"),
        ("sycophancy", {}, "follow_ups"),
        ("exact_match", {}, "tasks"),
        ({"exact_match": {"key": "solution"}}, {}, "tasks"),
        ("math_verify", {}, "tasks"),
        ("over_refusal", {}, "probes"),
        ("violation_unsafe", {}, "probes"),
        ("implicit_accuracy", {}, "data"),
        ("reward_model.accuracy", {}, "reward_model"),
        ("kl", {"models": ["x"]}, "models"),
        ("win_rate_gold", {"models": ["x"]}, "models"),
    ],
)
def test_the_setting_is_the_one_that_brings_it(here, tiny, metric, settings, field):
    if "models" in settings:
        settings = {"models": [str(tiny)]}
    error = refused(here, tiny, metric, **settings)
    known = {"proxy_gold_gap": {"gold", "reward_model"}}.get(
        metric if isinstance(metric, str) else "", {field}
    )
    assert error is not None
    assert error.field in known


def test_prompts_that_nobody_called_safe_or_unsafe_are_said_to_count_nowhere(here, tiny):
    error = refused(here, tiny, "violation_unsafe")
    assert error is not None and "prompts that data.safety calls safe or unsafe" in error.problem
    spec = EvaluateSpec(models=["m"], metrics=["violation_unsafe"])
    labels = (None, "safe", "unsafe")
    probes = [Prompt(text=str(s), metadata={"safety": s} if s else {}) for s in labels]
    assert uncounted(spec, probes) == 2
    assert uncounted(spec.model_copy(update={"metrics": ["violation_unsafe", "over_refusal"]}), probes) == 1


def test_the_standard_set_takes_what_there_is(here, tiny):
    assert refused(here, tiny, "standard") is None


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry-run"])
def test_a_recipe_is_refused_before_its_first_stage(here, tiny, tmp_path, dry, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pair_rows(24)))
    stages = {
        "sft": {"train": {"method": "sft", "max_steps": 1}},
        "e": {"evaluate": {"models": ["sft"], "metrics": ["reward"]}},
    }
    recipe = {"model": str(tiny), "data": {"path": "pairs.jsonl"}, "stages": stages}
    Path("r.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    monkeypatch.setattr("sys.argv", ["kilter", "run", "r.yaml", *["--dry-run"] * dry])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert (
        "`stages.e.evaluate.reward_model` does not bring what the metric reward needs: a reward model"
        in " ".join((said.out + said.err).split())
    )
    assert not Path("runs").exists()
    override(recipe, "stages.e.evaluate.reward_model=rm")
