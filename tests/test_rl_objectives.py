"""Advantages by hand, PPO's checklist point by point, and parity with TRL's own loss code in float64."""

from __future__ import annotations

import importlib
import math
import os
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from kilter.batch import Batch, Outputs
from kilter.errors import UserError
from kilter.objectives import build_objective
from kilter.objectives.rl import advantages as adv
from kilter.objectives.rl.surrogates import clipped
from kilter.objectives.rl.weights import kl_terms, token_weights

D = torch.float64


def rollout(score, mask, k=None, **fields) -> Batch:
    """A batch from scores and a mask; `k` rows per group."""
    mask = torch.tensor(mask, dtype=D)
    rows = mask.shape[0]
    k = k or rows
    one = torch.ones((), dtype=D)
    return Batch(
        prompts_N=tuple(torch.ones(1, dtype=torch.long) for _ in range(rows // k)),
        tokens_BT=torch.zeros(mask.shape, dtype=torch.long),
        mask_BT=mask,
        length_B=(mask.shape[1] - mask.flip(1).argmax(1)),
        group_B=torch.arange(rows // k).repeat_interleave(k),
        score_B=torch.tensor(score, dtype=D),
        margin_N=torch.zeros(rows // k),
        n_tokens_total=mask.sum(),
        n_rows_total=one * rows,
        n_groups_total=one * (rows // k),
        **fields,
    )


def random_rollout(seed=0, groups=3, k=4, width=6, reference=True):
    g = torch.Generator().manual_seed(seed)
    n = groups * k
    length = torch.randint(2, width + 1, (n,), generator=g)
    mask = (torch.arange(width)[None] < length[:, None]).to(D)
    batch = rollout(
        torch.randn(n, generator=g).tolist(),
        mask.tolist(),
        k,
        truncated_B=torch.zeros(n),
        extra={"length_limit": torch.tensor(width)},
    )
    logps = -torch.rand(n, width, generator=g, dtype=D)
    return batch.with_(
        old_logps_BT=logps + 0.3 * torch.randn(n, width, generator=g, dtype=D),
        ref_logps_BT=(logps + 0.3 * torch.randn(n, width, generator=g, dtype=D)) if reference else None,
    ), logps


# Advantages


def test_grpo_golden():
    """Rewards 1, 0, .5, 1 with the population std: .905, -1.508, -.302, .905."""
    found = adv.grpo(
        torch.tensor([1, 0, 0.5, 1], dtype=D), torch.zeros(4, dtype=torch.long), 1, population=True
    )
    torch.testing.assert_close(
        found, torch.tensor([0.905, -1.508, -0.302, 0.905], dtype=D), atol=1e-3, rtol=0
    )


def test_rloo_by_hand():
    found = adv.rloo(torch.tensor([3.0, 1, 2, 5, 5]), torch.tensor([0, 0, 0, 1, 1]), 2)
    assert found.tolist() == [1.5, -1.5, 0, 0, 0]


def test_an_unscored_row_is_missing_and_not_zero():
    score = torch.tensor([3.0, 1, math.nan])
    group = torch.zeros(3, dtype=torch.long)
    assert adv.rloo(score, group, 1).tolist() == [2, -2, 0]
    assert adv.grpo(score, group, 1, "none").tolist() == [1, -1, 0]
    assert adv.rloo(torch.tensor([3.0, math.nan]), group[:2], 1).tolist() == [0, 0]


def test_passk_equals_the_enumeration_over_subsets():
    """Each k-subset of the group is one trial with reward 1 if any member is right; a row's advantage averages over its subsets."""
    from itertools import combinations

    score, k = [1.0, 0, 0, 1, 0, 0], 3
    subsets = list(combinations(range(6), k))
    reward = [max(score[i] for i in s) for s in subsets]
    mean = sum(reward) / len(reward)
    std = math.sqrt(sum((r - mean) ** 2 for r in reward) / len(reward))
    want = [
        sum(r - mean for s, r in zip(subsets, reward) if i in s) / std / math.comb(5, k - 1) for i in range(6)
    ]
    found = adv.passk(torch.tensor(score, dtype=D), torch.zeros(6, dtype=torch.long), 1, k)
    torch.testing.assert_close(found, torch.tensor(want, dtype=D), atol=1e-12, rtol=0)
    assert adv.passk(torch.ones(6, dtype=D), torch.zeros(6, dtype=torch.long), 1, k).tolist() == [0] * 6


def test_prm_token_sums_normalised_steps_from_each_token_on():
    mask = torch.ones(2, 4, dtype=D)
    steps = torch.tensor([[0, 1.0, 0, 3.0], [0, 0, 2.0, 0]], dtype=D)
    found = adv.prm_token(steps, mask, torch.zeros(2, dtype=torch.long), 1)
    high = 1 / (1 + 1e-4)
    torch.testing.assert_close(
        found, torch.tensor([[0, 0, high, high], [0, 0, 0, 0]], dtype=D), atol=1e-9, rtol=0
    )


def scalar_gae(reward, value, mask, gamma, lam):
    """One row, plain Python, only over its action tokens."""
    steps = [t for t in range(len(mask)) if mask[t]]
    advantage, carry = [0.0] * len(mask), 0.0
    for i in reversed(range(len(steps))):
        t = steps[i]
        following = value[steps[i + 1]] if i + 1 < len(steps) else 0.0
        carry = reward[t] + gamma * following - value[t] + gamma * lam * carry
        advantage[t] = carry
    return advantage


# PPO's checklist


def test_1_gae_against_a_scalar_reference():
    g = torch.Generator().manual_seed(1)
    mask = (torch.rand(7, 9, generator=g) < 0.7).to(D)
    mask[:, 0] = 1
    reward, value = torch.randn(7, 9, generator=g, dtype=D) * mask, torch.randn(7, 9, generator=g, dtype=D)
    found, returns = adv.gae(reward, value, mask, 0.97, 0.9)
    for row in range(7):
        want = scalar_gae(reward[row].tolist(), value[row].tolist(), mask[row].tolist(), 0.97, 0.9)
        torch.testing.assert_close(found[row], torch.tensor(want, dtype=D), atol=1e-12, rtol=0)
    torch.testing.assert_close(returns, (found + value) * mask, atol=1e-12, rtol=0)


def test_2_value_and_advantage_are_carried_across_masked_tokens():
    """A tool result in the middle changes nothing: the same advantages as without it."""
    plain, _ = adv.gae(torch.tensor([[0, 0, 1.0]]), torch.tensor([[0.1, 0.2, 0.3]]), torch.ones(1, 3))
    gapped, _ = adv.gae(
        torch.tensor([[0, 9.0, 0, 1.0, 9.0]]),
        torch.tensor([[0.1, 7.0, 0.2, 0.3, 7.0]]),
        torch.tensor([[1.0, 0, 1, 1, 0]]),
    )
    torch.testing.assert_close(gapped[0, [0, 2, 3]], plain[0])
    assert gapped[0, 1] == 0
    assert gapped[0, 4] == 0


def test_3_the_reward_stands_on_the_last_action_token_and_never_on_padding():
    placed = adv.at_last_token(torch.tensor([2.0, 3.0]), torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0]]))
    assert placed.tolist() == [[0, 2, 0, 0], [0, 0, 3, 0]]


@pytest.mark.parametrize(
    ("logp", "ref", "score", "want"), [(-2.1, -2.2, 1.20, 1.18), (-1.2, -2.8, 1.35, 1.03)]
)
def test_4_kl_shaped_reward_golden(logp, ref, score, want):
    batch = rollout(
        [score],
        [[1.0]],
        old_logps_BT=torch.tensor([[logp]], dtype=D),
        ref_logps_BT=torch.tensor([[ref]], dtype=D),
    )
    assert float(build_objective({"name": "ppo", "beta": 0.2}).token_rewards(batch)) == pytest.approx(
        want, abs=1e-9
    )


def test_5_token_rewards_sum_to_score_minus_beta_kl():
    batch, _ = random_rollout()
    ppo = build_objective({"name": "ppo", "beta": 0.3})
    kl = ((batch.old_logps_BT - batch.ref_logps_BT) * batch.mask_BT).sum(-1)
    torch.testing.assert_close(ppo.token_rewards(batch).sum(-1), batch.score_B - 0.3 * kl)


def test_6_advantages_are_whitened_over_all_action_tokens_and_returns_are_not():
    batch, _ = random_rollout()
    batch = batch.with_(old_values_BT=torch.randn(12, 6, generator=torch.Generator().manual_seed(5), dtype=D))
    ready = build_objective("ppo").prepare(batch)
    kept = ready.advantage_BT[batch.mask_BT > 0]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-9)
    assert float(kept.var()) == pytest.approx(1, abs=1e-6)
    raw = build_objective({"name": "ppo", "whiten": False}).prepare(batch)
    torch.testing.assert_close(ready.return_BT, raw.return_BT)
    torch.testing.assert_close(raw.return_BT, (raw.advantage_BT + batch.old_values_BT) * batch.mask_BT)


def scalar_ppo(batch, logps, values, ppo):
    """The loss, token by token in plain Python."""
    total, tokens = 0.0, float(batch.mask_BT.sum())
    for i in range(batch.rows()):
        for t in range(batch.mask_BT.shape[1]):
            if not batch.mask_BT[i, t]:
                continue
            a, rho = float(batch.advantage_BT[i, t]), math.exp(float(logps[i, t] - batch.old_logps_BT[i, t]))
            inside = min(max(rho, 1 - ppo.clip_low), 1 + ppo.clip_high)
            policy = -min(rho * a, inside * a)
            if a < 0 and ppo.dual_clip is not None:
                policy = min(policy, -ppo.dual_clip * a)
            v, old, target = (
                float(values[i, t]),
                float(batch.old_values_BT[i, t]),
                float(batch.return_BT[i, t]),
            )
            near = old + min(max(v - old, -ppo.value_clip), ppo.value_clip)
            total += (policy + ppo.vf * 0.5 * max((v - target) ** 2, (near - target) ** 2)) / tokens
    return total


@pytest.mark.parametrize("dual", [None, 1.1])
def test_7_the_loss_against_a_scalar_reference(dual):
    """Policy clip on both sides, dual clip, value clip as the larger of the two errors, one denominator."""
    batch, logps = random_rollout()
    g = torch.Generator().manual_seed(2)
    ppo = build_objective({"name": "ppo", "dual_clip": dual, "vf": 0.5})
    batch = ppo.prepare(batch.with_(old_values_BT=torch.randn(12, 6, generator=g, dtype=D)))
    values = batch.old_values_BT + 0.5 * torch.randn(12, 6, generator=g, dtype=D)
    assert float(ppo.loss(Outputs(logps_BT=logps, values_BT=values), batch).value) == pytest.approx(
        scalar_ppo(batch, logps, values, ppo), abs=1e-12
    )


def test_8_the_ratio_is_one_before_the_first_update():
    batch, logps = random_rollout()
    batch = batch.with_(old_logps_BT=logps, old_values_BT=torch.zeros_like(logps))
    ppo = build_objective({"name": "ppo", "vf": 0.0, "beta": 0.0, "whiten": False})
    batch = ppo.prepare(batch)
    leaf = logps.clone().requires_grad_()
    found = ppo.loss(Outputs(logps_BT=leaf, values_BT=torch.zeros_like(logps)), batch)
    found.value.backward()
    torch.testing.assert_close(leaf.grad, -batch.advantage_BT / batch.n_tokens_total)
    assert float(found.metrics["clip_ratio/region_mean"].total) == 0


def test_9_truncated_answers_are_masked_or_penalised_by_choice():
    batch = rollout(
        [1.0, 1.0],
        [[1.0, 1], [1, 1]],
        truncated_B=torch.tensor([0.0, 1.0], dtype=D),
        old_values_BT=torch.zeros(2, 2, dtype=D),
        old_logps_BT=torch.zeros(2, 2, dtype=D),
    )
    free = {"beta": 0.0, "whiten": False}
    objective = build_objective({"name": "ppo", "mask_truncated": True} | free)
    # The learner takes them out before it counts tokens: tests/test_online.py.
    assert "mask_truncated" in objective.needs.annotations
    penalised = build_objective({"name": "ppo", "missing_eos_penalty": 0.7} | free)
    assert penalised.scores(batch).tolist() == pytest.approx([1.0, 0.3])
    assert penalised.prepare(batch).mask_BT.sum() == 4


def test_10_an_unscored_answer_trains_nothing():
    batch = rollout(
        [1.0, math.nan],
        [[1.0, 1], [1, 1]],
        old_values_BT=torch.ones(2, 2, dtype=D),
        old_logps_BT=torch.zeros(2, 2, dtype=D),
        ref_logps_BT=torch.ones(2, 2, dtype=D),
    )
    ready = build_objective("ppo").prepare(batch)
    assert ready.mask_BT.tolist() == [[1, 1], [0, 0]]
    assert torch.isfinite(ready.advantage_BT).all()


def test_11_denominators_span_the_optimizer_step():
    batch, _ = random_rollout()
    for aggregation, want in (
        ("token", 1.0),
        ("sequence", 1.0),
        ("constant", float(batch.mask_BT.sum()) / (12 * 6)),
    ):
        assert float(token_weights(batch, aggregation).sum()) == pytest.approx(want)
        parts = [batch.select_groups([i]) for i in range(3)]
        assert float(sum(token_weights(p, aggregation).sum() for p in parts)) == pytest.approx(want)


def test_12_log_probs_are_taken_at_the_sampling_temperature(scorer, encoder):
    """The learner recomputes exactly what the sampler reports, EOS included, padding excluded."""
    from kilter.data.collate import collate
    from kilter.sampling.collect import answers as answers_of
    from kilter.sampling.local import LocalSampler
    from kilter.types import Feedback, Group, Prompt, SamplingParams

    prompts = [Prompt(messages=({"role": "user", "content": t},)) for t in ("a", "bcd")]
    answers = answers_of(
        LocalSampler(scorer.eval(), encoder), prompts, 3, SamplingParams(max_new_tokens=9, temperature=0.7)
    )
    batch = collate(
        [encoder.encode(Group(p, tuple(a), (Feedback(0.0),) * 3)) for p, a in zip(prompts, answers)]
    )
    with torch.no_grad():
        got = scorer(batch, temperature=0.7).logps_BT
    torch.testing.assert_close(got * batch.mask_BT, batch.sampling_logps_BT, atol=1e-4, rtol=1e-4)
    assert [int(n) for n in batch.mask_BT.sum(-1)] == [len(c.token_ids) for a in answers for c in a]
    assert batch.truncated_B.tolist() == [
        float(c.token_ids[-1] not in encoder.stop_ids) for a in answers for c in a
    ]


def test_13_the_critic_reads_the_state_before_the_token(tiny, encoder):
    """V_t must not see the token it precedes: changing token t leaves V_0..V_t alone and moves V_{t+1}."""
    from kilter.data.collate import collate
    from kilter.models.forward import Scorer
    from kilter.models.load import load_reward
    from kilter.types import Completion, Feedback, Group, Prompt

    model = load_reward(tiny, 0, fresh=True)
    torch.nn.init.normal_(model.score.weight)
    critic = Scorer(model).eval()

    def values(tokens):
        group = Group(Prompt(text="hello"), (Completion("", token_ids=tokens),), (Feedback(0.0),))
        with torch.no_grad():
            return critic(collate([encoder.encode(group)]), frozenset({"values"})).values_BT[0]

    first, second = values((10, 11, 12, 13)), values((10, 11, 99, 13))
    torch.testing.assert_close(first[:3], second[:3])
    assert not torch.isclose(first[3], second[3])


# Closed forms of the losses with stop-gradients


def test_cispo_delta():
    batch, logps = random_rollout(reference=False)
    cispo = build_objective({"name": "cispo", "cap": 1.05})
    batch = cispo.prepare(batch)
    leaf = logps.clone().requires_grad_()
    cispo.loss(Outputs(logps_BT=leaf), batch).value.backward()
    want = (
        -(leaf.detach() - batch.old_logps_BT).exp().clamp_max(1.05)
        * batch.advantage_BT
        / batch.n_tokens_total
    )
    torch.testing.assert_close(leaf.grad, want * batch.mask_BT)


def test_kl_estimators():
    """On-policy, k2 and k3_st have the gradient of KL(pi || ref), k3 that of KL(ref || pi)."""
    g = torch.Generator().manual_seed(0)
    logits, ref = torch.randn(6, generator=g, dtype=D), torch.randn(6, generator=g, dtype=D).log_softmax(-1)

    def slope(loss):
        x = logits.clone().requires_grad_()
        loss(x.log_softmax(-1)).backward()
        return x.grad

    p = logits.softmax(-1)
    forward, backward = (
        slope(lambda x: (x.exp() * (x - ref)).sum()),
        slope(lambda x: (ref.exp() * (ref - x)).sum()),
    )
    for estimator, want in (("k2", forward), ("k3_st", forward), ("k3", backward)):
        torch.testing.assert_close(slope(lambda x: (p * kl_terms(x, ref, estimator)).sum()), want)
    value = lambda e: float((p * kl_terms(logits.log_softmax(-1), ref, e)).sum())
    exact = float((p * (p.log() - ref)).sum())
    assert value("k3") == pytest.approx(exact)
    assert value("k3_st") == pytest.approx(exact)


def test_dual_clip():
    assert float(clipped(torch.tensor(9.0), torch.tensor(-1.0), 0.2, 0.2)) == 9
    assert float(clipped(torch.tensor(9.0), torch.tensor(-1.0), 0.2, 0.2, 3.0)) == 3


def test_groups_of_equal_reward_are_inactive_and_exactly_without_gradient():
    batch = rollout([1.0, 1, 0, 1], [[1.0, 1]] * 4, k=2)
    grpo = build_objective("grpo")
    ready = grpo.prepare(batch)
    assert ready.active_N.tolist() == [False, True]
    leaf = torch.full((4, 2), -1.0, dtype=D, requires_grad=True)
    grpo.loss(Outputs(logps_BT=leaf), ready).value.backward()
    assert (leaf.grad[:2] == 0).all()
    assert (leaf.grad[2:] != 0).all()
    assert (
        build_objective({"name": "grpo", "beta": 0.1}).prepare(batch).active_N is None
    )  # the KL term moves them all


def test_truncated_importance_sampling_is_on_when_the_engines_differ():
    batch, logps = random_rollout(reference=False)
    batch = batch.with_(sampling_logps_BT=(batch.old_logps_BT - 1.0) * batch.mask_BT)
    grpo = build_objective({"name": "grpo", "clip_low": 0.9, "clip_high": 9.0})
    ready = grpo.prepare(batch)
    with_weights = grpo.loss(Outputs(logps_BT=logps), ready)
    without = grpo.loss(Outputs(logps_BT=logps), ready.with_(sampling_logps_BT=None))
    torch.testing.assert_close(with_weights.value, without.value * 2.0)  # exp(1) is capped at 2
    ratio = with_weights.metrics["sampling/importance_sampling_ratio/mean"]
    assert float(ratio.total / ratio.weight) == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "grpo", "beta": -1},
        {"name": "grpo", "kl_estimator": "k1"},
        {"name": "grpo", "clip_low": 0},
        {"name": "grpo", "scale": "all"},
        {"name": "ppo", "gamma": 0},
        {"name": "ppo", "dual_clip": 0.5},
        {"name": "ppo", "epochs": 0},
        {"name": "cispo", "cap": 0.5},
        {"name": "sapo", "tau_neg": 0},
        {"name": "vespo", "k_pos": 0},
        {"name": "reinforce", "baseline": "mean"},
        {"name": "online_dpo", "labels": "maybe"},
        {"name": "nash_md", "mixture": 2},
        {"name": "xpo", "alpha": -1},
    ],
)
def test_values_without_meaning_are_refused(config):
    with pytest.raises(UserError, match="Fix:"):
        build_objective(config)


