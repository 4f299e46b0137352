"""FSDP2 over real processes: groups that share a copy, gathers in bfloat16, and training on fresh answers."""

from __future__ import annotations

import itertools
import json
import os
import time

import pytest
import torch

from conftest import pair_rows
from kilter.artifacts import write_text
from kilter.cli.options import collect, options_of
from kilter.data import store
from kilter.data.dataset import DataSpec, load
from kilter.errors import UserError
from kilter.models.load import load_causal
from kilter.training.checks import check_train
from kilter.training.config import FsdpSpec, TrainSpec
from kilter.training.hooks.heldout import HeldOut
from kilter.training.parallel.choose import make_engine
from kilter.training.trainer import Trainer
from processes import ranks
from test_ranks import PROMPTS, SPARSE, online, same

DPO = {
    "method": "dpo",
    "learning_rate": 1e-3,
    "batch_size": 6,
    "warmup_ratio": 0.0,
    "tokens_per_microbatch": 120,
    "max_steps": 4,
    "save_every": 2,
}
BFLOAT16 = DPO | {"dtype": "bfloat16", "max_steps": 3, "save_every": 100}
GATHERS = ("bfloat16", "float32")
WATCHED = {"gold": {"regex": "[a-m]"}, "gold_every": 1, "gold_prompts": 4}
QUIET = {"stop": False, "allow_truncation": True, "pin": False}
ONLINE = {
    "grpo": ({"name": "grpo", "beta": 0.1}, {"monitors": QUIET | WATCHED, "refresh_reference_every": 2}),
    "ppo": ("ppo", {"inner_epochs": 2}),
    "rloo": ("rloo", {"adapter": {"r": 2, "dropout": 0.0}}),
}
"""With a reference that moves and the best weights kept; with a critic; with the base as the reference."""

SEVERAL = [("grpo", "ddp"), ("ppo", "ddp"), ("grpo", "fsdp"), ("ppo", "fsdp"), ("rloo", "fsdp")]


def fixed(tiny, data, out, changes):
    groups = load(DataSpec(path=str(data), heldout=0.2), "pairs")
    Trainer(TrainSpec.model_validate(changes), tiny, groups.train, groups.heldout, out).run()


def in_four(tiny, data, folder):
    """Two groups of two; then step 3 and 4 again from their checkpoint, cut anew for one group of four."""
    fixed(tiny, data, folder / "copies", DPO | {"fsdp": {"shard": 2}})
    assert (folder / "copies" / "checkpoints").is_dir()
    fixed(tiny, data, folder / "copies", DPO | {"fsdp": True})


EARLY = {
    "method": "sft",
    "learning_rate": 0.1,
    "schedule": "constant",
    "batch_size": 4,
    "warmup_ratio": 0.0,
    "eval_every": 1,
    "max_steps": 8,
    "early_stopping": {"patience": 2},
}
"""Learns, then jumps about: the rate is too high."""


def early(tiny, data, out, **how):
    """On the second of two processes every evaluation says that it goes on getting better."""
    groups = load(DataSpec(path=str(data), heldout=0.34, seed=1), "pairs")
    spec = TrainSpec.model_validate(EARLY | how)
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("RANK") == "1":
            evaluate, count = HeldOut.evaluate, itertools.count()
            wrong = lambda hook: evaluate(hook) | {"eval_loss": 9.0 - next(count)}
            patch.setattr(HeldOut, "evaluate", wrong)
        made = Trainer(spec, tiny, groups.train, groups.heldout, out).run()
    # Which of them writes does not matter: they have to say the same.
    write_text(out / f"end-{os.environ.get('RANK', '0')}.json", json.dumps([made.steps, made.best_step]))


def in_two(tiny, data, folder):
    early(tiny, data, folder / "early", fsdp=True)
    for gathers in GATHERS:
        fixed(tiny, data, folder / gathers, BFLOAT16 | {"fsdp": {"gathers": gathers}})
    for name, how in SEVERAL:
        answered(tiny, folder / f"{name}-{how}", name, fsdp=how == "fsdp")


def answered(tiny, out, name, fsdp=False):
    """On fresh answers; in two of three steps all answers of one rank score alike, or have no score."""
    rewards = out.parent / "rewards.py"
    if int(os.environ.get("RANK", "0")) == 0:
        write_text(rewards, SPARSE, shared=True)
    while not rewards.exists():
        time.sleep(0.01)
    feedback = {f"{rewards}:Sparse": {"solvable": ["Say b", "Say c", "Say e"], "broken": ["Say f"]}}
    method, changes = ONLINE[name]
    spec = online(method, feedback, batch_size=2, fsdp=fsdp, **changes)
    Trainer(spec, tiny, PROMPTS, PROMPTS[:4], out, name="run").run()


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in pair_rows(24)))
    return path


