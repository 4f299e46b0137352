"""One number per method, worked out by hand with scalars: what the papers' formulas give on two tiny answers."""

from __future__ import annotations

import math

import pytest
import torch

from kilter.batch import Batch, Outputs
from kilter.objectives import build_objective

# Chosen answer: two tokens. Rejected answer: three tokens. Reference sums -3.5 and -3.4.
W, L = (-1.0, -2.0), (-2.0, -1.5, -0.5)
LW, LL, RW, RL = -3.0, -4.0, -3.5, -3.4
DW, DL = LW - RW, LL - RL  # 0.5 and -0.6
MW, ML = LW / 2, LL / 3
Z = 0.1 * (DW - DL)


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def ls(x: float) -> float:
    return math.log(s(x))


def batch_of(rows, refs, groups, scores, kind=torch.float64, **fields) -> tuple[Batch, Outputs]:
    width = max(map(len, rows))
    fill = lambda values: torch.tensor([[*v, *[0.0] * (width - len(v))] for v in values], dtype=kind)
    mask = fill([[1.0] * len(r) for r in rows])
    ref = mask * (torch.tensor(refs, dtype=kind) / mask.sum(-1))[:, None]
    one, n = torch.ones((), dtype=kind), max(groups) + 1
    batch = Batch(
        prompts_N=tuple(torch.ones(1, dtype=torch.long) for _ in range(n)),
        tokens_BT=mask.long(),
        mask_BT=mask,
        length_B=mask.sum(-1).long(),
        group_B=torch.tensor(groups),
        score_B=torch.tensor(scores),
        margin_N=torch.zeros(n, dtype=kind),
        n_tokens_total=one,
        n_rows_total=one,
        n_groups_total=one,
        ref_logps_BT=ref,
        **fields,
    ).counted()
    return batch, Outputs(logps_BT=fill(rows), collision_BT=fill([[-1.5] * len(r) for r in rows]))


def value(config, batch, out) -> float:
    objective = build_objective(config)
    return float(objective.loss(out, objective.prepare(batch)).value)


odds = lambda m: m - math.log(1 - math.exp(m))
NLL = -LW / 2

PAIRS = [
    ("dpo", {}, -ls(Z)),
    ("dpo", {"label_smoothing": 0.2}, -0.8 * ls(Z) - 0.2 * ls(-Z)),
    ("robust_dpo", {"label_smoothing": 0.2}, (-0.8 * ls(Z) + 0.2 * ls(-Z)) / 0.6),
    ("ipo", {}, (DW / 2 - DL / 3 - 5) ** 2),
    ("ipo", {"length_normalized": False}, (DW - DL - 5) ** 2),
    ("hinge", {}, 1 - Z),
    ("slic", {"delta": 2.0, "nll_weight": 0.3}, 2 - (LW - LL) + 0.3 * NLL),
    ("simpo", {}, -ls(2 * MW - 2 * ML - 1)),
    (
        "alphapo",
        {"alpha": 0.25},
        -ls(2 * (1 - math.exp(-0.25 * MW)) / 0.25 - 2 * (1 - math.exp(-0.25 * ML)) / 0.25 - 1),
    ),
    ("alphapo", {"alpha": 0}, -ls(2 * MW - 2 * ML - 1)),
    ("orpo", {}, NLL - 0.1 * ls(odds(MW) - odds(ML))),
    ("cpo", {"alpha": 0.5}, -ls(0.1 * (LW - LL)) + 0.5 * NLL),
    ("r_dpo", {"alpha": 0.05}, -ls(Z + 0.05 * (2 - 3))),
    ("ld_dpo", {"ld_alpha": 0.5}, -ls(0.1 * (DW - ((-2 - 1.5 - 0.25) - (-3.4 / 3) * 2.5)))),
    ("f_dpo", {"divergence": "forward_kl"}, -ls(0.1 * (math.exp(-DL) - math.exp(-DW)))),
    (
        "f_dpo",
        {"divergence": "js"},
        -ls(0.1 * (math.log(2 / (1 + math.exp(-DW))) - math.log(2 / (1 + math.exp(-DL))))),
    ),
    (
        "f_dpo",
        {"divergence": "alpha", "alpha": 0.5},
        -ls(0.1 * ((1 - math.exp(-0.5 * DW)) / 0.5 - (1 - math.exp(-0.5 * DL)) / 0.5)),
    ),
    ("f_dpo", {"divergence": "chi2"}, -ls(0.1 * (math.exp(DW) + DW - math.exp(DL) - DL))),
    ("f_dpo", {"divergence": "reverse_kl"}, -ls(Z)),
    ("spl", {"beta": 0.2, "cross": 0.1}, -ls(0.2 * (LW - LL) - 0.1 * (RW - RL))),
    ("exo", {"label_smoothing": 0.1}, s(Z) * (ls(Z) - math.log(0.9)) + s(-Z) * (ls(-Z) - math.log(0.1))),
    ("nca", {}, -ls(0.05) - 0.5 * ls(-0.05) - 0.5 * ls(0.06)),
    ("apo_zero", {}, 1 - s(0.05) + s(-0.06)),
    ("apo_down", {}, s(0.05) + 1 - s(Z)),
    ("discopop", {}, -(1 - s(Z / 0.05)) * ls(Z) + s(Z / 0.05) * math.exp(-Z)),
    ("sppo_hard", {}, (DW - 5) ** 2 + (DL + 5) ** 2),
    ("wpo", {}, math.exp(MW + 1.5) * math.exp(ML + 1.5) * -ls(Z)),
    ("bco_pair", {}, -ls(0.05) - ls(0.06)),
    ("dpo", {"length_normalized": True}, -ls(0.1 * (DW / 2 - DL / 3))),
    ("aot", {}, -ls(Z)),
    ("aot_unpaired", {}, -ls(Z)),
    ("kldpo", {}, -ls(Z)),
    ("dr_dpo", {}, -ls(Z)),
]