# Parity with TRL's own code on the same tensors


def trl_module(name):
    """TRL, whose absence is a failure where parity is required."""
    return (
        importlib.import_module(name)
        if os.environ.get("KILTER_PARITY") == "required"
        else pytest.importorskip(name)
    )


def trl_grpo_loss(batch, logps, advantages, **settings):
    """TRL's GRPOTrainer._compute_loss with the model's forward replaced by given log-probs."""
    trainer = trl_module("trl.trainer.grpo_trainer")
    args = SimpleNamespace(
        delta=settings.pop("delta", None),
        use_bias_correction_kl=False,
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.0625,
        vespo_k_pos=2.0,
        vespo_lambda_pos=3.0,
        vespo_k_neg=3.0,
        vespo_lambda_neg=2.0,
        steps_per_generation=1,
    )
    me = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logps, torch.zeros_like(logps), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.0,
        args=args,
        loss_type="grpo",
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=6,
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _entropy_bonus_enabled=False,
        use_adaptive_entropy=False,
        _metrics={"train": defaultdict(list)},
        get_gamma_weights=trainer.GRPOTrainer.get_gamma_weights,
    )
    for name, value in settings.items():
        setattr(me, name, value)
    inputs = {
        "prompt_ids": torch.zeros(batch.rows(), 1, dtype=torch.long),
        "prompt_mask": torch.ones(batch.rows(), 1),
        "completion_ids": batch.tokens_BT,
        "completion_mask": batch.mask_BT,
        "advantages": advantages,
        "old_per_token_logps": batch.old_logps_BT,
        "num_items_in_batch": batch.mask_BT.sum(),
    }
    if batch.ref_logps_BT is not None:
        inputs["ref_per_token_logps"] = batch.ref_logps_BT
    return trainer.GRPOTrainer._compute_loss(me, me.model, inputs)


