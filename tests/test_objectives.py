"""The contract on every registered objective, and golden numbers worked out by hand; tests/test_trl_parity.py compares with TRL's own code."""

from __future__ import annotations

import math

import pytest
import torch

from kilter.batch import Batch, Outputs
from kilter.errors import UserError
from kilter.objectives import DPO, SFT, BradleyTerry, build_objective, contract, objectives

NAMES = objectives.names()
VARIANTS = [
    {"name": "dpo", "label_smoothing": 0.1},
    {"name": "ipo", "length_normalized": False},
    {"name": "f_dpo", "divergence": "js"},
    {"name": "f_dpo", "divergence": "alpha"},
    {"name": "f_dpo", "divergence": "chi2"},
    {"name": "ld_dpo", "ld_alpha": 0.0},
    {"name": "aot", "label_smoothing": 0.1},
    {"name": "plackett_luce", "model": "reward"},
    {"name": "pro", "by_label": False},
    {"name": "distill", "beta": 0.0},
    {"mix": {"dpo": 1, "sft": 0.1}},
    {"mix": {"hinge": 0.5, "simpo": {"weight": 2, "gamma": 0.5}, "dft": 0.3}},
    {"mix": {"kldpo": 1, "sft": 0.5}},
    {"mix": {"npo": 1, "kto": 0.5}},
    {"mix": {"npo": 1, "sft": 0.5}},
    {"mix": {"plackett_luce": 1, "sft": 0.2}},
    {"name": "grpo", "beta": 0.04, "entropy_coef": 0.01, "loss_aggregation": "token"},
    {"name": "grpo", "beta": 0.04, "dual_clip": 3.0, "scale": "batch"},
    {"name": "gspo", "clip_low": 0.2, "clip_high": 0.2},
    {"name": "luspo", "clip_low": 0.2, "clip_high": 0.2},
    {"name": "reinforce_pp", "baseline": True},
    {"name": "online_dpo", "labels": "soft"},
]


@pytest.mark.parametrize("check", contract.CHECKS)
@pytest.mark.parametrize("config", NAMES, ids=str)
def test_contract(config, check):
    contract.CHECKS[check](build_objective(config))


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_contract_of_variants(config):
    """Other settings and mixtures; a mixture's formula and fields are its parts'."""
    objective = build_objective(config)
    mixture = "mix" in config
    for name, check in contract.CHECKS.items():
        if not (
            mixture
            and (
                name == "documented"
                or (name == "gradient_is_the_slope" and any(k in str(config) for k in ("kldpo", "dft")))
            )
        ):
            check(objective)


def test_the_contract_finds_what_is_wrong(tmp_path):
    """A method with three mistakes: an average over the micro-batch, padding that is read, a field without meaning."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom kilter.objectives import DPO\nfrom kilter.batch import Loss\n"
        "@dataclass(frozen=True)\nclass Mine(DPO):\n    extra: float = 1.0\n"
        "    def loss(self, out, batch):\n        return Loss(out.logps_BT.mean())\n"
    )
    found = dict(contract.run_contract(f"{path}:Mine"))
    assert "no formula" in found["documented"]
    assert "n_*_total" in found["microbatches_add_up"]
    assert "masked" in found["padding_does_not_matter"]
    assert found["same_from_its_fields"] == ""


def test_adding_hinge_took_under_15_lines():
    """What hinge needs beyond its docstring: the claim that a relative of DPO is a formula, kept true."""
    import inspect

    from kilter.objectives.pairs import hinge

    text = inspect.getsource(hinge)
    code = [
        line
        for line in text.replace(hinge.Hinge.__doc__, "").splitlines()
        if line.strip() and not line.strip().startswith('"""')
    ]
    assert len(code) < 15, code


def test_no_objective_file_is_long():
    from pathlib import Path

    import kilter.objectives as package

    sizes = {p: len(p.read_text().splitlines()) for p in Path(package.__file__).parent.glob("*/*.py")}
    assert max(sizes.values()) <= 170, max(sizes, key=sizes.get)


def pair(policy, reference, objective):
    """One pair whose completions are one token long."""
    one = torch.ones((), dtype=torch.float64)
    batch = Batch(
        prompts_N=(torch.ones(1, dtype=torch.long),),
        tokens_BT=torch.zeros(2, 1, dtype=torch.long),
        mask_BT=torch.ones(2, 1, dtype=torch.float64),
        length_B=torch.ones(2, dtype=torch.long),
        group_B=torch.zeros(2, dtype=torch.long),
        score_B=torch.tensor([1.0, 0.0]),
        margin_N=torch.zeros(1, dtype=torch.float64),
        n_tokens_total=one * 2,
        n_rows_total=one * 2,
        n_groups_total=one,
        ref_logps_BT=torch.tensor(reference, dtype=torch.float64)[:, None],
    )
    return objective.prepare(batch), torch.tensor(policy, dtype=torch.float64)


@pytest.mark.parametrize(
    ("policy", "reference", "margin", "loss"),
    [((-8.2, -9.5), (-8.5, -9.1), 0.7, 0.659), ((-6.2, -7.8), (-6.5, -7.1), 1.0, 0.644)],
)
def test_dpo_golden(policy, reference, margin, loss):
    batch, logps = pair(policy, reference, DPO(beta=0.1))
    found = DPO(beta=0.1).loss(Outputs(logps_BT=logps[:, None]), batch)
    assert float(found.metrics["rewards/margins"].total) == pytest.approx(0.1 * margin, abs=1e-6)
    assert float(found.value) == pytest.approx(loss, abs=5e-4)


