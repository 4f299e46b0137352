"""Annotations by name: functions of (batch, learner) that put tensors on a batch before the loss.

A name in `Needs.annotations` is one of those below, or `my_file.py:function` for one of a user's own.
They run in the order of this file, a user's own after them. Annotations that few methods read go to
`Batch.extra`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from kilter.batch import Batch, Needs
from kilter.errors import UserError
from kilter.registry import Registry
from kilter.seams import Annotator, Learner

annotators: Registry[Annotator] = Registry("annotation")
_order: dict[str, int] = {}


def annotator(*names: str) -> Callable[[Annotator], Annotator]:
    """Registers a function under the names of what it adds."""

    def add(function: Annotator) -> Annotator:
        for name in names:
            annotators.register(name)(function)
            _order[name] = len(_order)
        return function

    return add


def chosen(needs: Needs, field: str = "") -> list[Annotator]:
    """The functions that a method's batches go through, each once, in their order.

    Args:
        needs: of the method.
        field: that names the method, for messages.

    Raises:
        UserError: a name is unknown, or what it names is not a function.
    """
    names = needs.annotations | ({"old_logps"} if needs.shape == "rollouts" else set())
    # What changes the mask comes before what is computed on it, whatever order a set has.
    ordered = sorted(names, key=lambda name: (_order.get(name, len(_order)), name))
    functions = {name: annotators.get(name, field) for name in ordered}
    for name, function in functions.items():
        if not callable(function):
            raise UserError(
                field or annotators.kind,
                name,
                f"is not a function, but {type(function).__name__}.",
                "Name a function of (batch, learner) in the method's needs.annotations.",
            )
    return list(dict.fromkeys(functions.values()))


@annotator("ref_logps")
def reference_logps(batch: Batch, learner: Learner) -> Batch:
    """Log-probs of the reference policy, looked up by the rows as they were stored, before any is masked."""
    return batch.with_(ref_logps_BT=learner.reference_logps(batch))


@annotator("mask_truncated")
def mask_truncated(batch: Batch, learner: Learner) -> Batch:
    """Completions without EOS do not train, and are counted in no denominator."""
    # Recorded rollouts may not say how they ended.
    if batch.truncated_B is None:
        return batch
    return learner.count(batch.with_(mask_BT=batch.mask_BT * (1 - batch.truncated_B[:, None])))


@annotator("mismatched_kl")
def mismatched_kl(batch: Batch, learner: Learner) -> Batch:
    """Mean of log pi/ref (nats) over answers to other prompts: the second rows, which leave the batch."""
    own_B = torch.ones(batch.rows(), dtype=torch.bool)
    # The first row of a group is its own answer; the arrangement put the mismatched one behind it.
    own_B[1:] = batch.group_B[1:] != batch.group_B[:-1]
    others = batch.rows_where(~own_B).select_groups(range(batch.groups()))
    assert others.ref_logps_BT is not None
    policy_BT = learner.rows(others, frozenset({"logps"}))["logps"]
    gap = ((policy_BT - others.ref_logps_BT) * others.mask_BT).sum()
    total, count = learner.sum(torch.stack([gap, torch.tensor(float(others.rows()))])).cpu()
    # The mismatched rows have done their work: no loss sees them, and no denominator counts them.
    kept = batch.rows_where(own_B).select_groups(range(batch.groups()))
    return learner.count(kept).with_extra(mismatched_kl=total / count)


@annotator("length_limit")
def length_limit(batch: Batch, learner: Learner) -> Batch:
    """Tokens that a completion may have at most."""
    return batch.with_extra(length_limit=torch.tensor(learner.length_limit))


@annotator("token_scores")
def token_scores(batch: Batch, learner: Learner) -> Batch:
    """Scores of steps, [B, T]; zero where no step ends.

    A batch in which no answer has a step has zeros alone.
    """
    found = batch.token_score_BT
    return batch.with_(token_score_BT=torch.zeros_like(batch.mask_BT) if found is None else found)


@annotator("greedy_score")
def greedy_score(batch: Batch, learner: Learner) -> Batch:
    """Score of the greedy answer to each prompt, [N], which the source left in the prompt's metadata."""
    assert "greedy_score_N" in batch.extra, "a prompt of the batch has no score of its greedy answer"
    return batch


@annotator("old_logps", "old_values", "sampling_logps")
def rollout_logps(batch: Batch, learner: Learner) -> Batch:
    """Log-probs and values under the policy that sampled.

    The sampler's own log-probs are the old ones where they are exact, and are recomputed otherwise. A
    batch that is used for one optimizer step needs none, for then the policy is its own old policy.
    "sampling_logps" asks for the sampler's beside them, for methods without a ratio: they correct old
    rollouts by importance weights.
    """
    asked, sampled_BT = learner.needs.annotations, batch.sampling_logps_BT
    # Only this process samples with the very weights and products that the loss will see.
    exact = learner.origin in ("own", "replay")
    replayed = learner.origin == "replay" and sampled_BT is not None
    weighs = replayed and "sampling_logps" in asked
    wanted = {"values"} if "old_values" in asked else set()
    # An earlier policy sampled: what it reported is the old log-prob, however old it is.
    if replayed and not weighs:
        batch = batch.with_(old_logps_BT=sampled_BT)
    elif "old_logps" in asked or (not weighs and _reused(batch, learner, exact)):
        if exact and not weighs and not learner.amp and sampled_BT is not None:
            batch = batch.with_(old_logps_BT=sampled_BT)
        else:
            wanted.add("logps")

    # One forward gives both.
    if wanted:
        found = learner.rows(batch, frozenset(wanted))
        batch = batch.with_(**{f"old_{name}_BT": value for name, value in found.items()})
    return batch if weighs or not exact else batch.with_(sampling_logps_BT=None)


def _reused(batch: Batch, learner: Learner, exact: bool) -> bool:
    """Whether the policy moves before the batch is done, or another engine's rounding must be told apart."""
    return learner.steps_per_batch > 1 or (not exact and batch.sampling_logps_BT is not None)