GRPO_CASES = {
    "grpo": ({"name": "grpo"}, {}),
    "grpo with KL": ({"name": "grpo", "beta": 0.04}, {"beta": 0.04}),
    "two-sided clip": ({"name": "grpo", "clip_high": 0.28}, {"epsilon_high": 0.28}),
    "bnpo": ({"name": "grpo", "loss_aggregation": "token"}, {"loss_type": "bnpo"}),
    "dapo": ({"name": "dapo", "mask_truncated": False}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "dr_grpo": ({"name": "dr_grpo"}, {"loss_type": "dr_grpo"}),
    "gspo": (
        {"name": "gspo", "clip_low": 0.1, "clip_high": 0.1},
        {"importance_sampling_level": "sequence", "epsilon_low": 0.1, "epsilon_high": 0.1},
    ),
    "luspo": (
        {"name": "luspo", "clip_low": 0.1, "clip_high": 0.1},
        {
            "loss_type": "luspo",
            "importance_sampling_level": "sequence",
            "epsilon_low": 0.1,
            "epsilon_high": 0.1,
        },
    ),
    "cispo": ({"name": "cispo", "cap": 1.3}, {"loss_type": "cispo", "epsilon_high": 1.3}),
    "sapo": ({"name": "sapo", "tau_neg": 1.0625}, {"loss_type": "sapo"}),
    "vespo": ({"name": "vespo"}, {"loss_type": "vespo"}),
}


@pytest.mark.parametrize("case", GRPO_CASES)
def test_trl_grpo_parity(case):
    config, settings = GRPO_CASES[case]
    objective = build_objective(config)
    batch, logps = random_rollout(seed=4, reference=bool(settings.get("beta")))
    batch = objective.prepare(batch)
    mine, theirs = logps.clone().requires_grad_(), logps.clone().requires_grad_()
    loss = objective.loss(Outputs(logps_BT=mine), batch).value
    other = trl_grpo_loss(batch, theirs, batch.advantage_BT, **settings)
    assert float(loss.detach()) == pytest.approx(float(other.detach()), abs=1e-9)
    loss.backward()
    other.backward()
    torch.testing.assert_close(mine.grad, theirs.grad * batch.mask_BT, atol=1e-9, rtol=0)


@pytest.fixture
def double():
    """TRL divides two integers for Bessel's correction, which takes the default dtype."""
    torch.set_default_dtype(D)
    yield
    torch.set_default_dtype(torch.float32)


def test_trl_advantage_parity(double):
    """TRL computes advantages inside its rollout function, so its lines are followed step by step with its own nanstd."""
    utils = trl_module("trl.trainer.utils")
    rewards = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=D)
    rewards[5] = math.nan
    group = torch.arange(3).repeat_interleave(4)
    grouped = rewards.view(-1, 4)
    mean, std = (
        torch.nanmean(grouped, dim=1).repeat_interleave(4),
        utils.nanstd(grouped, dim=1).repeat_interleave(4),
    )
    torch.testing.assert_close(
        adv.grpo(rewards, group, 3), ((rewards - mean) / (std + 1e-4)).nan_to_num(0.0), atol=1e-9, rtol=0
    )
    whole = ((rewards - mean) / (utils.nanstd(rewards) + 1e-4)).nan_to_num(0.0)
    torch.testing.assert_close(adv.grpo(rewards, group, 3, "batch"), whole, atol=1e-9, rtol=0)
    count = (~grouped.isnan()).sum(1, keepdim=True)
    others = ((torch.nansum(grouped, 1, keepdim=True) - grouped) / (count - 1)).view(-1)
    torch.testing.assert_close(
        adv.rloo(rewards, group, 3), (rewards - others).nan_to_num(0.0), atol=1e-9, rtol=0
    )