@pytest.mark.parametrize(("name", "fields", "want"), PAIRS, ids=lambda v: str(v)[:24])
def test_pairwise(name, fields, want):
    batch, out = batch_of([W, L], [RW, RL], [0, 0], [1.0, 0.0])
    assert value({"name": name} | fields, batch, out) == pytest.approx(want, abs=1e-12)


def two_pairs():
    """A second pair on which the policy is wrong: D(w) = -2, D(l) = 1."""
    return batch_of([W, L, (-4.0,), (-1.0,)], [RW, RL, -2.0, -2.0], [0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0])


ONE, TWO = -ls(Z), -ls(0.1 * (-2 - 1))


def test_kldpo_weighs_the_worse_pair_more():
    batch, out = two_pairs()
    mean = (ONE + TWO) / 2
    p = [min(math.exp((x - mean) / 0.1), 2.0) for x in (ONE, TWO)]
    assert p[1] == 2.0 > p[0]  # the cap is in force
    assert value({"name": "kldpo", "tau": 0.1, "cap": 2.0}, batch, out) == pytest.approx(
        (p[0] * ONE + p[1] * TWO) / 2, abs=1e-12
    )


def test_dr_dpo_weighs_the_worse_pair_less():
    batch, out = two_pairs()
    want = -0.5 * math.log((math.exp(-ONE / 0.5) + math.exp(-TWO / 0.5)) / 2)
    assert value({"name": "dr_dpo", "b": 0.5}, batch, out) == pytest.approx(want, abs=1e-12)
    leaf = out.logps_BT.clone().requires_grad_()
    objective = build_objective({"name": "dr_dpo", "b": 0.5})
    objective.loss(Outputs(logps_BT=leaf), objective.prepare(batch)).value.backward()
    share = math.exp(-TWO / 0.5) / (math.exp(-ONE / 0.5) + math.exp(-TWO / 0.5))
    assert share < 0.5
    assert float(leaf.grad[2, 0]) == pytest.approx(share * -0.1 * s(0.3), abs=1e-12)


