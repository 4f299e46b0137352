"""Direct preference optimisation, one whole training step in plain sight.

    python examples/dpo_loop.py                # the built-in model on pairs of the support desk
    python examples/dpo_loop.py MODEL DATA     # any model and any file of preference pairs

`kilter train --method dpo` takes the same steps. What it adds and this file leaves out: micro-batches, a
learning-rate schedule, adapters, several processes, checkpoints, held-out metrics. Everything else is here.
"""

from __future__ import annotations

import sys

import torch

from kilter.data.collate import collate
from kilter.data.dataset import DataSpec, load
from kilter.objectives import build_objective
from kilter.roles.open import OpenSpec, open_model

PAIRS_PER_STEP = 4


def main(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:support-desk",
    steps: int = 6,
    learning_rate: float = 5e-6,
) -> list[float]:
    """Trains on the first pairs of the data; returns the loss of each step, nats per pair."""
    # The policy: weights that train, with the tokenizer that belongs to them.
    ready = open_model(OpenSpec(model, max_length=512, trains=True))
    policy, encoder = ready.scorer, ready.encoder
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    objective = build_objective({"name": "dpo", "beta": 0.1})

    # The data: a group is a prompt with two answers, the chosen one first. Rows of a batch are answers.
    groups = load(DataSpec(path=data, heldout=0), "pairs").train[: steps * PAIRS_PER_STEP]
    encoded = encoder.encode_all(groups)
    starts = range(0, len(encoded), PAIRS_PER_STEP)
    batches = [collate(encoded[i : i + PAIRS_PER_STEP]) for i in starts]

    # The reference is the policy before its first update: numbers, not a second model in memory.
    with torch.no_grad():
        batches = [batch.with_(ref_logps_BT=policy(batch).logps_BT) for batch in batches]

    losses = []
    for step, batch in enumerate(batches, 1):
        # Weights, without gradient: every pair counts the same.
        batch = objective.prepare(batch)

        # One forward over all answers, each prompt once, then the loss of every pair:
        # -log sigmoid(beta (D(chosen) - D(rejected))), D = log pi - log ref.
        out = policy(batch, objective.needs.outputs)
        loss = objective.loss(out, batch)

        # The loss is a weighted sum already, so that it is back-propagated as it stands.
        loss.value.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

        # A metric is a sum and a weight: only here, at the very end, one is divided by the other.
        metrics = {name: float(m.total / m.weight) for name, m in loss.metrics.items()}
        losses.append(float(loss.value.detach()))
        print(
            f"step {step}: loss {losses[-1]:.4f}, chosen ahead {metrics['rewards/accuracies']:.0%}, "
            f"margin {metrics['rewards/margins']:+.3f} nats, gradient norm {float(norm):.2f}"
        )
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:3])