def test_trl_rloo_parity():
    trainer = trl_module("trl.trainer.rloo_trainer")
    batch, logps = random_rollout(seed=6)
    rloo = build_objective({"name": "rloo", "beta": 0.1})
    batch = rloo.prepare(batch)
    kl = ((batch.old_logps_BT - batch.ref_logps_BT) * batch.mask_BT).sum(-1)
    rewards = batch.score_B - 0.1 * kl
    grouped = rewards.view(-1, 4)
    advantages = rewards - ((grouped.sum(1, keepdim=True) - grouped) / 3).view(-1)
    torch.testing.assert_close(batch.advantage_BT, advantages[:, None] * batch.mask_BT, atol=1e-9, rtol=0)
    mine, theirs = logps.clone().requires_grad_(), logps.clone().requires_grad_()
    me = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (theirs, torch.zeros_like(logps), None),
        aux_loss_enabled=False,
        epsilon_low=0.2,
        epsilon_high=0.2,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x),
        _metrics={"train": defaultdict(list)},
    )
    inputs = {
        "prompt_ids": torch.zeros(12, 1, dtype=torch.long),
        "prompt_mask": torch.ones(12, 1),
        "completion_ids": batch.tokens_BT,
        "completion_mask": batch.mask_BT,
        "advantages": advantages,
        "old_logps": (batch.old_logps_BT * batch.mask_BT).sum(-1),
    }
    other = trainer.RLOOTrainer._compute_loss(me, me.model, inputs)
    loss = rloo.loss(Outputs(logps_BT=mine), batch).value
    assert float(loss.detach()) == pytest.approx(float(other.detach()), abs=1e-9)
    loss.backward()
    other.backward()
    torch.testing.assert_close(mine.grad, theirs.grad * batch.mask_BT, atol=1e-9, rtol=0)