def test_aot_sorts_margins_and_aot_unpaired_sorts_sides():
    batch, out = two_pairs()
    policy, reference = sorted([LW - LL, -4 + 1.0]), sorted([RW - RL, 0.0])
    want = sum(-ls(0.1 * (a - b)) for a, b in zip(policy, reference)) / 2
    assert value("aot", batch, out) == pytest.approx(want, abs=1e-12)
    chosen, rejected = sorted([DW, -2.0]), sorted([DL, 1.0])
    want = sum(-ls(0.1 * (a - b)) for a, b in zip(chosen, rejected)) / 2
    assert value("aot_unpaired", batch, out) == pytest.approx(want, abs=1e-12)


def test_wdpo_penalty_and_its_second_derivative():
    """log p_t = a_t e_t + e_t^2 / 2 for a scalar embedding e: slope and curvature are known, so both derivatives are."""
    batch, out = batch_of([W, L], [RW, RL], [0, 0], [1.0, 0.0])
    e = torch.tensor([[0.3, -0.2, 0.0], [0.1, 0.4, -0.5]], dtype=torch.float64)[:, :, None].requires_grad_()
    a = torch.tensor([[1.0, -1.0, 0.0], [0.5, 2.0, 1.0]], dtype=torch.float64)
    mask = batch.mask_BT
    logps = (out.logps_BT + a * e[:, :, 0] + e[:, :, 0].square() / 2) * mask
    objective = build_objective({"name": "wdpo", "rho": 0.7})
    loss = objective.loss(Outputs(logps_BT=logps, embeddings_BLD=e), objective.prepare(batch)).value
    (grad,) = torch.autograd.grad(loss, e)

    def total(x):
        sums = [sum(float(v) for v in row) for row in (out.logps_BT + a * x + x.square() / 2) * mask]
        z = 0.1 * ((sums[0] - RW) - (sums[1] - RL))
        slope = [-0.1 * s(-z), 0.1 * s(-z)]  # d loss / d l(w), d loss / d l(l)
        square = sum(
            (slope[i] * float(a[i, t] + x[i, t])) ** 2 for i in (0, 1) for t in range(3) if mask[i, t]
        )
        return -ls(z) + 0.7 * square

    x = e.detach()[:, :, 0]
    assert float(loss.detach()) == pytest.approx(total(x), abs=1e-12)
    for i, t in ((0, 0), (1, 2)):
        up, down = x.clone(), x.clone()
        up[i, t] += 1e-5
        down[i, t] -= 1e-5
        assert float(grad[i, t, 0]) == pytest.approx((total(up) - total(down)) / 2e-5, abs=1e-9)


def judged(scores, **fields):
    return batch_of([W, L], [RW, RL], [0, 1], scores, **fields)


def test_kto():
    batch, out = judged([1.0, 0.0], extra={"mismatched_kl": torch.tensor(0.8, dtype=torch.float64)})
    config = {"name": "kto", "desirable_weight": 1.0, "undesirable_weight": 1.3}
    want = ((1 - s(0.05 - 0.08)) + 1.3 * (1 - s(0.08 + 0.06))) / 2
    assert value(config, batch, out) == pytest.approx(want, abs=1e-9)
    # The reference point is never below 0.
    below = batch.with_extra(mismatched_kl=torch.tensor(-3.0, dtype=torch.float64))
    assert value(config, below, out) == pytest.approx(((1 - s(0.05)) + 1.3 * (1 - s(0.06))) / 2, abs=1e-12)


def test_kto_balances_its_weights_from_the_data():
    from kilter.types import Completion, Feedback, Group, Prompt

    groups = [Group(Prompt(text=str(i)), (Completion("x"),), (Feedback(float(i < 3)),)) for i in range(12)]
    fitted, note = build_objective("kto").fit(groups)
    assert (fitted.desirable_weight, fitted.undesirable_weight) == (3.0, 1.0)
    assert "3 desirable" in note
    assert "weight 3" in note
    half, _ = build_objective({"name": "kto", "desirable_weight": 6.0}).fit(groups)
    assert (half.desirable_weight, half.undesirable_weight) == (
        6.0,
        2.0,
    )  # the other one follows: 3 * 6 = 9 * 2
    by_hand, note = build_objective({"name": "kto", "desirable_weight": 1.2, "undesirable_weight": 1.0}).fit(
        groups
    )
    assert by_hand.desirable_weight == 1.2
    assert "set by hand" in note


