"""A whole recipe on the tiny model: artifacts, resumption by hash, report, verdict, schema, dry run."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

import kilter
from conftest import REAL
from kilter import chain
from kilter import manifest as manifests
from kilter import recipe as recipes
from kilter.artifacts import sha256_file
from kilter.errors import Exit, RunFailed, UserError
from kilter.pipeline.plan import plan


@pytest.fixture
def recipe_file(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, tmp_path / "model")
    recipe = {
        "model": str(tmp_path / "model"),
        "data": {"path": "builtin:support-desk", "heldout": 0.3, "world": {"n": 40}},
        "stages": {
            "audit": {"audit": {"max_length": 900, "waive": {"grouped_split": "the desk asks alike"}}},
            "sft": {"train": {"method": "sft", "learning_rate": 1e-3, "batch_size": 8}},
            "rm": {
                "train": {"from": "sft", "method": "bradley_terry", "learning_rate": 1e-3, "batch_size": 8}
            },
            "dpo": {"train": {"from": "sft", "method": "dpo", "learning_rate": 1e-3, "batch_size": 8}},
            "eval": {"evaluate": {"models": ["sft", "dpo"], "reward_model": "rm", "max_new_tokens": 16}},
            "gate": {
                "gate": {
                    "policy": {
                        "conditions": [{"metric": "violation", "bound": "value", "op": "<=", "value": 1}]
                    },
                    "allow_means": True,
                }
            },
        },
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def test_a_recipe_runs_to_a_verdict_and_resumes(recipe_file, tmp_path, capsys):
    assert kilter.run(recipe_file) == Exit.OK
    run = tmp_path / "runs" / "small"
    for name in (
        "audit/audit.json",
        "sft/model/model.safetensors",
        "rm/metrics.jsonl",
        "dpo/manifest.json",
        "eval/evaluation.json",
        "eval/groups.jsonl",
        "gate/gate.json",
        "gate/gate.xml",
        "report.html",
    ):
        assert (run / name).exists(), name
    page = (run / "report.html").read_text()
    for part in (
        "May ship",
        'class="forest"',
        "Answers side by side",
        'class="curves"',
        "Data audit",
        "Provenance",
    ):
        assert part in page, part
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    result = json.loads((run / "eval" / "evaluation.json").read_text())
    for model in result["models"].values():
        for metric in model["metrics"].values():
            assert {
                "value",
                "n",
                "n_unscored",
                "n_clusters",
                "ci_low",
                "ci_high",
                "method",
                "seed",
                "judge",
                "data_hash",
            } <= metric.keys()
    assert {
        "gold",
        "reward",
        "length",
        "refusal",
        "violation",
        "distinct_1",
        "kl",
        "win_rate_gold",
    } <= result["models"]["dpo"]["metrics"].keys()
    assert result["reward_model"]["metrics"]["accuracy"]["n"] == 12
    assert result["prompts_found_in_training_data"] == 0
    times = {p: p.stat().st_mtime_ns for p in run.glob("*/model/*")}
    capsys.readouterr()
    assert kilter.run(recipe_file) == Exit.OK
    assert capsys.readouterr().out.count("unchanged") == 6
    assert {p: p.stat().st_mtime_ns for p in run.glob("*/model/*")} == times


def test_a_changed_stage_and_what_follows_run_again_and_the_old_result_is_kept(recipe_file, tmp_path, capsys):
    kilter.run(recipe_file)
    capsys.readouterr()
    kilter.run(recipe_file, ["stages.dpo.train.learning_rate=2e-3"])
    text = capsys.readouterr().out
    assert text.count("unchanged") == 3
    kept = [p.name.rsplit("-", 3)[0] for p in (tmp_path / "runs" / "small" / ".superseded").iterdir()]
    assert sorted(kept) == ["dpo", "eval", "gate"]


def test_settings_that_change_no_number_leave_results_as_they_are(recipe_file, tmp_path, capsys):
    kilter.run(recipe_file)
    capsys.readouterr()
    kilter.run(recipe_file, ["stages.dpo.train.save_every=3", "stages.dpo.train.eval_every=5"])
    assert capsys.readouterr().out.count("unchanged") == 6


def test_an_unfinished_stage_goes_on_with_a_mended_reward(tiny, tmp_path, monkeypatch):
    """As `kilter train` does; its checkpoint stays where it is."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Say {i}."} for i in range(8)]
    Path("prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    score = "    return float(len(completion.text))\n"
    Path("mine.py").write_text("def reward(prompt, completion):\n    raise KeyError('x')\n")
    train = {
        "method": "grpo",
        "prompts": "$data",
        "feedback": "mine.py:reward",
        "batch_size": 2,
        "max_steps": 4,
    }
    sampler = {"samples": 2, "max_new_tokens": 4}
    extra = {"sampler": sampler, "save_every": 1, "monitors": {"enabled": False, "allow_truncation": True}}
    raw = {
        "model": str(tiny),
        "data": {"path": "prompts.jsonl", "heldout": 0},
        "stages": {"rl": {"train": train | extra}},
    }
    Path("r.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(RunFailed):
        kilter.run("r.yaml")
    Path("mine.py").write_text(f"def reward(prompt, completion):\n{score}")
    assert kilter.run("r.yaml", ["stages.rl.train.save_every=2"]) == Exit.OK
    assert not Path("runs/r/.superseded").exists()


def test_an_interrupted_run_keeps_finished_stages(recipe_file, tmp_path, monkeypatch, capsys):
    from kilter.training.learner import LocalLearner

    original = LocalLearner.step

    def step(self, batch, objective):
        if type(objective).__name__ == "DPO":
            raise MemoryError("killed")
        return original(self, batch, objective)

    with monkeypatch.context() as once:
        once.setattr(LocalLearner, "step", step)
        with pytest.raises(MemoryError):
            kilter.run(recipe_file)
    assert manifests.read(tmp_path / "runs" / "small" / "rm").status == "done"
    assert "No verdict yet" in (tmp_path / "runs" / "small" / "report.html").read_text()
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert kilter.run(recipe_file) == Exit.OK
    assert capsys.readouterr().out.count("unchanged") == 3


def test_evaluation_prompts_in_training_data_fail_the_gate(recipe_file, tmp_path):
    kilter.run(recipe_file)
    run = tmp_path / "runs" / "small"
    from kilter.data.dataset import load, prompt_key

    held = load(recipes.load(recipe_file).data["data"], "prompts").heldout
    path = run / "dpo" / "trained_prompts.txt"
    with path.open("a") as f:
        f.write(prompt_key(held[0].prompt)[:16] + "\n")
    entry = manifests.read(run / "dpo")
    entry.outputs[path.name] = entry.files[path.name] = sha256_file(path)  # as if the training had noted it
    entry.write(run / "dpo")
    chain.record(run, "dpo", entry.text(), entry.files)
    shutil.rmtree(run / "eval")
    assert kilter.run(recipe_file) == Exit.GATE_FAILED


def test_dry_run_prints_rows_tokens_steps_memory_and_time(recipe_file, monkeypatch, capsys):
    from kilter import cli

    monkeypatch.setattr(sys, "argv", ["kilter", "run", str(recipe_file), "--dry-run"])
    monkeypatch.setattr(cli.out, "width", 200)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    text = capsys.readouterr().out
    assert "nothing was run" in text
    row = next(line for line in text.splitlines() if line.startswith("dpo") and "train" in line)
    assert "28" in row.split()
    assert "GB" in row
    # What cannot be timed before it runs is named, and the sum does not pretend to hold it.
    assert "it takes at least" in text
    assert "audit not counted; nothing was run" in text.replace("\n", " ")


RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize(
    "path",
    [p for p in RECIPES if "stages" in yaml.safe_load(p.read_text())],
    ids=lambda p: p.stem,
)
def test_every_recipe_is_taken_when_it_is_resolved(path, monkeypatch):
    monkeypatch.chdir(path.parents[1])
    first = recipes.load(path)
    assert recipes.dump(recipes.build(yaml.safe_load(recipes.dump(first)))) == recipes.dump(first)


@pytest.mark.parametrize("method", ["dpo", "sft", "kto", "grpo"])
def test_a_resolved_recipe_is_taken_as_it_is(method, recipe_file, tmp_path):
    """A run's own recipe.yaml spells every setting out, defaults too: none of them counts as asked for."""
    raw = yaml.safe_load(recipe_file.read_text())
    (tmp_path / "r.py").write_text("def reward(prompt, completion): return 1.0\n")
    online = {"prompts": "$data", "feedback": "r.py:reward"} if method == "grpo" else {}
    raw["data"]["heldout"] = 0
    raw["stages"] = {"t": {"train": {"method": method, "max_length": 1100} | online}}
    plan(recipes.build(yaml.safe_load(recipes.dump(recipes.build(raw)))))


def test_a_dry_run_says_what_cannot_pass(recipe_file, monkeypatch, capsys):
    from kilter import cli

    monkeypatch.setattr(cli.out, "width", 300)
    given = yaml.safe_load(recipe_file.read_text())
    gate = {"metric": "length", "bound": "ci_low", "op": ">", "value": 1, "min_n": 5000}
    given["stages"]["gate"]["gate"]["policy"] = {"conditions": [gate]}
    recipe_file.write_text(yaml.safe_dump(given, sort_keys=False))
    monkeypatch.setattr(sys, "argv", ["kilter", "run", str(recipe_file), "--dry-run"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert "min_n is 5000, and it counts 12 prompts" in capsys.readouterr().out


def test_shipped_recipes_are_valid_and_match_the_schema():
    import jsonschema

    schema = recipes.schema()
    folder = Path(__file__).resolve().parents[1] / "recipes"
    for path in folder.glob("*.yaml"):
        if path.stem.startswith("compare-"):  # a comparison has its own shape; its expansion is a recipe
            from kilter.study import study

            assert len(study.cells(study.load(path))) >= 20
            with pytest.raises(UserError, match="kilter compare"):
                recipes.load(path)
            continue
        recipes.load(path)
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    assert len((folder / "dpo-minimal.yaml").read_text().splitlines()) <= 15


def test_overrides(recipe_file):
    loaded = recipes.load(
        recipe_file, ["stages.dpo.train.learning_rate=1e-5", "data.world.n=50", "stages.sft.train.epochs=2"]
    )
    assert loaded.stages["dpo"].spec.learning_rate == 1e-5
    assert loaded.data["data"].world.n == 50
    with pytest.raises(UserError, match="names 'dpoo', which is not a stage"):
        recipes.load(recipe_file, ["stages.dpoo.train.epochs=2"])


def test_python_api(tmp_path, tiny, pairs_file):
    result = kilter.train(
        model=str(tiny), data=str(pairs_file), method="dpo", out=tmp_path / "out", max_steps=2
    )
    assert result.steps == 2
    assert (result.model / "model.safetensors").exists()
    with pytest.raises(UserError, match="Did you mean 'max_steps'"):
        kilter.train(model=str(tiny), data=str(pairs_file), method="dpo", out=tmp_path / "b", max_step=2)


def test_registry_refuses_duplicates_and_imports_user_methods(tmp_path):
    from kilter.objectives import build_objective, objectives

    with pytest.raises(ValueError, match="already registered"):
        objectives.register("dpo")(object)
    source = tmp_path / "mine.py"
    source.write_text(
        "from dataclasses import dataclass\nfrom kilter.objectives import DPO\n@dataclass(frozen=True)\nclass Mine(DPO):\n    gamma: float = 1.0\n"
    )
    assert build_objective({"name": f"{source}:Mine", "gamma": 2.0}).gamma == 2.0
    with pytest.raises(UserError, match="cannot be imported"):
        build_objective(f"{source}:Other")


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="real data sets are not beside the checkout")
@pytest.mark.parametrize(
    ("name", "shape", "at_least"),
    [
        ("hh_harmless/pairs.jsonl.gz", "pairs", 1700),
        ("coconot/preference.jsonl.gz", "pairs", 900),
        ("llama_factory/dpo_en_demo.jsonl.gz", "pairs", 290),
        ("llama_factory/kto_en_demo.jsonl.gz", "prompts", 290),
        ("llama_factory/alpaca_en_demo.jsonl.gz", "demonstrations", 900),
        ("oasst/en_100_tree.jsonl.gz", "pairs", 100),
    ],
)
def test_real_files_are_read(name, shape, at_least):
    from kilter.data.dataset import DataSpec, load

    data = load(DataSpec(path=str(REAL / name), on_bad_row="skip"), shape)
    assert len(data.train) + len(data.heldout) >= at_least
    assert sum(data.skipped.values()) < 0.06 * at_least


def test_rlhf_and_dpo_in_one_recipe_with_probes(tmp_path, tiny, pairs_file):
    """Reward model -> PPO (critic from the reward model) beside DPO, judged with red-team and look-alike probes."""
    from rich.console import Console

    from kilter import recipe as recipes
    from kilter.pipeline.runner import Run

    for name, texts in (("red", ["Do harm"] * 1 + ["Steal it"]), ("fine", ["Bake bread", "Sing a song"])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": t}) + "\n" for t in texts))
    common = {"from": "sft", "batch_size": 6, "max_length": 96, "learning_rate": 1e-3}
    raw = {
        "name": "mini",
        "model": str(tiny),
        "data": {
            "pairs": {"path": str(pairs_file), "heldout": 0.25},
            "red": {"path": str(tmp_path / "red.jsonl"), "safety": "unsafe", "heldout": 0},
            "fine": {"path": str(tmp_path / "fine.jsonl"), "safety": "safe", "heldout": 0},
        },
        "stages": {
            "sft": {"train": {"method": "sft", "data": "$pairs", "max_steps": 2}},
            "rm": {"train": common | {"method": "bradley_terry", "data": "$pairs"}},
            "ppo": {
                "train": common
                | {
                    "method": {"name": "ppo", "epochs": 2},
                    "prompts": "$pairs",
                    "feedback": {"reward_model": "rm"},
                    "max_steps": 2,
                    "sampler": {"samples": 2, "max_new_tokens": 6},
                    "monitors": {"allow_truncation": True, "gold": {"regex": "a"}, "gold_every": 1},
                }
            },
            "dpo": {"train": common | {"method": "dpo", "data": "$pairs"}},
            "eval": {
                "evaluate": {
                    "models": ["sft", "ppo", "dpo"],
                    "baseline": "sft",
                    "reward_model": "rm",
                    "data": "$pairs",
                    "probes": ["$red", "$fine"],
                    "max_new_tokens": 6,
                }
            },
        },
    }
    assert Run(recipes.build(raw), tmp_path / "run", Console(quiet=True)).execute() == 0
    found = json.loads((tmp_path / "run" / "eval" / "evaluation.json").read_text())
    assert found["n_probes"] == 4
    for name in ("sft", "ppo", "dpo"):
        assert found["models"][name]["metrics"]["violation_unsafe"]["n"] == 2
        assert found["models"][name]["metrics"]["over_refusal"]["n"] == 2
    assert (tmp_path / "run" / "ppo" / "critic" / "config.json").is_file()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Was the reward hacked?" in page


def test_a_repeated_key_is_refused_and_a_merged_one_may_be_overridden():
    from kilter.validation import load_yaml

    assert load_yaml("base: &b {x: 1, y: 2}\nown: {<<: *b, y: 3}")["own"] == {"x": 1, "y": 3}
    with pytest.raises(yaml.YAMLError, match="'x' stands there twice"):
        load_yaml("a:\n  x: 1\n  x: 2\n")


@pytest.mark.parametrize(
    ("stopped", "judged", "want"), [("fell", False, 3), ("fell", True, 0), (None, False, 0)]
)
def test_a_stopped_training_is_a_doubt_that_a_gate_settles(
    tmp_path, tiny, monkeypatch, stopped, judged, want
):
    from kilter.pipeline import runner

    train = {"train": {"method": "sft", "max_steps": 1}}
    gate = {
        "gate": {"policy": {"conditions": [{"metric": "length", "bound": "ci_low", "op": ">", "value": 0}]}}
    }
    stages = {"sft": train, "eval": {"evaluate": {"models": ["sft"]}}} | ({"gate": gate} if judged else {})
    recipe = {"model": str(tiny), "data": {"path": "builtin:support-desk"}, "stages": stages}
    path = tmp_path / "doubt.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))

    def ran(work, *args):
        entry = manifests.new(work.name, work.here.kind, {}, {}, frozenset())
        entry.facts = {"stopped": stopped} if work.name == "sft" else {}
        return entry

    monkeypatch.setattr(runner, "run_stage", ran)
    assert kilter.run(path, runs=tmp_path / "runs") == want
