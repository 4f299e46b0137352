"""Credit assignment as pure functions: scores in, one advantage per token (or per completion) out.

Scores R_B have no unit and may be NaN (unscored): such a row counts in no mean and gets advantage 0. group_B
maps rows to groups 0..N-1 of any size. Means and deviations are taken in float64: in float32 the mean of
seven equal scores is not that score, and a group that teaches nothing would get an advantage, and Adam would
make a whole step of it. Results have the scores' dtype; no gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kilter.batch import moments

EPSILON = 1e-4
"""Added to standard deviations, as DeepSeekMath's and TRL's code do."""


def group_sum(values_B: Tensor, group_B: Tensor, n: int) -> Tensor:
    """Sum per group, NaN rows left out; [N]."""
    return values_B.new_zeros(n).index_add_(0, group_B, values_B.nan_to_num(0.0))


def group_mean_std(
    score_B: Tensor, group_B: Tensor, n: int, population: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, standard deviation, scored rows) per group, [N] each, float64.

    The sample form of the deviation divides by K - 1, and is 0 at K = 1.
    """
    score_B = score_B.double()
    scored_B = (~score_B.isnan()).to(score_B.dtype)
    count_N = group_sum(scored_B, group_B, n)
    mean_N = group_sum(score_B, group_B, n) / count_N.clamp_min(1)
    square_N = group_sum((score_B - mean_N[group_B]).square(), group_B, n)
    degrees_N = count_N if population else count_N - 1
    return mean_N, (square_N / degrees_N.clamp_min(1)).sqrt(), count_N


def grpo(
    score_B: Tensor,
    group_B: Tensor,
    n: int,
    scale: str = "group",
    population: bool = False,
    over: Tensor | None = None,
) -> Tensor:
    """(R - mean) / (std + 1e-4) within the group, [B].

    Args:
        scale: whose deviation divides: "group" (Shao et al. 2024), "batch" (all rows), or "none" (Dr. GRPO).
        over: moments of the scores of all ranks, for "batch"; None: these scores are all.
    """
    mean_N, std_N, _ = group_mean_std(score_B, group_B, n, population)
    centred_B = score_B.double() - mean_N[group_B]
    if scale == "group":
        centred_B = centred_B / (std_N[group_B] + EPSILON)
    elif scale == "batch":
        count, _, variance = moments(score_B) if over is None else over
        degrees = (count - 1) / count if population and count > 1 else 1.0
        centred_B = centred_B / ((variance * degrees).sqrt() + EPSILON)
    return centred_B.nan_to_num(0.0).to(score_B.dtype)


def rloo(score_B: Tensor, group_B: Tensor, n: int) -> Tensor:
    """R - mean of the others (Ahmadian et al. 2024); 0 where a group has fewer than two scored rows."""
    _, _, count_N = group_mean_std(score_B, group_B, n)
    wide_B = score_B.double()
    others_B = (group_sum(wide_B, group_B, n)[group_B] - wide_B) / (count_N[group_B] - 1).clamp_min(1)
    return (
        torch.where(count_N[group_B] > 1, wide_B - others_B, torch.zeros_like(wide_B))
        .nan_to_num(0.0)
        .to(score_B.dtype)
    )


def passk(score_B: Tensor, group_B: Tensor, n: int, k: int) -> Tensor:
    """Analytic pass@k advantage (Chen et al. 2025, "Pass@k Training"); a row is correct when R > 0.5.

    With N rows of which c are correct: R = 1 - C(N-c, k) / C(N, k), s = sqrt(R (1 - R)), and
    A(correct) = (1 - R) / s,  A(wrong) = (1 - R - C(N-c-1, k-1) / C(N-1, k-1)) / s; 0 where s = 0.
    """
    correct_B = (score_B > 0.5).to(score_B.dtype)
    _, _, count_N = group_mean_std(score_B, group_B, n)
    right_N = group_sum(correct_B.masked_fill(score_B.isnan(), 0.0), group_B, n)
    out = torch.zeros_like(score_B)
    for group in range(n):
        size, right = int(count_N[group]), int(right_N[group])
        if size < k or right == 0:
            continue
        mean = 1 - math.comb(size - right, k) / math.comb(size, k)
        spread = math.sqrt(mean * (1 - mean))
        if spread == 0:
            continue
        wrong = (
            (1 - mean - math.comb(size - right - 1, k - 1) / math.comb(size - 1, k - 1)) / spread
            if right < size
            else 0.0
        )
        mine = group_B == group
        out[mine] = torch.where(correct_B[mine] > 0, (1 - mean) / spread, wrong).to(out.dtype)
    return torch.where(score_B.isnan(), torch.zeros_like(out), out)


