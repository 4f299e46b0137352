"""A policy that is divided while it is opened: one rank reads it, and every number is that of ranks that all do."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import make_model, pair_rows
from kilter.cluster.inline import InlineBackend
from kilter.data.dataset import DataSpec, load
from kilter.errors import UserError
from kilter.models import load as loads
from kilter.models.load import empty_causal, fillable, load_causal
from kilter.training import scorers
from kilter.training.config import TrainSpec
from kilter.training.trainer import Trainer
from processes import ranks
from test_ranks import PROMPTS, online

SFT = {"method": "sft", "learning_rate": 1e-3, "batch_size": 4, "warmup_ratio": 0.0, "max_steps": 3}
APART = {"learner": {"processes": 2}, "rollout": {"place": "apart"}}
FRESH = {"ppo": {}, "ppo-adapter": {"adapter": {"r": 2}}}
WATCHED = {"stop": False, "allow_truncation": True, "pin": False}


class Read:
    """Counts on every rank what is opened whole."""

    def __init__(self, patch):
        self.whole, self.found = 0, scorers.open_model
        patch.setattr(scorers, "open_model", self)

    def __call__(self, *arguments):
        self.whole += 1
        return self.found(*arguments)


def trained(start, out, spec, data, thin):
    with pytest.MonkeyPatch.context() as patch:
        if not thin:
            patch.setattr(scorers, "rests", lambda *_: False)
        read = Read(patch)
        Trainer(spec, start, data, [], out, name="run", connect=lambda _: InlineBackend()).run()
    (out / f"read-{os.environ['RANK']}.json").write_text(json.dumps(read.whole))


def in_two(folder):
    """On fixed data, tied and not; on answers of workers apart, which one rank asks for both, with and without a critic."""
    rows = load(DataSpec(path=str(folder / "pairs.jsonl"), heldout=0.0), "pairs").train
    for thin in (False, True):
        for name in ("untied", "checkpointed"):
            start = folder / name.replace("checkpointed", "tied")
            spec = TrainSpec.model_validate(
                SFT | {"fsdp": True, "gradient_checkpointing": name == "checkpointed"}
            )
            trained(start, folder / f"{name}-{thin}", spec, rows, thin)
        spec = TrainSpec.model_validate(SFT | {"fsdp": True, "method": "bradley_terry"})
        trained(folder / "tied", folder / f"bradley_terry-{thin}", spec, rows, thin)
        for name, changes in FRESH.items():
            usual = {"batch_size": 2, "max_steps": 2, "fsdp": True, "cluster": APART, "monitors": WATCHED}
            spec = online(name.removesuffix("-adapter"), {"regex": "[a-m]"}, **usual, **changes)
            trained(folder / "tied", folder / f"{name}-{thin}", spec, PROMPTS, thin)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("thin")
    make_model(made / "tied")
    make_model(made / "untied", tie_word_embeddings=False)
    (made / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(16)))
    ranks(2, in_two, made, limit=500)
    return made


@pytest.mark.parametrize(
    ("name", "own", "once"),
    [
        ("untied", 0, True),
        ("checkpointed", 0, True),
        ("bradley_terry", 0, False),
        ("ppo", 2, True),
        ("ppo-adapter", 2, False),
    ],
)
def test_a_policy_that_is_divided_while_it_is_opened_learns_bit_for_bit_as_others(folder, name, own, once):
    """own: models beside it, a critic and a reference, that each rank opens whole. once: the first rank alone opens it."""
    kept = "loss", "grad_norm", "reward"
    metrics, weights = [], []
    for thin in (False, True):
        out = folder / f"{name}-{thin}"
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        metrics.append([{k: v for k, v in r.items() if k in kept} for r in rows])
        weights.append(load_file(next((out / "model").glob("*model.safetensors"))))
    assert metrics[0] == metrics[1]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(w, weights[1][n]) for n, w in weights[0].items())
    read = lambda thin, rank: json.loads((folder / f"{name}-{thin}" / f"read-{rank}.json").read_text())
    assert [read(False, 0), read(False, 1)] == [1 + own, 1 + own]
    assert [read(True, 0), read(True, 1)] == [1 + own, own + (not once)]


def test_what_the_first_rank_cannot_open_every_rank_refuses(tmp_path):
    make_model(tmp_path / "model", tie_word_embeddings=False)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file(
        {n: w for n, w in weights.items() if "norm" not in n or "layers" in n},
        tmp_path / "model" / "model.safetensors",
    )
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(16)))
    ranks(2, cannot, tmp_path)


def cannot(folder):
    rows = load(DataSpec(path=str(folder / "pairs.jsonl"), heldout=0.0), "pairs").train
    with pytest.raises(UserError, match="lacks 1 weights"):
        trained(folder / "model", folder / "out", TrainSpec.model_validate(SFT | {"fsdp": True}), rows, True)


def test_modules_without_numbers_are_those_of_the_model(tiny):
    whole, empty = load_causal(tiny), empty_causal(tiny)
    assert fillable(tiny)
    shape = lambda model: {n: (p.shape, p.dtype, p.requires_grad) for n, p in model.named_parameters()}
    assert shape(whole) == shape(empty)
    assert all(p.is_meta for p in empty.parameters())
    assert [n for n, _ in whole.named_buffers()] == [n for n, _ in empty.named_buffers()]


def test_a_head_that_lies_in_the_files_is_no_tied_one(tmp_path):
    """The configuration says tied, and transformers loads two matrices: ranks would differ in their weights."""
    make_model(tmp_path, tie_word_embeddings=True)
    assert fillable(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    own = weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + 1}
    save_file(own, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert not fillable(tmp_path)


def test_what_keeps_numbers_elsewhere_is_opened_by_every_rank(tiny, tmp_path, monkeypatch):
    """A tensor that is neither parameter nor buffer would stay without numbers."""
    found = empty_causal(tiny)
    found.odd = torch.nn.Module()
    found.odd.table = torch.zeros(2)
    monkeypatch.setattr(loads, "outline", lambda folder: found)
    assert not fillable(tiny)
