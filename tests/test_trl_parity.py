"""Value and gradient of every offline loss that TRL and Kilter both have, from TRL's own code on the same tensors in float64.

A stub stands in for trainer and model: it hands TRL the log-probs, and TRL computes the loss. Ours runs on the same leaf.
"""

from __future__ import annotations

import os
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from kilter.batch import Batch, Outputs
from kilter.objectives import build_objective

if os.environ.get("KILTER_PARITY") != "required":  # .ci/run requires it: there a missing TRL is a failure
    pytest.importorskip("trl")

N, PROMPT, WIDTH = 6, 3, 9


class Accelerator:
    """What TRL asks of accelerate, for one process."""

    num_processes = 1
    device = torch.device("cpu")

    def gather(self, value):
        return value

    gather_for_metrics = gather

    def unwrap_model(self, model):
        return model


class Model(torch.nn.Module):
    """Gives TRL's fused-head outputs from prepared log-probs, one [rows, T] tensor per call in turn."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs, self.calls, self.is_gradient_checkpointing = outputs, 0, False

    def forward(self, **kwargs):
        logps, collision = self.outputs[min(self.calls, len(self.outputs) - 1)]
        self.calls += 1
        prefix = torch.zeros(logps.shape[0], PROMPT - 1, dtype=logps.dtype)
        wide = torch.cat([prefix, logps], 1)
        nothing = torch.zeros_like(wide).detach()
        return SimpleNamespace(
            log_probs=wide,
            log_sum_sq_probs=torch.cat([prefix, collision], 1),
            entropy=nothing,
            mean_logits=nothing,
            is_top1=nothing > 1,
            logits=logps,
        )


def tensors(rows, seed=0):
    """(mask, policy leaf, reference, collision): rows x WIDTH, zero off the mask, as TRL's fused head gives them."""
    g = torch.Generator().manual_seed(seed)
    length = torch.randint(2, WIDTH + 1, (rows,), generator=g)
    length[0] = WIDTH
    mask = (torch.arange(WIDTH)[None] < length[:, None]).double()
    draw = lambda: -torch.rand(rows, WIDTH, generator=g, dtype=torch.float64) * mask
    return mask, draw(), draw(), draw() - mask


def batch_of(mask, reference, groups, scores, **fields) -> Batch:
    one = torch.ones((), dtype=torch.float64)
    n = int(groups.max()) + 1
    return Batch(
        prompts_N=tuple(torch.ones(1, dtype=torch.long) for _ in range(n)),
        tokens_BT=mask.long(),
        mask_BT=mask,
        length_B=mask.sum(-1).long(),
        group_B=groups,
        score_B=scores,
        margin_N=fields.pop("margin", torch.zeros(n, dtype=torch.float64)),
        n_tokens_total=one,
        n_rows_total=one,
        n_groups_total=one,
        ref_logps_BT=reference,
        **fields,
    ).counted()


def sides_to_pairs(x):
    """TRL stacks all chosen over all rejected rows; a pair's rows are adjacent here."""
    return torch.stack(x.chunk(2), 1).flatten(0, 1)


def stub(**fields):
    base = {
        "aux_loss_enabled": False,
        "precompute_ref_logps": False,
        "accelerator": Accelerator(),
        "beta": 0.1,
        "label_smoothing": 0.0,
        "ld_alpha": None,
        "use_weighting": False,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "loss_types": ["sigmoid"],
        "loss_weights": [1.0],
        "model": Model(),
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "calculate_KL": True,
        "args": SimpleNamespace(
            gradient_checkpointing=False,
            gradient_checkpointing_kwargs=None,
            discopop_tau=0.05,
            center_rewards_coefficient=None,
        ),
    }
    return SimpleNamespace(**base | fields)


DPO_LOSSES = [
    ("dpo", {}, {}),
    ("dpo", {"beta": 0.3}, {"beta": 0.3}),
    ("hinge", {}, {"loss_types": ["hinge"]}),
    ("ipo", {}, {"loss_types": ["ipo"]}),
    ("exo", {"label_smoothing": 0.01}, {"loss_types": ["exo_pair"], "label_smoothing": 0.01}),
    ("nca", {}, {"loss_types": ["nca_pair"]}),
    ("robust_dpo", {"label_smoothing": 0.2}, {"loss_types": ["robust"], "label_smoothing": 0.2}),
    ("sppo_hard", {}, {"loss_types": ["sppo_hard"]}),
    ("aot", {"label_smoothing": 0.1}, {"loss_types": ["aot"], "label_smoothing": 0.1}),
    ("aot_unpaired", {"label_smoothing": 0.1}, {"loss_types": ["aot_unpaired"], "label_smoothing": 0.1}),
    ("apo_zero", {}, {"loss_types": ["apo_zero"]}),
    ("apo_down", {}, {"loss_types": ["apo_down"]}),
    ("discopop", {}, {"loss_types": ["discopop"]}),
    ("ld_dpo", {"ld_alpha": 0.4}, {"ld_alpha": 0.4}),
    ("bco_pair", {}, {"loss_types": ["bco_pair"]}),
    ("dpo", {"length_normalized": True, "beta": 2.0}, {"loss_types": ["sigmoid_norm"], "beta": 2.0}),
    ("f_dpo", {"divergence": "forward_kl"}, {"f_divergence_type": "forward_kl"}),
    ("f_dpo", {"divergence": "js"}, {"f_divergence_type": "js_divergence"}),
    ("f_dpo", {"divergence": "alpha", "alpha": 0.5}, {"f_divergence_type": "alpha_divergence"}),
    ("wpo", {}, {"use_weighting": True}),
    ("mix", {"dpo": 1.0, "sft": 0.3}, {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]}),
]


