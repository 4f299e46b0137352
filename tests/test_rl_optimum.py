"""Every RL objective, run on problems whose KL-regularised optimum is known in closed form, must end there.

Two worlds, with tabular policies and the real objectives, batches and advantages: a 2-armed bandit, and a language of
5 tokens with sequences of two tokens. max_pi E[R] - beta KL(pi || ref) has the solution pi ~ ref exp(R / beta).
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.optimize import brentq

from kilter.batch import Batch, Outputs
from kilter.objectives import build_objective

BETA = 0.5


class World:
    """Sequences of `length` tokens out of `vocab`; logits per prefix; a score per sequence."""

    def __init__(self, vocab: int, length: int, seed: int):
        g = torch.Generator().manual_seed(seed)
        self.vocab, self.length = vocab, length
        self.sequences = torch.tensor(list(itertools.product(range(vocab), repeat=length)))
        self.prefixes = {
            p: i
            for i, p in enumerate(p for n in range(length) for p in itertools.product(range(vocab), repeat=n))
        }
        self.state_ST = torch.tensor(
            [[self.prefixes[tuple(s[:t].tolist())] for t in range(length)] for s in self.sequences]
        )
        self.score_S = torch.rand(len(self.sequences), generator=g, dtype=torch.float64)
        self.reference = 0.5 * torch.randn(len(self.prefixes), vocab, generator=g, dtype=torch.float64)

    def logps(self, logits, which=None):
        """Token log-probs of sequences, [B, T]."""
        index = torch.arange(len(self.sequences)) if which is None else which
        table = logits.log_softmax(-1)
        return table[self.state_ST[index], self.sequences[index]]

    def distribution(self, logits):
        return self.logps(logits).sum(-1).exp()

    def optimum(self):
        weights = self.distribution(self.reference) * (self.score_S / BETA).exp()
        return weights / weights.sum()

    def value(self, p):
        """The regularised objective J(p)."""
        q = self.distribution(self.reference)
        return float((p * self.score_S).sum() - BETA * (p * (p / q).log()).sum())


BANDIT, LANGUAGE = World(2, 1, 3), World(5, 2, 0)


def rollouts(world, logits, values, objective, groups, k, generator):
    """A batch as the online source would make it."""
    p = world.distribution(logits.detach())
    n = groups * k
    which = torch.multinomial(p, n, replacement=True, generator=generator)
    if objective.needs.opponent is not None:
        share = 1.0 if objective.needs.opponent == "reference" else objective.mixture
        mixed = (1 - share) * logits.detach().log_softmax(-1) + share * world.reference.log_softmax(-1)
        which[1::2] = torch.multinomial(
            world.distribution(mixed), groups, replacement=True, generator=generator
        )
    ones = torch.ones((), dtype=torch.float64)
    mask = torch.ones(n, world.length, dtype=torch.float64)
    old = world.logps(logits.detach(), which)
    greedy = world.score_S[p.argmax()]
    return which, Batch(
        prompts_N=tuple(torch.ones(1, dtype=torch.long) for _ in range(groups)),
        tokens_BT=world.sequences[which],
        mask_BT=mask,
        length_B=torch.full((n,), world.length),
        group_B=torch.arange(groups).repeat_interleave(k),
        score_B=world.score_S[which],
        margin_N=torch.zeros(groups),
        n_tokens_total=mask.sum(),
        n_rows_total=ones * n,
        n_groups_total=ones * groups,
        ref_logps_BT=world.logps(world.reference, which),
        old_logps_BT=old,
        old_values_BT=values.detach()[world.state_ST[which]],
        truncated_B=torch.zeros(n),
        extra={"greedy_score_N": greedy.expand(groups), "length_limit": torch.tensor(world.length)},
    )


def solve(world, config, steps=500, groups=64, k=8, passes=None):
    """Runs the objective; returns the distribution averaged over the last part of the run."""
    objective = build_objective(config)
    k = 2 if objective.needs.unit == "group" else k
    groups = groups * 8 // k
    g = torch.Generator().manual_seed(0)
    logits = world.reference.clone().requires_grad_()
    values = torch.zeros(len(world.prefixes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam(
        [{"params": [logits], "lr": 0.05}, {"params": [values], "lr": 0.05}], betas=(0.9, 0.99)
    )
    mean, count = torch.zeros(len(world.sequences), dtype=torch.float64), 0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - 0.95 * step / steps)
        which, batch = rollouts(world, logits, values, objective, groups, k, g)
        batch = objective.prepare(batch)
        for _ in range(passes or min(2, objective.needs.inner_epochs)):
            loss = objective.loss(
                Outputs(logps_BT=world.logps(logits, which), values_BT=values[world.state_ST[which]]), batch
            ).value
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if step >= 0.6 * steps:
            mean += world.distribution(logits.detach())
            count += 1
    return mean / count


REWARD = {"beta": BETA, "kl_in": "reward"}
EXACT = {
    "reinforce": {"name": "reinforce"} | REWARD,
    "rloo": {"name": "rloo"} | REWARD,
    "remax": {"name": "remax"} | REWARD,
    "reinforce_pp": {"name": "reinforce_pp"} | REWARD,
    "reinforce_pp_baseline": {"name": "reinforce_pp", "baseline": True} | REWARD,
    "ppo": {"name": "ppo"} | REWARD,
    "grpo": {"name": "grpo", "scale": "none"} | REWARD,
    "grpo_rloo": {"name": "grpo", "advantage": "rloo"} | REWARD,
    "grpo_batch": {"name": "grpo", "scale": "none", "loss_aggregation": "token"} | REWARD,
    "dr_grpo": {"name": "dr_grpo"} | REWARD,
    "dapo": {"name": "dapo", "scale": "none"} | REWARD,
    "gspo": {"name": "gspo", "scale": "none"} | REWARD,
    "luspo": {"name": "luspo", "scale": "none"} | REWARD,
    "cispo": {"name": "cispo", "scale": "none"} | REWARD,
    "sapo": {"name": "sapo", "scale": "none"} | REWARD,
    "vespo": {"name": "vespo", "scale": "none"} | REWARD,
    "online_dpo": {"name": "online_dpo", "beta": BETA, "labels": "soft"},
    "xpo": {"name": "xpo", "beta": BETA, "labels": "soft", "alpha": 0.0},
}


def test_every_rollout_objective_is_here():
    from kilter.objectives import objectives

    online = {name for name in objectives.names() if build_objective(name).needs.shape == "rollouts"}
    assert online == {c["name"] for c in EXACT.values()} | {"nash_md"}


@pytest.mark.parametrize(
    "name", ["grpo", "dr_grpo", "dapo", "gspo", "luspo", "cispo", "sapo", "vespo", "rloo"]
)
def test_reaches_it_off_policy_too(name):
    """Three passes over each batch: ratios are no longer 1, so that clips, soft gates and weights do their own work."""
    found, best = solve(LANGUAGE, EXACT[name], passes=3), LANGUAGE.optimum()
    start = LANGUAGE.distribution(LANGUAGE.reference)
    gain = (LANGUAGE.value(best) - LANGUAGE.value(found)) / (LANGUAGE.value(best) - LANGUAGE.value(start))
    assert gain < 0.05, f"missed {gain:.1%} of the possible gain"


@pytest.mark.parametrize("world", [BANDIT, LANGUAGE], ids=["bandit", "language"])
@pytest.mark.parametrize("name", EXACT)
def test_reaches_the_regularised_optimum(world, name):
    found, best = solve(world, EXACT[name]), world.optimum()
    start = world.distribution(world.reference)
    gain = (world.value(best) - world.value(found)) / (world.value(best) - world.value(start))
    assert gain < 0.05, f"missed {gain:.1%} of the possible gain"
    assert 0.5 * (found - best).abs().sum() < 0.05
    if world is BANDIT:
        torch.testing.assert_close(found, best, rtol=0.05, atol=0)


def solve_behind(world, behind, correction):
    """GRPO whose sampler is some versions behind; the distribution at the end.

    The steps are as large as on-policy training bears, and that is where staleness matters: at the optimum all
    advantages are zero, and nothing depends on who sampled. At a rate of 45 on-policy training itself overshoots.
    """
    objective, g = build_objective(EXACT["grpo"]), torch.Generator().manual_seed(0)
    logits = world.reference.clone().requires_grad_()
    values = torch.zeros(len(world.prefixes), dtype=torch.float64)
    optimizer = torch.optim.SGD([logits], lr=38.0)
    held, mean, count = [logits.detach().clone()], 0.0, 0
    for step in range(150):
        which, batch = rollouts(world, held[0], values, objective, 64, 8, g)
        drawn, now = batch.old_logps_BT, world.logps(logits.detach(), which)
        # What the annotations are under cluster.correction; "none" takes old answers for fresh ones.
        old = {"anchored": drawn, "decoupled": now, "none": now}[correction]
        batch = batch.with_(old_logps_BT=old, sampling_logps_BT=drawn if correction == "decoupled" else None)
        loss = objective.loss(Outputs(logps_BT=world.logps(logits, which)), objective.prepare(batch)).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        held = [*held, logits.detach().clone()][-behind - 1 :]
        if step >= 90:
            mean, count = mean + world.distribution(logits.detach()), count + 1
    return mean / count


@pytest.mark.parametrize(
    ("behind", "correction"), [(0, "none"), *itertools.product((1, 2, 4), ("anchored", "decoupled"))]
)
def test_a_sampler_behind_is_corrected_to_the_same_optimum(behind, correction):
    close(solve_behind(LANGUAGE, behind, correction), LANGUAGE.optimum())


@pytest.mark.parametrize("behind", [1, 2, 4])
def test_a_sampler_behind_misses_it_without_a_correction(behind):
    found = solve_behind(LANGUAGE, behind, "none")
    # A distribution, and another one.
    assert float(found.sum()) == pytest.approx(1.0)
    assert 0.5 * (found - LANGUAGE.optimum()).abs().sum() > 0.05


def close(found, best):
    assert 0.5 * (found - best).abs().sum() < 0.05


@pytest.mark.parametrize("estimator", ["k2", "k3_st"])
def test_kl_in_the_loss_with_an_unbiased_gradient(estimator):
    """One token: the same optimum as with the KL in the reward."""
    found = solve(BANDIT, {"name": "grpo", "scale": "none", "beta": BETA, "kl_estimator": estimator})
    torch.testing.assert_close(found, BANDIT.optimum(), rtol=0.05, atol=0)


def test_kl_in_the_loss_is_myopic_over_tokens():
    """Each token balances its own KL against the expected score: pi(a | s) ~ ref(a | s) exp(E_pi[R | s, a] / beta), solved backwards."""
    found = solve(LANGUAGE, {"name": "grpo", "scale": "none", "beta": BETA, "kl_estimator": "k3_st"})
    ref = LANGUAGE.reference.log_softmax(-1)
    score = LANGUAGE.score_S.view(5, 5)
    second = (ref[1:] + score / BETA).softmax(-1)
    first = (ref[0] + (second * score).sum(-1) / BETA).softmax(-1)
    close(found, (first[:, None] * second).reshape(-1))
    assert LANGUAGE.value(found) <= LANGUAGE.value(LANGUAGE.optimum()) + 1e-9


def test_k3_in_the_loss_settles_at_the_other_kl():
    """The papers' k3 has the gradient of KL(ref || pi): with two arms, p1 solves a one-dimensional equation."""
    found = solve(BANDIT, {"name": "grpo", "scale": "none", "beta": BETA, "kl_estimator": "k3"})
    q, r = BANDIT.distribution(BANDIT.reference), BANDIT.score_S
    slope = lambda p: float(r[1] - r[0]) * p * (1 - p) - BETA * (p - float(q[1]))
    p1 = brentq(slope, 1e-6, 1 - 1e-6)
    torch.testing.assert_close(found, torch.tensor([1 - p1, p1], dtype=torch.float64), rtol=0.05, atol=0)