def test_bco_shift_is_the_running_mean():
    batch, out = judged([1.0, 0.0])
    objective = build_objective("bco")
    first = objective.loss(out, batch)
    delta = (0.05 - 0.06) / 2
    assert float(first.value) == pytest.approx((-ls(0.05 - delta) - ls(-(-0.06 - delta))) / 2, abs=1e-12)
    second = objective.loss(
        out,
        batch.with_(state={"bco_mean": torch.tensor(0.5).double(), "bco_count": torch.tensor(6.0).double()}),
    )
    delta = (0.5 * 6 + 0.05 - 0.06) / 8
    assert float(second.value) == pytest.approx((-ls(0.05 - delta) - ls(-(-0.06 - delta))) / 2, abs=1e-12)
    assert float(second.state["bco_count"]) == 8


def test_apo_zero_unpaired():
    batch, out = judged([1.0, 0.0])
    assert value("apo_zero_unpaired", batch, out) == pytest.approx((1 - s(0.05) + s(-0.06)) / 2, abs=1e-12)


def test_far_off_the_data_losses_stay_finite():
    """Log-ratios of hundreds of nats: what a first step on foreign text gives."""
    far_w, far_l = (-300.0, -400.0), (-2.0, -1.0)
    batch, out = batch_of([far_w, far_l], [-3.0, -900.0], [0, 0], [1.0, 0.0])
    for config in (
        "discopop",
        {"name": "discopop", "tau": 2.0},
        {"name": "alphapo", "alpha": 5.0},
        "f_dpo",
        {"name": "f_dpo", "divergence": "chi2"},
        "orpo",
        "exo",
    ):
        leaf = out.logps_BT.clone().requires_grad_()
        objective = build_objective(config)
        loss = objective.loss(Outputs(logps_BT=leaf), objective.prepare(batch)).value
        loss.backward()
        assert torch.isfinite(loss), config
        assert torch.isfinite(leaf.grad).all(), config


def test_lists_of_unequal_length_and_close_labels_have_finite_gradients():
    rows, refs = [W, L, W, L, (-1.0,)], [RW, RL, RW, RL, -2.0]
    batch, out = batch_of(rows, refs, [0, 0, 1, 1, 1], [-0.700, -0.705, 3.0, 2.0, 1.0])
    for name in ("lipo_lambda", "plackett_luce", "rrhf", "pro"):
        leaf = out.logps_BT.clone().requires_grad_()
        objective = build_objective(name)
        objective.loss(Outputs(logps_BT=leaf), objective.prepare(batch)).value.backward()
        assert torch.isfinite(leaf.grad).all(), name


def test_unlearning_without_anything_to_unlearn_is_zero():
    batch, out = judged([1.0, 1.0])
    assert math.isfinite(value({"mix": {"npo": 1, "sft": 0.5}}, batch, out))


def test_npo():
    batch, out = judged([0.0, 0.0])
    assert value("npo", batch, out) == pytest.approx(-20 * (ls(-0.05) + ls(0.06)) / 2, abs=1e-12)


def test_orm():
    batch, _ = judged([1.0, 0.0])
    found = value("orm", batch, Outputs(scores_B=torch.tensor([0.7, 1.2], dtype=torch.float64)))
    assert found == pytest.approx((-ls(0.7) - ls(-1.2)) / 2, abs=1e-12)


def ranked():
    """Three answers, labels 3, 1, 0; mean log-probs -1.5, -4/3, -1; implicit rewards 0.05, -0.06, 0.2."""
    return batch_of([W, L, (-1.0,)], [RW, RL, -3.0], [0, 0, 0], [3.0, 1.0, 0.0])


R3, M3 = (0.05, -0.06, 0.2), (MW, ML, -1.0)


