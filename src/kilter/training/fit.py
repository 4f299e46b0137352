"""Whether the model can read every row: its tokens have embeddings, and its positions reach to the end.

Looked at before the first step, so that no row stops a run in its middle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from kilter.data.encode import Encoder
from kilter.errors import UserError
from kilter.models.forward import Scorer
from kilter.models.load import config_of, vocabulary_of
from kilter.models.positions import positions
from kilter.training.config import TrainSpec
from kilter.types import Encoded, Prompt


@dataclass(frozen=True, slots=True)
class Room:
    """What a model can read.

    Args:
        model: what people call it.
        positions: tokens of a row; None: no end.
        vocabulary: token ids that have an embedding.
    """

    model: str
    positions: int | None
    vocabulary: int

    @classmethod
    def of(cls, scorer: Scorer, start: Path) -> Room:
        """That of a model that is loaded, from the folder `start`."""
        return cls(str(start), positions(scorer._base().config.get_text_config()), scorer.vocabulary)

    @classmethod
    def outlined(cls, folder: Path) -> Room:
        """The same from a folder; no weights are read."""
        return cls(str(folder), positions(config_of(folder)), vocabulary_of(folder))


def refuse_unreadable_rows(
    spec: TrainSpec, room: Room, encoder: Encoder, rows: Iterable[Encoded], where: str = ""
) -> None:
    """Raises UserError for rows that are too long, or have tokens without an embedding.

    `where`: prefix of the fields of settings in errors.
    """
    limit, size = room.positions, room.vocabulary
    beyond = Counter[int]()
    total = long = longest = 0
    # Once over all rows, which may lie on disk.
    for row in rows:
        beyond.update({i for ids in (row.prompt_ids, *row.completion_ids) for i in ids if i >= size})
        length = len(row.prompt_ids) + max(map(len, row.completion_ids), default=0)
        total, longest = total + 1, max(longest, length)
        long += limit is not None and length > limit
    _refuse_unknown_tokens(room, encoder, beyond)
    if long:
        raise UserError(
            f"{where}max_length",
            spec.max_length,
            f"leaves {long} of {total} rows longer than the {limit} positions of the model "
            f"(the longest has {longest} tokens)",
            f"lower max_length to {limit}, or use a model with a longer context",
        )


def refuse_unreadable_prompts(
    spec: TrainSpec, room: Room, encoder: Encoder, prompts: Iterable[Prompt], where: str = ""
) -> list[tuple[int, ...]]:
    """The prompts as tokens.

    Raises:
        UserError: a prompt and the longest answer to it do not fit into the model.
    """
    # A copy counts what it cuts for itself: the prompts will be encoded again when their turn comes.
    trial = replace(encoder, counts=Counter())
    ids = [trial.prompt(p) for p in prompts]
    beyond = Counter(i for row in ids for i in set(row) if i >= room.vocabulary)
    _refuse_unknown_tokens(room, encoder, beyond)
    limit, answer = room.positions, spec.sampler.max_new_tokens
    longest = max(map(len, ids), default=0)
    if not ids or limit is None or longest + answer <= limit:
        return ids
    left = limit - longest
    fix = f"lower sampler.max_new_tokens to {left}" if left > 0 else f"lower max_length to {limit}"
    raise UserError(
        f"{where}sampler.max_new_tokens",
        answer,
        f"does not fit: the longest prompt has {longest} tokens, and the model {limit} positions for both",
        f"use a model with a longer context, or {fix}",
    )


def _refuse_unknown_tokens(room: Room, encoder: Encoder, beyond: Counter[int]) -> None:
    """A tokenizer may have more tokens than the model has rows for, as long as no text needs them."""
    if not beyond:
        return
    names = ", ".join(repr(encoder.tokenizer.decode([i])) for i, _ in beyond.most_common(3))
    raise UserError(
        "model",
        room.model,
        f"has {room.vocabulary} rows of embeddings, and its tokenizer {len(encoder.tokenizer)} tokens: "
        f"the data uses {names}",
        f"give a model with {len(encoder.tokenizer)} rows (model.resize_token_embeddings), "
        "or remove the added tokens",
    )