def token_returns(reward_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Sum of the rewards from each token on (gamma 1), 0 off the mask."""
    masked = torch.where(mask_BT > 0, reward_BT, 0.0)
    return torch.where(mask_BT > 0, masked.flip(1).cumsum(1).flip(1), 0.0)


def prm_token(token_score_BT: Tensor, mask_BT: Tensor, group_B: Tensor, n: int) -> Tensor:
    """Process rewards: step scores normalised over the group's steps, then summed from each token on.

    Shao et al. 2024, sec. 4.1.3.
    """
    steps = (token_score_BT != 0) & (mask_BT > 0)
    flat, owner = token_score_BT[steps], group_B[:, None].expand_as(token_score_BT)[steps]
    mean_N, std_N, _ = group_mean_std(flat, owner, n)
    reward_BT = torch.zeros_like(token_score_BT)
    reward_BT[steps] = ((flat.double() - mean_N[owner]) / (std_N[owner] + EPSILON)).to(flat.dtype)
    return token_returns(reward_BT, mask_BT)


def at_last_token(score_B: Tensor, mask_BT: Tensor) -> Tensor:
    """[B, T] with each row's score on its last action token, never on padding; NaN becomes 0."""
    place = torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
    last_B = ((mask_BT > 0) * place).argmax(-1)
    out = torch.zeros_like(mask_BT, dtype=score_B.dtype)
    out[torch.arange(mask_BT.shape[0]), last_B] = score_B.nan_to_num(0.0)
    return out


def gae(
    reward_BT: Tensor, value_BT: Tensor, mask_BT: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016): (advantages, returns), 0 off the mask.

    d_t = r_t + gamma V_{t+1} - V_t;  A_t = d_t + gamma lam A_{t+1};  return = A + V. Next value and next
    advantage are carried ACROSS masked tokens (tool results, padding); after the last action both are 0.
    """
    advantage_BT = torch.zeros_like(reward_BT)
    next_value_B = torch.zeros_like(reward_BT[:, 0])
    next_advantage_B = torch.zeros_like(next_value_B)
    for t in range(reward_BT.shape[1] - 1, -1, -1):
        action_B = mask_BT[:, t] > 0
        delta_B = reward_BT[:, t] + gamma * next_value_B - value_BT[:, t]
        here_B = delta_B + gamma * lam * next_advantage_B
        next_advantage_B = torch.where(action_B, here_B, next_advantage_B)
        next_value_B = torch.where(action_B, value_BT[:, t], next_value_B)
        advantage_BT[:, t] = torch.where(action_B, here_B, 0.0)
    return advantage_BT, torch.where(mask_BT > 0, advantage_BT + value_BT, 0.0)


def whiten(values_BT: Tensor, mask_BT: Tensor, shift: bool = True, over: Tensor | None = None) -> Tensor:
    """Mean 0 (unless `shift` is off) and variance 1 over all action tokens of the rollout; 0 off the mask.

    over: moments of the tokens of all ranks; None: these tokens are all.
    """
    count, mean, variance = moments(values_BT[mask_BT > 0]) if over is None else over
    if count < 2:
        return torch.where(mask_BT > 0, values_BT, 0.0)
    centred = (values_BT.double() - mean) / (variance + 1e-8).sqrt()
    return torch.where(mask_BT > 0, centred if shift else centred + mean, 0.0).to(values_BT.dtype)