@pytest.mark.parametrize("k", [2, 3, 5, 7, 8, 11])
@pytest.mark.parametrize("function", ["grpo", "batch", "none", "rloo", "whiten"])
def test_equal_scores_teach_exactly_nothing_in_float32(k, function):
    """The mean of k equal float32 numbers, taken in float32, is not that number: an advantage of 1e-3 out of nothing, and Adam steps on it."""
    values = torch.randn(200, generator=torch.Generator().manual_seed(k)) * torch.logspace(-3, 4, 200)
    for value in (torch.tensor(0.7), *values):
        score, group = value.repeat(k), torch.zeros(k, dtype=torch.long)
        if function == "rloo":
            found = adv.rloo(score, group, 1)
        elif function == "whiten":
            found = adv.whiten(score[:, None], torch.ones(k, 1))
        else:
            found = adv.grpo(score, group, 1, "group" if function == "grpo" else function)
        assert found.dtype == torch.float32
        assert (found == 0).all(), (float(value), found)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "luspo", "sapo"])
def test_a_group_of_equal_scores_is_not_forwarded(name):
    batch, _ = random_rollout(seed=4)
    narrow = batch.with_(
        score_B=torch.full((batch.rows(),), 0.7),
        mask_BT=batch.mask_BT.float(),
        old_logps_BT=None,
        ref_logps_BT=None,
    )
    fields = {"beta": 0.0} if name == "rloo" else {}
    assert not build_objective({"name": name} | fields).prepare(narrow).active_N.any()
