"""Group relative policy optimisation, one whole step in plain sight: sample, score, compare, learn.

    python examples/grpo_loop.py                       # the built-in model, under a minute
    python examples/grpo_loop.py MODEL

`kilter train --method grpo` takes the same steps. What it adds and this file leaves out: a KL to a reference,
several optimizer steps per batch, groups.jsonl, monitors against reward hacking, checkpoints.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from kilter.data.collate import collate
from kilter.objectives import build_objective
from kilter.roles.open import OpenSpec, open_model
from kilter.sampling.collect import answers
from kilter.sampling.local import LocalSampler
from kilter.types import Completion, Encoded, Feedback, Group, Message, Prompt, SamplingParams

QUESTIONS = ("Name a bird.", "What is a river?", "Why do leaves fall?", "Tell me a number.")


def reward(completion: Completion) -> float:
    """Share of the letters a to m: meaningless, and so simple that any model can learn it."""
    text = completion.text.lower()
    return sum("a" <= c <= "m" for c in text) / max(1, len(text))


def encode(group: Group) -> Encoded:
    """Tokens stay tokens: what was sampled is never tokenised again, and the prompt's ids came along."""
    made = group.completions
    ids, masks = tuple(c.token_ids or () for c in made), tuple(c.mask or () for c in made)
    return Encoded(group, made[0].prompt_ids, ids, masks)


def main(
    model: str = "builtin:smollm2-135m",
    questions: Sequence[str] = QUESTIONS,
    steps: int = 6,
    learning_rate: float = 5e-5,
) -> list[float]:
    """Trains on answers to the questions; returns the mean reward of each step."""
    # The sampler reads the weights that train: what it answers with is always the present policy.
    ready = open_model(OpenSpec(model, max_length=256, trains=True))
    policy, sampler = ready.scorer, LocalSampler(ready.scorer, ready.encoder)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    objective = build_objective("grpo")
    prompts = [Prompt((Message(role="user", content=q),)) for q in questions]

    rewards = []
    for step in range(1, steps + 1):
        # Rollouts: six answers to every prompt, each with a score.
        made = answers(sampler, prompts, 6, SamplingParams(max_new_tokens=24, seed=step))
        scored = [tuple(Feedback(reward(c)) for c in row) for row in made]
        groups = [Group(p, tuple(a), f) for p, a, f in zip(prompts, made, scored, strict=True)]

        # Used once, by the policy that sampled it: the ratio is 1, and no old log-probs are needed.
        batch = collate([encode(g) for g in groups]).with_(sampling_logps_BT=None)
        batch = objective.prepare(
            batch
        )  # advantage: (R - mean of the group) / (deviation of the group + 1e-4)

        # The gradient of the clipped surrogate; at ratio 1 it is that of -A log pi.
        loss = objective.loss(policy(batch, objective.needs.outputs), batch)
        loss.value.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

        rewards.append(float(batch.score_B.mean()))
        print(f"step {step}: reward {rewards[-1]:.3f}, an answer: {' '.join(made[0][0].text.split())[:60]!r}")
    return rewards


if __name__ == "__main__":
    main(*sys.argv[1:2])
