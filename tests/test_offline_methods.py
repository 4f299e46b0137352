"""Every offline method through the command line's own path on real preference data, on a tiny model: it learns, in both precisions, in full and with adapters."""

from __future__ import annotations

import gzip
import itertools
import json
import sys
from pathlib import Path

import pytest
import torch

from conftest import REAL
from kilter.cli import main
from kilter.objectives import build_objective, objectives

OFFLINE = [n for n in objectives.names() if build_objective(n).needs.shape != "rollouts"]
REALDATA = pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")

DATA = {
    "pairs": {"path": str(REAL / "hh_harmless" / "pairs.jsonl.gz"), "on_bad_row": "skip", "limit": 6},
    "demonstrations": {"path": str(REAL / "coconot" / "preference.jsonl.gz"), "limit": 6},
    "unpaired": {"path": str(REAL / "llama_factory" / "kto_en_demo.jsonl.gz"), "limit": 6},
    "ranked": {"path": str(REAL / "oasst" / "en_100_tree.jsonl.gz"), "limit": 6},
}
WATCHED = {"demonstrations": ("nll", -1), "ranked": ("rewards/margins", 1), "pairs": ("rewards/margins", 1)}


def options(name: str, tiny: Path) -> dict:
    # all rows in every step: what moves is the model, not the draw of the batch
    found = {
        "max_steps": 20,
        "batch_size": 6,
        "learning_rate": 3e-3,
        "max_length": 64,
        "schedule": "constant",
        "warmup_ratio": 0.0,
    }
    if name == "distill":
        found["teacher"] = str(teacher(tiny))
    return found


def teacher(tiny: Path) -> Path:
    """Another model of the same vocabulary."""
    from conftest import make_model

    folder = tiny.parent / "teacher"
    if not folder.exists():
        make_model(folder)
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            for i, p in enumerate(model.parameters()):
                p.mul_(0.5 + 0.1 * (i % 3))
        model.save_pretrained(folder)
    return folder


def moved(name: str, lines: list[dict]) -> float:
    """How much what should rise has risen, from the first three steps to the last three."""
    mean = lambda key, part: sum(x[key] for x in part if key in x) / max(1, sum(key in x for x in part))
    if name == "distill":
        key, sign = "divergence", -1
    elif name == "npo":
        key, sign = "logps/rejected", -1
    elif name == "dft":  # its gradient is that of the mean probability
        key, sign = "probability", 1
    elif build_objective(name).needs.shape == "unpaired":
        return (mean("rewards/chosen", lines[-3:]) - mean("rewards/rejected", lines[-3:])) - (
            mean("rewards/chosen", lines[:3]) - mean("rewards/rejected", lines[:3])
        )
    else:
        key, sign = WATCHED[build_objective(name).needs.shape]
        if (
            mean("loss", lines[-3:]) < mean("loss", lines[:3]) and key != "nll"
        ):  # an imitation term can win over the margin at first
            return 1.0
    return sign * (mean(key, lines[-3:]) - mean(key, lines[:3]))


COMBINATIONS = {
    "float32": (),
    "bfloat16": ("--dtype", "bfloat16"),
    "float32 lora": ("--adapter", "lora", "--set", "adapter.r=4"),
    "bfloat16 lora": ("--dtype", "bfloat16", "--adapter", "lora", "--set", "adapter.r=4"),
}


@pytest.fixture(scope="session")
def heads(tmp_path_factory) -> Path:
    """Folder with the first rows of each file: reading thousands would take longer than training on six."""
    folder = tmp_path_factory.mktemp("heads")
    for data in DATA.values():
        with (
            gzip.open(data["path"], "rt") as whole,
            gzip.open(folder / Path(data["path"]).name, "wt") as head,
        ):
            head.writelines(itertools.islice(whole, 24))
    return folder


def _combined() -> list:
    """Every method by the command line in either precision, one of them with adapters; the rest is slow."""
    diagonal = (("float32", "bfloat16 lora"), ("bfloat16", "float32 lora"))
    return [
        pytest.param(name, c, id=f"{name}-{c}", marks=() if c in diagonal[n % 2] else pytest.mark.slow)
        for n, name in enumerate(OFFLINE)
        for c in COMBINATIONS
    ]


@REALDATA
@pytest.mark.realdata
@pytest.mark.parametrize(("name", "combination"), _combined())
def test_learns_on_real_data_from_the_command_line(
    name, combination, tiny, heads, tmp_path, monkeypatch, capsys
):
    """20 steps, no recipe: what a user types."""
    data = DATA[build_objective(name).needs.shape]
    sets = [f"data.{k}={v}" for k, v in data.items() if k != "path"] + (
        ["data.heldout=0"] if name == "npo" else []
    )
    argv = [
        "kilter",
        "train",
        "--method",
        name,
        "--model",
        str(tiny),
        "--data",
        str(heads / Path(data["path"]).name),
        "--out",
        str(tmp_path / "run"),
    ]
    argv += [x for k, v in options(name, tiny).items() for x in (f"--{k.replace('_', '-')}", str(v))]
    monkeypatch.setattr(
        sys, "argv", [*argv, *COMBINATIONS[combination], *(x for s in sets for x in ("--set", s))]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0, capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 20
    assert moved(name, lines) > 0


def test_every_offline_method_is_here():
    assert len(OFFLINE) >= 36


ROWS = {
    "pairs": {"prompt": "{n}?", "chosen": "yes {n}", "rejected": "no, not {n}"},
    "demonstrations": {"prompt": "{n}?", "completion": "yes {n}"},
    "unpaired": {"prompt": "{n}?", "completion": "yes {n}", "label": True},
    "ranked": {"prompt": "{n}?", "completions": ["yes {n}", "no {n}", "{n}"], "scores": [3, 2, 1]},
}


@pytest.mark.parametrize("name", [*OFFLINE, "dpo+sft:0.5", "orpo+sft:1", "npo+sft:1"])
def test_what_is_measured_on_held_out_data_is_what_the_method_names(name, tiny, tmp_path):
    import kilter

    needs = build_objective(name).needs
    text = "\n".join(json.dumps(ROWS[needs.shape]).replace("{n}", str(n)) for n in range(12))
    (tmp_path / "rows.jsonl").write_text(text.replace("true", "false", 6))
    data = {"path": str(tmp_path / "rows.jsonl"), "heldout": 0.5}
    options = {"teacher": str(teacher(tiny))} if needs.teacher else {}
    result = kilter.train(
        str(tiny), data, name, tmp_path / "out", max_steps=1, batch_size=2, max_length=64, **options
    )
    found = {key.removeprefix("eval_") for key in result.heldout}
    assert found == needs.metrics | {"loss"}