def test_grpo_with_its_standard_deviation():
    """Dividing by the group's std changes the effective beta; the drift is summed over all 2^8 groups by their counts."""
    k, beta = 8, 1.5
    found = solve(BANDIT, {"name": "grpo", "beta": beta, "kl_estimator": "k3_st"})
    r, ref = BANDIT.score_S.tolist(), BANDIT.reference[0]
    offset = float(ref[1] - ref[0])

    def drift(x):
        p = 1 / (1 + math.exp(-x))
        total = 0.0
        for c in range(1, k):
            mean = (c * r[1] + (k - c) * r[0]) / k
            std = math.sqrt((c * (r[1] - mean) ** 2 + (k - c) * (r[0] - mean) ** 2) / (k - 1)) + 1e-4
            push = (c * (r[1] - mean) * (1 - p) - (k - c) * (r[0] - mean) * p) / std / k
            total += math.comb(k, c) * p**c * (1 - p) ** (k - c) * push
        return total - beta * p * (1 - p) * (x - offset)

    p1 = 1 / (1 + math.exp(-brentq(drift, -12, 12)))
    torch.testing.assert_close(found, torch.tensor([1 - p1, p1], dtype=torch.float64), rtol=0.05, atol=0)


@pytest.mark.parametrize("world", [BANDIT, LANGUAGE], ids=["bandit", "language"])
@pytest.mark.parametrize("mixture", [0.0, 0.5])
def test_nash_md_reaches_the_regularised_equilibrium(world, mixture):
    """pi ~ ref exp( P(y beats y' ~ mixture) / beta ), by fixed-point iteration over the whole table."""
    found = solve(world, {"name": "nash_md", "beta": 0.25, "labels": "soft", "mixture": mixture})
    beats = torch.sigmoid(world.score_S[:, None] - world.score_S[None])
    ref = world.distribution(world.reference)
    p = ref.clone()
    table = lambda q: q.view(world.vocab, -1) if world.length == 2 else q[None]
    for _ in range(300):
        if world.length == 1:
            opponent = p ** (1 - mixture) * ref**mixture
        else:  # the mixture is geometric token by token
            a, b = table(p), table(ref)
            first = (a.sum(-1) ** (1 - mixture)) * (b.sum(-1) ** mixture)
            second = ((a / a.sum(-1, keepdim=True)) ** (1 - mixture)) * (
                (b / b.sum(-1, keepdim=True)) ** mixture
            )
            opponent = ((first / first.sum())[:, None] * second / second.sum(-1, keepdim=True)).reshape(-1)
        opponent = opponent / opponent.sum()
        target = ref * (beats @ opponent / 0.25).exp()
        p = 0.5 * p + 0.5 * target / target.sum()
    close(found, p)


def test_xpo_bonus_pushes_away_from_the_reference():
    """The optimum of the exact expected loss, found by an independent optimiser over the two arms."""
    config = EXACT["xpo"] | {"alpha": 0.1}
    found = solve(BANDIT, config)
    ref, r = BANDIT.distribution(BANDIT.reference), BANDIT.score_S
    x = BANDIT.reference[0].clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.01)
    for _ in range(3000):
        logp = x.log_softmax(-1)
        p = logp.exp().detach()
        d = BETA * (logp - ref.log())
        z = d[:, None] - d[None]
        label = torch.sigmoid(r[:, None] - r[None])
        pair = (
            -label * torch.nn.functional.logsigmoid(z)
            - (1 - label) * torch.nn.functional.logsigmoid(-z)
            + 0.1 * logp[None]
        )
        loss = (p[:, None] * ref[None] * pair).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    close(found, x.detach().softmax(-1))
    assert float((found * ref.log()).sum()) < float((BANDIT.optimum() * ref.log()).sum())