def test_plackett_luce():
    batch, out = ranked()
    e = [math.exp(x) for x in R3]
    want = -math.log(e[0] / sum(e)) - math.log(e[1] / (e[1] + e[2]))
    assert value("plackett_luce", batch, out) == pytest.approx(want, abs=1e-12)
    scores = Outputs(scores_B=torch.tensor(R3, dtype=torch.float64))
    assert value({"name": "plackett_luce", "model": "reward"}, batch, scores) == pytest.approx(
        want, abs=1e-12
    )


def test_plackett_luce_of_two_is_dpo():
    batch, out = batch_of([W, L], [RW, RL], [0, 0], [1.0, 0.0])
    assert value("plackett_luce", batch, out) == pytest.approx(value("dpo", batch, out), abs=1e-12)


def test_lipo_lambda():
    batch, out = ranked()
    gain = [2**g - 1 for g in (1.0, 1 / 3, 0.0)]
    discount = [1 / math.log2(1 + t) for t in (2, 3, 1)]  # ranks by the present scores 0.05, -0.06, 0.2
    want = sum(
        abs(gain[i] - gain[j]) * abs(discount[i] - discount[j]) * math.log(1 + math.exp(R3[j] - R3[i]))
        for i, j in ((0, 1), (0, 2), (1, 2))
    )
    assert value("lipo_lambda", batch, out) == pytest.approx(want, abs=1e-12)


def test_rrhf():
    batch, out = ranked()
    want = sum(max(0.0, M3[j] - M3[i]) for i, j in ((0, 1), (0, 2), (1, 2))) + 0.5 * NLL
    assert value({"name": "rrhf", "nll_weight": 0.5}, batch, out) == pytest.approx(want, abs=1e-12)


def test_pro():
    batch, out = ranked()
    first = [M3[0] * 3, M3[1] * 2, M3[2] * 3]  # T: 3 - 1 = 2, 3 - 0 = 3, own the larger
    second = [M3[1] * 1, M3[2] * 1]
    want = sum(math.log(sum(map(math.exp, x))) - x[0] for x in (first, second)) + 0.05 * NLL
    assert value("pro", batch, out) == pytest.approx(want, abs=1e-12)


def test_dft():
    batch, out = batch_of([W], [RW], [0], [1.0])
    assert value("dft", batch, out) == pytest.approx((math.exp(-1) * 1 + math.exp(-2) * 2) / 2, abs=1e-12)
    leaf = out.logps_BT.clone().requires_grad_()
    objective = build_objective("dft")
    objective.loss(Outputs(logps_BT=leaf), objective.prepare(batch)).value.backward()
    torch.testing.assert_close(
        leaf.grad, -torch.tensor([[math.exp(-1), math.exp(-2)]], dtype=torch.float64) / 2
    )


def test_unlearning_mixed_with_retention_sees_each_label_once():
    """npo on the answer judged bad, sft on the one judged good; each divided by its own count."""
    batch, out = judged([1.0, 0.0])
    assert value({"mix": {"npo": 1, "sft": 0.5}}, batch, out) == pytest.approx(
        -20 * ls(0.06) + 0.5 * NLL, abs=1e-12
    )


def test_mixture_is_the_weighted_sum():
    batch, out = batch_of([W, L], [RW, RL], [0, 0], [1.0, 0.0])
    assert value({"mix": {"dpo": 2, "sft": 0.1}}, batch, out) == pytest.approx(
        -2 * ls(Z) + 0.1 * NLL, abs=1e-12
    )


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"dpo": 1, "kto": 1}, "different data"),
        ({"dpo": 1, "bradley_terry": 1}, "different models"),
        ({"dpo": 0}, "weight above 0"),
        ({"dpo": 1, "grpo": 1}, "different data"),
        ({"wdpo": 1, "dr_dpo": 1}, "forward of its own"),
        ({"wdpo": 1, "wpo": 1}, "forward of its own"),
        ([], "mapping"),
    ],
)
def test_mixtures_without_meaning_are_refused(mix, message):
    with pytest.raises(ValueError, match=message):
        build_objective({"mix": mix})
