"""One contract suite over every registered objective, golden numbers by hand; parity with TRL's trainer is bench/parity.py."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from kilter.errors import UserError
from kilter.objectives import DPO, SFT, BradleyTerry, build_objective, objectives
from kilter.types import Batch, Outputs

NAMES = objectives.names()


def make_batch(objective, n=5, seed=0, dtype=torch.float64) -> tuple[Batch, dict[str, torch.Tensor]]:
    """A random prepared batch of the shape the objective wants, and leaf outputs for it."""
    g = torch.Generator().manual_seed(seed)
    rollouts = objective.needs.shape == "rollouts"
    k = 2 if objective.needs.unit == "group" else 3 if rollouts else 1
    length = torch.randint(2, 7, (n * k,), generator=g)
    width = int(length.max())
    mask = (torch.arange(width)[None] < length[:, None]).to(dtype)
    one = torch.ones((), dtype=dtype)
    batch = Batch(
        prompts_N=tuple(torch.ones(2, dtype=torch.long) for _ in range(n)), tokens_BT=torch.zeros(n * k, width, dtype=torch.long), mask_BT=mask,
        length_B=length, group_B=torch.arange(n).repeat_interleave(k), score_B=torch.randn(n * k, generator=g) if rollouts else torch.tensor([1.0, 0.0] * n)[: n * k],
        margin_N=torch.rand(n, generator=g, dtype=dtype), n_tokens_total=mask.sum(), n_rows_total=one * n * k, n_groups_total=one * n,
        ref_logps_BT=-torch.rand(n * k, width, generator=g, dtype=dtype) * mask,
    )  # fmt: skip
    out = {
        "logps": -torch.rand(n * k, width, generator=g, dtype=dtype), "scores": torch.randn(n * k, generator=g, dtype=dtype),
        "values": torch.randn(n * k, width, generator=g, dtype=dtype), "entropy": torch.rand(n * k, width, generator=g, dtype=dtype),
    }  # fmt: skip
    if rollouts:  # an off-policy batch: old log-probs and values near the present ones, so that clips act on some tokens only
        batch = batch.with_(
            old_logps_BT=(out["logps"] + 0.2 * torch.randn(n * k, width, generator=g, dtype=dtype)) * mask, truncated_B=torch.zeros(n * k), length_limit=7,
            old_values_BT=(out["values"] + 0.2 * torch.randn(n * k, width, generator=g, dtype=dtype)) * mask, baseline_N=torch.randn(n, generator=g, dtype=dtype),
        )  # fmt: skip
    return objective.prepare(batch), out


def outputs(objective, raw) -> Outputs:
    wanted = {"logps": "logps_BT", "scores": "scores_B", "values": "values_BT", "entropy": "entropy_BT"}
    return Outputs(**{field: raw[name] for name, field in wanted.items() if name in objective.needs.outputs})


def slice_outputs(out: Outputs, batch: Batch, part: list[int]) -> Outputs:
    keep = torch.cat([(batch.group_B == i).nonzero()[:, 0] for i in part])
    width = int(batch.length_B[keep].max())
    cut = lambda t: None if t is None else t[keep, :width] if t.ndim == 2 else t[keep]
    return Outputs(logps_BT=cut(out.logps_BT), scores_B=cut(out.scores_B), values_BT=cut(out.values_BT), entropy_BT=cut(out.entropy_BT))


EXTRA = [
    {"name": "grpo", "beta": 0.04, "entropy_coef": 0.01, "loss_aggregation": "token"},
    {"name": "grpo", "beta": 0.04, "kl_estimator": "k3_st", "dual_clip": 3.0, "scale": "batch"},
    {"name": "gspo", "clip_low": 0.2, "clip_high": 0.2},
    {"name": "reinforce_pp", "baseline": True},
    {"name": "online_dpo", "labels": "soft"},
]


@pytest.fixture(params=[*NAMES, *EXTRA], ids=str)
def objective(request):
    return build_objective(request.param)


def test_is_a_frozen_dataclass_with_a_documented_formula(objective):
    assert dataclasses.is_dataclass(objective)
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.anything = 1
    text = type(objective).__doc__ or ""
    assert "L = " in text
    assert "Paper" in text
    for field in dataclasses.fields(objective):
        assert field.name in text, f"field {field.name} is not documented"


def test_microbatches_add_up(objective):
    batch, raw = make_batch(objective)
    out = outputs(objective, raw)
    whole = objective.loss(out, batch)
    for cut in (1, 2, 4):
        parts = [list(range(i, min(i + cut, 5))) for i in range(0, 5, cut)]
        losses = [objective.loss(slice_outputs(out, batch, p), batch.select_groups(p)) for p in parts]
        torch.testing.assert_close(sum(x.value for x in losses), whole.value, atol=1e-12, rtol=1e-12)
        for name, mean in whole.metrics.items():
            total = sum(x.metrics[name].total for x in losses) / sum(x.metrics[name].weight for x in losses)
            torch.testing.assert_close(total, mean.total / mean.weight, atol=1e-6, rtol=1e-5)


def test_group_permutation_does_not_matter(objective):
    batch, raw = make_batch(objective)
    out = outputs(objective, raw)
    order = [3, 0, 4, 1, 2]
    permuted = objective.loss(slice_outputs(out, batch, order), batch.select_groups(order))
    torch.testing.assert_close(permuted.value, objective.loss(out, batch).value, atol=1e-12, rtol=1e-12)


def test_padding_garbage_does_not_matter(objective):
    batch, raw = make_batch(objective)
    clean = objective.loss(outputs(objective, raw), batch).value
    garbage = dict(raw)
    for name in ("logps", "values", "entropy"):
        garbage[name] = torch.where(batch.mask_BT > 0, raw[name], torch.full_like(raw[name], float("nan")))
    dirty = batch
    if batch.ref_logps_BT is not None:
        dirty = batch.with_(ref_logps_BT=torch.where(batch.mask_BT > 0, batch.ref_logps_BT, torch.full_like(batch.ref_logps_BT, 9.0)))
    torch.testing.assert_close(objective.loss(outputs(objective, garbage), dirty).value, clean)


def test_padding_gets_no_gradient(objective):
    batch, raw = make_batch(objective)
    leaf = raw["logps"].requires_grad_()
    raw["scores"].requires_grad_()
    values = raw["values"].requires_grad_()
    objective.loss(outputs(objective, raw), batch).value.backward()
    if "logps" in objective.needs.outputs:
        assert (leaf.grad[batch.mask_BT == 0] == 0).all()
        assert (leaf.grad[batch.mask_BT > 0] != 0).any()
    if "values" in objective.needs.outputs:
        assert (values.grad[batch.mask_BT == 0] == 0).all()


def test_needs_are_honoured(objective):
    """It runs with exactly the outputs and annotations it named."""
    batch, raw = make_batch(objective)
    annotations = {f"{a}_BT" for a in objective.needs.annotations}
    bare = {f: None for f in ("ref_logps_BT", "old_logps_BT", "old_values_BT", "sampling_logps_BT") if f not in annotations}
    value = objective.loss(outputs(objective, raw), batch.with_(**bare)).value
    assert torch.isfinite(value)


STOPS = {"cispo", "vespo", "nash_md"}
"""Their losses hold stop-gradients, so the slope of the value is not the gradient: tests/test_rl_objectives.py has closed forms."""


@pytest.mark.parametrize("config", [c for c in [*NAMES, *EXTRA] if str(c) not in STOPS and "k3_st" not in str(c)], ids=str)
def test_gradient_matches_finite_differences(config):
    objective = build_objective(config)
    batch, raw = make_batch(objective)
    name = "logps" if "logps" in objective.needs.outputs else "scores"
    leaf = raw[name].clone().requires_grad_()
    objective.loss(outputs(objective, raw | {name: leaf}), batch).value.backward()
    index = tuple(int(i) for i in (batch.mask_BT > 0).nonzero()[3])[: leaf.ndim]
    for sign in (1e-6,):
        up, down = raw[name].clone(), raw[name].clone()
        up[index] += sign
        down[index] -= sign
        slope = (
            objective.loss(outputs(objective, raw | {name: up}), batch).value - objective.loss(outputs(objective, raw | {name: down}), batch).value
        ) / (2 * sign)
        torch.testing.assert_close(leaf.grad[index], slope, atol=1e-8, rtol=1e-6)


def pair(policy, reference, objective):
    """One pair whose completions are one token long."""
    one = torch.ones((), dtype=torch.float64)
    batch = Batch(
        prompts_N=(torch.ones(1, dtype=torch.long),), tokens_BT=torch.zeros(2, 1, dtype=torch.long), mask_BT=torch.ones(2, 1, dtype=torch.float64),
        length_B=torch.ones(2, dtype=torch.long), group_B=torch.zeros(2, dtype=torch.long), score_B=torch.tensor([1.0, 0.0]), margin_N=torch.zeros(1, dtype=torch.float64),
        n_tokens_total=one * 2, n_rows_total=one * 2, n_groups_total=one, ref_logps_BT=torch.tensor(reference, dtype=torch.float64)[:, None],
    )  # fmt: skip
    return objective.prepare(batch), torch.tensor(policy, dtype=torch.float64)


@pytest.mark.parametrize(
    ("policy", "reference", "margin", "loss"), [((-8.2, -9.5), (-8.5, -9.1), 0.7, 0.659), ((-6.2, -7.8), (-6.5, -7.1), 1.0, 0.644)]
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
    assert float(DPO(beta=0.5, label_smoothing=0.1).loss(Outputs(logps_BT=logps[:, None]), batch).value) == pytest.approx(want, abs=1e-12)


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
    loss = BradleyTerry(centring=0.0).loss(Outputs(scores_B=torch.tensor([2.0, 0.5], dtype=torch.float64)), batch).value
    assert float(loss) == pytest.approx(math.log(2), abs=1e-12)


def test_sft_normalisations_by_hand():
    """Rows of 1 and 3 tokens with nll 1 each and 2 each: token mean 7/4, mean of row means 3/2."""
    one = torch.ones((), dtype=torch.float64)
    mask = torch.tensor([[1.0, 0, 0], [1, 1, 1]], dtype=torch.float64)
    batch = Batch(
        prompts_N=(torch.ones(1), torch.ones(1)), tokens_BT=torch.zeros(2, 3, dtype=torch.long), mask_BT=mask, length_B=torch.tensor([1, 3]), group_B=torch.tensor([0, 1]),
        score_B=torch.zeros(2), margin_N=torch.zeros(2), n_tokens_total=one * 4, n_rows_total=one * 2, n_groups_total=one * 2,
    )  # fmt: skip
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
    with pytest.raises(UserError, match="fix:"):
        build_objective(config)


def test_unknown_field_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'beta'"):
        build_objective({"name": "dpo", "betta": 0.1})
