"""The benchmarks against peers run from end to end: small models, few steps. What they measure is not read here."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import shutil
import sys
import threading

import pytest

from conftest import make_model

CHAT = [
    {
        "chosen": [
            {"role": "user", "content": f"Question {i}?"},
            {"role": "assistant", "content": "good" * (1 + i % 3)},
        ],
        "rejected": [
            {"role": "user", "content": f"Question {i}?"},
            {"role": "assistant", "content": "bad" * (1 + i % 2)},
        ],
    }
    for i in range(24)
]
ONE = ("--dtype", "float32")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("parity", ("--steps", "2")),
        ("dpo", ("--steps", "2", "--rounds", "1", *ONE)),
        (
            "grpo",
            ("--steps", "1", "--tokens", "4", "--k", "2", "--batch-size", "2", "--accumulate", "2", *ONE),
        ),
        ("ppo", ("--steps", "1", "--tokens", "4", "--k", "2", "--batch-size", "2", *ONE)),
        ("sample", ("--peer", "hf", "--rounds", "1", "--tokens", "8", "--prompts", "2", "--k", "2", *ONE)),
        ("methods", ("--rounds", "1", "--methods", "ipo,orpo,aot")),
        ("scaling", ("--rounds", "1")),
    ],
)
def test_it_runs(name, options, model, tmp_path, monkeypatch, capsys):
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in CHAT))
    monkeypatch.setattr(sys, "argv", [name, "--model", str(model), "--data", str(data), *options])
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # both sides would take all cores, beside another test
    with contextlib.suppress(SystemExit):  # some end so; without a table they have failed
        importlib.import_module(f"bench.{name}").main()
    assert "\n| " in capsys.readouterr().out


@pytest.mark.parametrize("adapter", [False, True])
def test_the_start_of_an_engine_is_measured_step_by_step(adapter, model, tmp_path, monkeypatch, capsys):
    """Every step has its row, and the bytes are those of the weights that the engine begins with."""
    from bench.engine_start import Shape, main, make

    shape, folder = Shape(264, 32, 64, 32, 4), tmp_path / "made"
    make(folder, 2, shape, str(model))
    monkeypatch.setattr(sys, "argv", ["engine_start", str(folder), *["--adapter"] * adapter])
    main()
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    head, _, *steps, total = rows
    assert (head, len(steps)) == ("step", 6)
    layer = sum(a * b for a, b in shape.projections().values()) + 3 * 32 + 2 * 32
    assert total == f"all, of {2 * (2 * 264 * 32 + 32 + 2 * layer) / 1e9:.3g} GB"
    assert not [thread.name for thread in threading.enumerate() if "_watch" in thread.name]


@pytest.mark.parametrize("name", ["ahead", "publish"])
def test_a_bench_on_ray_gives_workers_what_they_can_import(name, monkeypatch):
    """Run as a script its classes would be those of __main__, which is another module in a worker."""
    if name == "publish":
        pytest.importorskip("ray")
    module, called = importlib.import_module(f"bench.{name}"), []
    monkeypatch.setattr(module, "main", lambda: called.append(name))
    runpy.run_path(module.__file__, run_name="__main__")
    assert called == [name]


def test_what_must_not_ship_is_asked(model, tmp_path, monkeypatch, capsys):
    """The recipe around the quickstart's start is one that Kilter takes, and no candidate passes."""
    done = tmp_path / "quickstart"
    (done / "eval").mkdir(parents=True)
    (done / "eval" / "evaluation.json").write_text(json.dumps({"reward_model": {}}))
    shutil.copytree(model, done / "sft")
    small = [f"data.{name}.world.n=24" for name in ("desk", "flipped", "unseen")]
    small += [
        "data.demos.parts.0.world.n=24",
        "stages.flipped.train.limit=8",
        "stages.flipped.train.eval_limit=4",
    ]
    small += ["stages.declining.train.limit=8"]
    options = [word for one in small for word in ("--set", one)]
    argv = ["desk", str(done), "--out", str(tmp_path / "out"), *options]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("bench.desk").main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for name in ("flipped", "declining", "same"):
        assert f"{name}: " in printed