@pytest.mark.parametrize(("name", "fields", "settings"), DPO_LOSSES, ids=lambda v: str(v)[:40])
def test_dpo_family(name, fields, settings):
    from trl.trainer.dpo_trainer import DPOTrainer

    mask, logps, reference, collision = tensors(2 * N)
    # TRL takes its alpha divergence in float32 only, and EXO's label smoothing is a float32 tensor there
    single = fields.get("divergence") == "alpha"
    tolerance = 1e-6 if single or name == "exo" else 1e-9
    if single:
        mask, logps, reference, collision = (t.float() for t in (mask, logps, reference, collision))
    theirs = logps.clone().requires_grad_()
    inputs = {
        "input_ids": torch.ones(2 * N, PROMPT + WIDTH, dtype=torch.long),
        "attention_mask": torch.ones(2 * N, PROMPT + WIDTH),
        "completion_mask": torch.cat([torch.zeros(2 * N, PROMPT), mask], 1).long(),
    }
    me = stub(ref_model=Model((reference, collision)), **settings)
    want = DPOTrainer._compute_loss(me, Model((theirs, collision)), inputs, False)
    want.backward()

    ours = logps.clone().requires_grad_()
    objective = build_objective({"mix": fields} if name == "mix" else {"name": name} | fields)
    batch = batch_of(
        sides_to_pairs(mask),
        sides_to_pairs(reference),
        torch.arange(N).repeat_interleave(2),
        torch.tensor([1.0, 0.0] * N),
    )
    out = Outputs(logps_BT=sides_to_pairs(ours), collision_BT=sides_to_pairs(collision))
    found = objective.loss(out, objective.prepare(batch)).value
    found.backward()
    torch.testing.assert_close(found.to(want.dtype), want, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(ours.grad, theirs.grad * mask, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_thumbs(loss_type):
    from trl.trainer.kto_trainer import KTOTrainer

    mask, logps, reference, collision = tensors(N)
    kl_policy, kl_reference = 0.5 * tensors(N, 1)[1], tensors(N, 2)[1]
    theirs = logps.clone().requires_grad_()
    ids = torch.ones(N, PROMPT + WIDTH, dtype=torch.long)
    shown = torch.cat([torch.zeros(N, PROMPT), mask], 1).long()
    labels = torch.tensor([True, False, True, True, False, True])
    inputs = {
        "input_ids": ids,
        "attention_mask": ids,
        "completion_mask": shown,
        "KL_input_ids": ids,
        "KL_attention_mask": ids,
        "KL_completion_mask": shown,
        "label": labels,
    }
    undesirable = 1.4 if loss_type == "kto" else 1.0
    me = stub(
        loss_type=loss_type,
        desirable_weight=1.0,
        undesirable_weight=undesirable,
        ref_model=Model((kl_reference, collision), (reference, collision)),
    )
    me._compute_kl_logps = lambda model, b: KTOTrainer._compute_kl_logps(me, model, b)
    want = KTOTrainer._compute_loss(me, Model((kl_policy, collision), (theirs, collision)), inputs, False)
    want.backward()
    kl = (kl_policy - kl_reference).sum(-1).mean()
    assert kl > 0

    ours = logps.clone().requires_grad_()
    weights = {"desirable_weight": 1.0, "undesirable_weight": 1.4} if loss_type == "kto" else {}
    objective = build_objective({"name": loss_type} | weights)
    batch = batch_of(mask, reference, torch.arange(N), labels.float(), extra={"mismatched_kl": kl})
    found = objective.loss(Outputs(logps_BT=ours), objective.prepare(batch)).value
    found.backward()
    torch.testing.assert_close(found, want, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(ours.grad, theirs.grad * mask, atol=1e-9, rtol=1e-9)


CPO_LOSSES = [
    (
        "cpo",
        {"beta": 0.2, "alpha": 0.0, "label_smoothing": 0.1},
        {"loss_type": "sigmoid", "beta": 0.2, "label_smoothing": 0.1, "alpha": 0.0},
        "sum",
    ),
    (
        "cpo",
        {"beta": 0.2, "alpha": 0.7},
        {"loss_type": "sigmoid", "beta": 0.2, "label_smoothing": 0.0, "alpha": 0.0, "cpo_alpha": 0.7},
        "sum",
    ),
    (
        "simpo",
        {"beta": 2.5, "gamma": 0.8},
        {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 0.8, "alpha": 0.0},
        "mean",
    ),
    (
        "alphapo",
        {"beta": 2.5, "gamma": 0.8, "alpha": 0.25},
        {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 0.8, "alpha": 0.25},
        "mean",
    ),
    (
        "slic",
        {"beta": 0.5, "delta": 1.0, "nll_weight": 0.0},
        {"loss_type": "hinge", "beta": 0.5, "alpha": 0.0},
        "sum",
    ),
    ("orpo", {"beta": 0.2}, {"beta": 0.2}, "mean"),
]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("name", "fields", "settings", "reduction"), CPO_LOSSES, ids=lambda v: str(v)[:30])
def test_reference_free(name, fields, settings, reduction):
    """TRL's preference terms of CPO and ORPO. The imitation term is the mean over the chosen answer's tokens; TRL's ORPO counts the prompt's as well, the paper's does not."""
    from trl.experimental.cpo.cpo_trainer import CPOTrainer
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    mask, logps, reference, _ = tensors(2 * N)
    theirs = logps.clone().requires_grad_()
    one = (theirs * mask).sum(-1) / (mask.sum(-1) if reduction == "mean" else 1)
    me = stub(**settings)
    if name == "orpo":
        nll = -theirs[:N][mask[:N].bool()].mean()
        want = nll - ORPOTrainer.odds_ratio_loss(me, *one.chunk(2))[0].mean()
    else:
        want = CPOTrainer.cpo_loss(me, *one.chunk(2))[0].mean()
        if name == "cpo":  # the trainer adds its imitation term outside
            want = want - getattr(me, "cpo_alpha", 0.0) * theirs[:N][mask[:N].bool()].mean()
    want.backward()

    ours = logps.clone().requires_grad_()
    objective = build_objective({"name": name} | fields)
    batch = batch_of(
        sides_to_pairs(mask), None, torch.arange(N).repeat_interleave(2), torch.tensor([1.0, 0.0] * N)
    )
    found = objective.loss(Outputs(logps_BT=sides_to_pairs(ours)), objective.prepare(batch)).value
    found.backward()
    # TRL's ORPO takes its log-probs to float32
    tolerance = 1e-6 if name == "orpo" else 1e-9
    torch.testing.assert_close(found, want.to(found.dtype), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("centring", "margin"), [(0.0, False), (0.01, True)])
def test_bradley_terry(centring, margin):
    from trl.trainer.reward_trainer import RewardTrainer

    g = torch.Generator().manual_seed(0)
    scores = torch.randn(2 * N, generator=g, dtype=torch.float64)
    margins = torch.rand(N, generator=g, dtype=torch.float64)
    theirs = scores.clone().requires_grad_()
    me = stub()
    me.args.center_rewards_coefficient = centring or None
    inputs = {"attention_mask": torch.ones(2 * N, 4)} | ({"margin": margins} if margin else {})
    want = RewardTrainer.compute_loss(me, lambda **kwargs: SimpleNamespace(logits=theirs[:, None]), inputs)
    want.backward()

    ours = scores.clone().requires_grad_()
    objective = build_objective({"name": "bradley_terry", "centring": centring})
    mask = torch.ones(2 * N, 1, dtype=torch.float64)
    batch = batch_of(
        mask,
        None,
        torch.arange(N).repeat_interleave(2),
        torch.tensor([1.0, 0.0] * N),
        margin=margins if margin else torch.zeros(N, dtype=torch.float64),
    )
    found = objective.loss(Outputs(scores_B=sides_to_pairs(ours)), objective.prepare(batch)).value
    found.backward()
    torch.testing.assert_close(found, want, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("name", "loss_type"), [("sft", "nll"), ("dft", "dft")])
def test_imitation(name, loss_type):
    """Token mean of the negative log-likelihood, plain and weighted by the detached probability."""
    from trl.trainer.sft_trainer import SFTTrainer

    mask, logps, _, collision = tensors(N)
    theirs = logps.clone().requires_grad_()
    me = stub(compute_loss_func=None, label_smoother=None)
    me.args.loss_type, me.args.average_tokens_across_devices = loss_type, False
    me.accelerator.parallelism_config = None
    given = Model((theirs, collision))

    def model(**kwargs):
        out = given(**kwargs)
        out.label_mask = torch.cat([torch.zeros(N, PROMPT - 1), mask], 1)
        return out

    inputs = {
        "attention_mask": torch.ones(N, PROMPT + WIDTH),
        "labels": torch.ones(N, PROMPT + WIDTH, dtype=torch.long),
    }
    want = SFTTrainer.compute_loss(me, model, inputs)
    want.backward()
    ours = logps.clone().requires_grad_()
    objective = build_objective(name)
    batch = batch_of(mask, None, torch.arange(N), torch.ones(N))
    found = objective.loss(Outputs(logps_BT=ours), objective.prepare(batch)).value
    found.backward()
    torch.testing.assert_close(found, want, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(ours.grad, theirs.grad * mask, atol=1e-9, rtol=1e-9)
