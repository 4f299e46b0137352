"""Credit over several ranks: from a few numbers of each rank as from all rows in one process."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.batch import joint_moments, moments
from kilter.objectives import build_objective, contract, objectives
from kilter.training.prepare import prepared

VARIANTS = [
    {"name": "grpo", "scale": "batch"},
    {"name": "grpo", "scale": "batch", "population": True},
    {"name": "grpo", "beta": 0.1, "kl_in": "reward"},
    {"name": "rloo", "normalize": True},
    {"name": "reinforce", "baseline": "none"},
    {"name": "reinforce_pp", "baseline": True},
    {"name": "reinforce_pp", "beta": 0.0},
    {"name": "ppo", "whiten": False},
    {"name": "ppo", "missing_eos_penalty": 0.5, "gamma": 0.9},
    {"name": "vespo", "scale": "batch"},
]
ROLLOUTS = [name for name in objectives.names() if build_objective(name).needs.shape == "rollouts"]


class Ranks:
    """One rank of several threads that count what they send."""

    def __init__(self, rank, world, table, barrier):
        self.rank, self.world, self.table, self.barrier = rank, world, table, barrier
        self.sent = 0

    def gather(self, value):
        self.sent += 1
        self.table[self.rank] = value
        self.barrier.wait(10)
        found = [self.table[r] for r in range(self.world)]
        self.barrier.wait(10)
        return found


def over_ranks(objective, batch, world):
    """Each rank's batch, its groups dealt out in turn, and the collectives that a rank took part in."""
    table, barrier, found = {}, threading.Barrier(world), {}

    def work(rank):
        engine = Ranks(rank, world, table, barrier)
        try:
            own = batch.select_groups(range(rank, batch.groups(), world))
            found[rank] = (prepared(own, objective, engine), engine.sent)
        except BaseException as error:
            found[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for value in found.values():
        if isinstance(value, BaseException) and not isinstance(value, threading.BrokenBarrierError):
            raise value
    return [found[rank] for rank in range(world)]


def unprepared(objective, groups, unscored):
    """A batch of float32, as in training, some rows of it unscored, all scores of a group equal."""
    batch, _ = contract.example(objective, seed=groups, groups=groups)
    score_B = batch.score_B.clone()
    score_B[batch.group_B == 0] = 0.7
    score_B[unscored] = float("nan")
    float_ = {
        name: value.float() for name in contract.ANNOTATIONS if (value := getattr(batch, name)) is not None
    }
    cleared = dict.fromkeys(contract.CREDIT)
    return batch.with_(score_B=score_B, mask_BT=batch.mask_BT.float(), **float_, **cleared)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("config", [*ROLLOUTS, *VARIANTS], ids=str)
def test_several_ranks_give_the_credit_of_one(config, world):
    objective = build_objective(config)
    # With two groups the third rank has none.
    for groups, unscored in ((5, [4]), (2, [1, 2])):
        batch = unprepared(objective, groups, unscored)
        whole = objective.prepare(batch)
        for rank, (own, sent) in enumerate(over_ranks(objective, batch, world)):
            wanted = whole.select_groups(range(rank, groups, world))
            assert own.groups() == wanted.groups()
            assert sent <= len(objective.needs.moments)
            for name in contract.CREDIT if own.groups() else ():
                a, b = getattr(own, name), getattr(wanted, name)
                assert (a is None) == (b is None), name
                if a is not None:
                    assert a.dtype == b.dtype
                    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6, msg=name)


class Whitened:
    """A method of one's own that says nothing of what it reads, and reads all rows."""

    needs = build_objective("grpo").needs

    def __init__(self):
        from dataclasses import replace

        self.needs = replace(self.needs, moments=None)

    def prepare(self, batch):
        assert batch.groups() == 5
        return batch.with_(advantage_BT=batch.mask_BT * batch.score_B.nan_to_num().median())


def test_a_method_that_declares_nothing_gets_all_rows():
    grpo = build_objective("grpo")
    batch = unprepared(grpo, 5, [4])
    whole = Whitened().prepare(batch)
    for rank, (own, sent) in enumerate(over_ranks(Whitened(), batch, 3)):
        assert sent == 1
        assert torch.equal(own.advantage_BT, whole.select_groups(range(rank, 5, 3)).advantage_BT)


def test_the_contract_finds_a_method_that_reads_more_than_it_declares(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text('''
from dataclasses import dataclass
from kilter.objectives.rl.grpo import GRPO

@dataclass(frozen=True)
class Mine(GRPO):
    """L = mine. Paper: none."""

    def credit(self, score_B, batch):
        return score_B - score_B.median()
''')
    found = dict(contract.run_contract(f"{path}:Mine"))
    assert "name in Needs.moments what prepare reads of other groups" in found["ranks_prepare_alike"]


def test_the_table_says_what_each_method_sends():
    page = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
    rows = re.search(r"\| sent in a step .*?\n\n", page + "\n\n", re.S)[0].splitlines()[2:]
    local, few, _ = ([name.strip() for name in re.split(r"[,;]", row.split("|")[2])] for row in rows[:3])
    assert {n for n in ROLLOUTS if build_objective(n).needs.moments == {}} == set(local) & set(ROLLOUTS)
    assert {n for n in ROLLOUTS if build_objective(n).needs.moments} == set(few) & set(ROLLOUTS)


values = st.lists(st.floats(-1e3, 1e3, width=32), max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.lists(values, min_size=1, max_size=4), st.sampled_from([0.0, 1e6]))
def test_moments_of_parts_are_those_of_the_whole(parts, shift):
    tensors = [torch.tensor(p, dtype=torch.float64) + shift for p in parts]
    joint, whole = joint_moments([moments(t) for t in tensors]), moments(torch.cat(tensors))
    torch.testing.assert_close(joint, whole, atol=1e-6, rtol=1e-9)


def test_equal_values_keep_their_mean_exactly():
    for value in (0.1, 1 / 3, 7e5 + 0.1):
        parts = [moments(torch.full((n,), value)) for n in (3, 0, 7, 1)]
        count, mean, variance = joint_moments(parts).tolist()
        assert (count, mean, variance) == (11, float(torch.tensor(value)), 0.0)
