"""Every offline method through the command line's own path on real preference data, on a tiny model: it learns, in both precisions, in full and with adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import kilter
from conftest import REAL
from kilter.objectives import build_objective, objectives

OFFLINE = [n for n in objectives.names() if build_objective(n).needs.shape != "rollouts"]
REALDATA = pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")

DATA = {
    "pairs": {"path": str(REAL / "hh_harmless" / "pairs.jsonl.gz"), "on_bad_row": "skip", "limit": 20},
    "demonstrations": {"path": str(REAL / "coconot" / "preference.jsonl.gz"), "limit": 20},
    "unpaired": {"path": str(REAL / "llama_factory" / "kto_en_demo.jsonl.gz"), "limit": 20},
    "ranked": {"path": str(REAL / "oasst" / "en_100_tree.jsonl.gz"), "limit": 20},
}
WATCHED = {"demonstrations": ("nll", -1), "ranked": ("rewards/margins", 1), "pairs": ("rewards/margins", 1)}


def options(name: str, tiny: Path) -> dict:
    # all rows in every step: what moves is the model, not the draw of the batch
    found = {"max_steps": 20, "batch_size": 20, "learning_rate": 3e-3, "max_length": 96, "schedule": "constant", "warmup_ratio": 0.0}
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


def run(name: str, tiny: Path, out: Path, **more) -> list[dict]:
    shape = build_objective(name).needs.shape
    kilter.train(str(tiny), DATA[shape], name, out, **options(name, tiny) | more)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def moved(name: str, lines: list[dict]) -> float:
    """How much what should rise has risen, from the first three steps to the last three."""
    mean = lambda key, part: sum(x[key] for x in part if key in x) / max(1, sum(key in x for x in part))
    if name == "distill":
        key, sign = "divergence", -1
    elif name == "npo":
        key, sign = "logps/rejected", -1
    elif name in ("kto", "bco", "orm"):
        return (mean("rewards/chosen", lines[-3:]) - mean("rewards/rejected", lines[-3:])) - (
            mean("rewards/chosen", lines[:3]) - mean("rewards/rejected", lines[:3])
        )
    else:
        key, sign = WATCHED[build_objective(name).needs.shape]
        if mean("loss", lines[-3:]) < mean("loss", lines[:3]) and key != "nll":  # an imitation term can win over the margin at first
            return 1.0
    return sign * (mean(key, lines[-3:]) - mean(key, lines[:3]))


@REALDATA
@pytest.mark.realdata
@pytest.mark.parametrize("name", OFFLINE)
def test_learns_on_real_data(name, tiny, tmp_path):
    lines = run(name, tiny, tmp_path / "run")
    assert len(lines) == 20
    assert moved(name, lines) > 0


@REALDATA
@pytest.mark.realdata
@pytest.mark.parametrize("name", OFFLINE)
def test_learns_in_bfloat16_with_adapters(name, tiny, tmp_path):
    lines = run(name, tiny, tmp_path / "run", dtype="bfloat16", adapter={"r": 4}, learning_rate=5e-3)
    assert moved(name, lines) > 0


def test_every_offline_method_is_here():
    assert len(OFFLINE) >= 36