def test_groups_with_a_copy_each_match_one_process(tmp_path, tiny, data):
    ranks(4, in_four, tiny, data, tmp_path)
    fixed(tiny, data, tmp_path / "one", DPO)
    want, got = lines(tmp_path / "one"), lines(tmp_path / "copies")
    assert [r["step"] for r in got] == [1, 2, 3, 4]
    for a, b in zip(want, got, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
    weights = [load_causal(tmp_path / name / "model").state_dict() for name in ("one", "copies")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny, data):
    """Folder of what two processes left, a folder per run."""
    folder = tmp_path_factory.mktemp("two")
    ranks(2, in_two, tiny, data, folder)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory, tiny):
    """Gives the folder of an online run in this process, each trained once."""
    folder, done = tmp_path_factory.mktemp("one"), set()

    def run(name):
        if name not in done:
            answered(tiny, folder / name, name)
            done.add(name)
        return folder / name

    return run


def test_weights_travel_in_the_precision_that_is_asked_for(tmp_path, tiny, data, two):
    """Both train as one process does, up to bfloat16; norms, which autocast keeps wide, are rounded by one alone."""
    fixed(tiny, data, tmp_path, BFLOAT16)
    want, narrow, wide = ([r["loss"] for r in lines(p)] for p in (tmp_path, *(two / n for n in GATHERS)))
    assert wide == pytest.approx(want, abs=2e-3)
    assert narrow == pytest.approx(want, abs=5e-3)
    assert narrow != wide


def ends_like(one, several):
    """Two processes stopped early where one does, and put the same weights back."""
    want = json.loads((one / "end-0.json").read_text())
    assert 0 < want[1] < want[0] < EARLY["max_steps"]
    assert [json.loads((several / f"end-{rank}.json").read_text()) for rank in (0, 1)] == [want] * 2
    weights = [load_causal(folder / "model").state_dict() for folder in (one, several)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-3, rtol=1e-2)


def test_the_best_weights_of_shards_are_put_back_and_all_processes_end_together(tmp_path, tiny, data, two):
    early(tiny, data, tmp_path)
    ends_like(tmp_path, two / "early")


def early_zero(tiny, data, folder, stage):
    early(tiny, data, folder, zero=stage)


@pytest.mark.parametrize("stage", [1, 2])
def test_the_best_weights_under_zero_are_put_back_as_well(tmp_path, tiny, data, stage):
    pytest.importorskip("deepspeed")
    early(tiny, data, tmp_path / "one")
    ranks(2, early_zero, tiny, data, tmp_path / "two", stage)
    ends_like(tmp_path / "one", tmp_path / "two")


def alike(one, several):
    """Tokens are equal; loss, gradient and reward to 1e-4, the rest as with threads."""
    same(one, several)
    for a, b in zip(lines(one), lines(several), strict=True):
        for key in ("loss", "grad_norm", "reward"):
            assert b[key] == pytest.approx(a[key], abs=1e-4), (a["step"], key)
    tokens = [
        [[c.token_ids for c in g.completions] for g in store.read(out / "groups.jsonl")]
        for out in (one, several)
    ]
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_idle_rank(one, two, name):
    """A rank whose groups all score equal goes on with the other, and changes no number."""
    alike(one(name), two / f"{name}-ddp")


@pytest.mark.parametrize("name", ["grpo", "ppo", "rloo"])
def test_sharded_weights_answer_as_whole_ones(one, two, name):
    """The best weights, the reference and held-out answers included."""
    alike(one(name), two / f"{name}-fsdp")
    for extra in ("gold.jsonl", "events.jsonl"):
        texts = [
            p.read_text() if p.exists() else "" for p in (one(name) / extra, two / f"{name}-fsdp" / extra)
        ]
        assert texts[0] == texts[1]


REFUSED = [
    ({"fsdp": {"shard": 3}, "processes": 4}, "fsdp.shard", "does not divide the 4 processes"),
    ({"fsdp": {"gathers": "bfloat16"}, "processes": 2}, "fsdp.gathers", "with activations in float32"),
]


@pytest.mark.parametrize(("changes", "field", "problem"), REFUSED, ids=lambda v: str(v)[:20])
def test_what_cannot_be_divided_is_refused_before_anything_is_loaded(changes, field, problem):
    with pytest.raises(UserError, match=problem) as refused:
        check_train(TrainSpec.model_validate(DPO | changes))
    assert refused.value.field.endswith(field)


def test_processes_that_somebody_else_started_divide_evenly_too(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="does not divide the 3 processes"):
        make_engine("auto", FsdpSpec(shard=2))


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ({}, None),
        ({"fsdp": True}, FsdpSpec()),
        ({"fsdp": False}, None),
        ({"fsdp": True, "fsdp__shard": 8}, FsdpSpec(shard=8)),
        ({"fsdp__shard": 4, "fsdp__gathers": "float32"}, FsdpSpec(shard=4, gathers="float32")),
    ],
    ids=str,
)
def test_a_switch_that_says_more(typed, wanted):
    """--fsdp turns it on, --fsdp.shard says how."""
    found = collect(list(options_of(TrainSpec)), typed)
    assert TrainSpec.model_validate({"method": "dpo"} | found).fsdp == wanted


def test_a_part_of_what_is_switched_off_is_refused():
    with pytest.raises(UserError, match="switched off"):
        collect(list(options_of(TrainSpec)), {"fsdp": False, "fsdp__shard": 8})
