"""Arrangements of rows by name: the groups as they are stored, or several answers side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from kilter.data.shelf import Joined, shelved
from kilter.errors import UserError
from kilter.registry import Registry
from kilter.types import Encoded, Feedback, Group

Arrangement = Callable[[Sequence[Encoded], int, Sequence[Encoded]], Sequence[Encoded]]
"""(groups, max_length in tokens, further groups to choose from) to the groups that are collated."""

arrangements: Registry[Arrangement] = Registry("rows")
"""What `Needs.rows` may name."""

READS = {"joint": "pairs"}
"""What a scoring model that was trained on an arrangement has to be given, where that is no single answer."""


def with_labels(groups: Sequence[Group], labels: frozenset[int]) -> Sequence[Group]:
    """Judged single answers with one of these labels; a score above 0 is label 1."""
    return shelved(g for g in groups if int(float(g.feedback[0].score or 0) > 0) in labels)


@arrangements.register("stored")
def stored(groups: Sequence[Encoded], max_length: int, pool: Sequence[Encoded] = ()) -> Sequence[Encoded]:
    """Leaves the groups as the data has them."""
    return groups


@arrangements.register("mismatched")
def with_mismatched(
    groups: Sequence[Encoded], max_length: int, pool: Sequence[Encoded] = ()
) -> Sequence[Encoded]:
    """Puts beside each single answer, unscored, the answer to the next, different prompt of the data.

    KTO's reference point is measured on it. The partner depends on the data alone, so reference log-probs of
    both can be computed once.

    Args:
        groups: single judged answers.
        max_length: tokens of prompt and answer.
        pool: more answers to choose from, for a small held-out side.

    Raises:
        UserError: if all prompts are the same.
    """
    everyone = Joined(groups, pool)
    return shelved(_beside(i, group, everyone, len(groups), max_length) for i, group in enumerate(groups))


def _beside(place: int, group: Encoded, everyone: Sequence[Encoded], count: int, max_length: int) -> Encoded:
    """A single answer and the one to the next other prompt, cut to the room that its own prompt leaves."""
    others = (everyone[(place + j) % len(everyone)] for j in range(1, len(everyone)))
    other = next((o for o in others if o.prompt_ids != group.prompt_ids), None)
    if other is None:
        raise UserError(
            "data",
            f"{count} rows",
            "has a single prompt",
            "give answers to several prompts: the reference point is measured across them",
        )
    room = max(1, max_length - len(group.prompt_ids))
    both = replace(
        group.group,
        completions=(*group.group.completions, other.group.completions[0]),
        feedback=(*group.group.feedback, Feedback(None, kind="mismatched")),
    )
    ids, mask = other.completion_ids[0][:room], other.masks[0][:room]
    return Encoded(
        both,
        group.prompt_ids,
        (*group.completion_ids, ids),
        (*group.masks, mask if any(mask) else (1,) * len(ids)),
    )


def in_one_row(group: Encoded, first: int, second: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(ids, mask) of two answers one after the other, as a preference model reads them."""
    ids, masks = group.completion_ids, group.masks
    return (*ids[first], *ids[second]), (*masks[first], *masks[second])


@arrangements.register("joint")
def joint(groups: Sequence[Encoded], max_length: int, pool: Sequence[Encoded] = ()) -> Sequence[Encoded]:
    """Each pair in its two orders, as two rows that hold both answers.

    The chosen answer is the first of the first row and the last of the second. Where prompt and both answers
    are longer than max_length, each answer is cut to half of the room that the prompt leaves.
    """
    return shelved(_both_orders(group, max_length) for group in groups)


def _both_orders(group: Encoded, max_length: int) -> Encoded:
    half = max(1, (max_length - len(group.prompt_ids)) // 2)
    if sum(map(len, group.completion_ids)) > 2 * half:
        group = replace(
            group,
            completion_ids=tuple(c[:half] for c in group.completion_ids),
            masks=tuple(m[:half] for m in group.masks),
        )
    (ids, mask), (ids_swapped, mask_swapped) = in_one_row(group, 0, 1), in_one_row(group, 1, 0)
    return replace(group, completion_ids=(ids, ids_swapped), masks=(mask, mask_swapped))