def test_dpo_slope_at_initialisation_and_at_logit_two():
    for z, value, slope in ((0.0, math.log(2), -0.5), (2.0, 0.127, -0.119)):
        batch, _ = pair((0, 0), (0, 0), DPO(beta=1.0))
        logps = torch.tensor([[z], [0.0]], dtype=torch.float64, requires_grad=True)
        loss = DPO(beta=1.0).loss(Outputs(logps_BT=logps), batch).value
        loss.backward()
        assert float(loss.detach()) == pytest.approx(value, abs=5e-4)
        assert float(logps.grad[0, 0]) == pytest.approx(slope, abs=5e-4)


def test_dpo_label_smoothing_by_hand():
    batch, logps = pair((-1.0, -2.0), (-1.5, -1.0), DPO(beta=0.5, label_smoothing=0.1))
    z = 0.5 * ((-1.0 + 1.5) - (-2.0 + 1.0))
    want = -0.9 * math.log(1 / (1 + math.exp(-z))) - 0.1 * math.log(1 / (1 + math.exp(z)))
    assert float(
        DPO(beta=0.5, label_smoothing=0.1).loss(Outputs(logps_BT=logps[:, None]), batch).value
    ) == pytest.approx(want, abs=1e-12)


def test_bradley_terry_golden():
    """r 2.0 against 0.5: p 0.818, negative log-likelihood 0.201."""
    batch, _ = pair((0, 0), (0, 0), BradleyTerry(centring=0.0))
    scores = torch.tensor([2.0, 0.5], dtype=torch.float64)
    loss = float(BradleyTerry(centring=0.0).loss(Outputs(scores_B=scores), batch).value)
    assert loss == pytest.approx(0.2014, abs=5e-5)
    assert math.exp(-loss) == pytest.approx(0.8176, abs=5e-5)
    centred = float(BradleyTerry(centring=0.01).loss(Outputs(scores_B=scores), batch).value)
    assert centred - loss == pytest.approx(0.01 * 2.5**2, abs=1e-12)


def test_bradley_terry_margin():
    batch, _ = pair((0, 0), (0, 0), BradleyTerry(centring=0.0))
    batch = batch.with_(margin_N=torch.tensor([1.5], dtype=torch.float64))
    loss = (
        BradleyTerry(centring=0.0)
        .loss(Outputs(scores_B=torch.tensor([2.0, 0.5], dtype=torch.float64)), batch)
        .value
    )
    assert float(loss) == pytest.approx(math.log(2), abs=1e-12)


def test_sft_normalisations_by_hand():
    """Rows of 1 and 3 tokens with nll 1 each and 2 each: token mean 7/4, mean of row means 3/2."""
    one = torch.ones((), dtype=torch.float64)
    mask = torch.tensor([[1.0, 0, 0], [1, 1, 1]], dtype=torch.float64)
    batch = Batch(
        prompts_N=(torch.ones(1), torch.ones(1)),
        tokens_BT=torch.zeros(2, 3, dtype=torch.long),
        mask_BT=mask,
        length_B=torch.tensor([1, 3]),
        group_B=torch.tensor([0, 1]),
        score_B=torch.zeros(2),
        margin_N=torch.zeros(2),
        n_tokens_total=one * 4,
        n_rows_total=one * 2,
        n_groups_total=one * 2,
    )
    logps = torch.tensor([[-1.0, 0, 0], [-2, -2, -2]], dtype=torch.float64)
    assert float(SFT().loss(Outputs(logps_BT=logps), SFT().prepare(batch)).value) == pytest.approx(1.75)
    by_row = SFT(normalize="sequence")
    assert float(by_row.loss(Outputs(logps_BT=logps), by_row.prepare(batch)).value) == pytest.approx(1.5)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "dpo", "beta": -1},
        {"name": "dpo", "beta": 0},
        {"name": "dpo", "label_smoothing": 0.6},
        {"name": "sft", "normalize": "words"},
        {"name": "bradley_terry", "centring": -1},
    ],
)
def test_values_without_meaning_are_refused(config):
    with pytest.raises(UserError, match="Fix:"):
        build_objective(config)


def test_unknown_field_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'beta'"):
        build_objective({"name": "dpo", "betta": 0.1})


def test_a_mixture_reads_pairs_in_one_way():
    with pytest.raises(UserError, match="two ways"):
        build_objective({"mix": {"bradley_terry": 1, "pairwise_preference": 1}})
    with pytest.raises(UserError, match="finite weight"):
        build_objective({"mix": {"dpo": float("inf")}})


@pytest.mark.parametrize(
    ("given", "good", "bad", "want"),
    [
        ({}, 6, 2, (1.0, 3.0)),
        ({"desirable_weight": 3.0, "undesirable_weight": 2.0}, 4, 0, (3.0, 2.0)),
        ({"desirable_weight": 2.0}, 6, 2, (2.0, 6.0)),
        ({"undesirable_weight": 3.0}, 6, 2, (1.0, 3.0)),
        ({"desirable_weight": 2.0}, 4, 0, (2.0, 1.0)),
        ({"undesirable_weight": 3.0}, 4, 0, (1.0, 3.0)),
    ],
)
def test_ktos_weights_by_hand_hold_whatever_the_data(given, good, bad, want):
    from kilter.types import Completion, Feedback, Group, Prompt

    groups = [
        Group(Prompt(text="q"), (Completion("a"),), (Feedback(float(i < good)),)) for i in range(good + bad)
    ]
    fitted, note = build_objective({"name": "kto"} | given).fit(groups)
    assert (fitted.desirable_weight, fitted.undesirable_weight) == want
    assert ("by hand" in note) == bool(given)
