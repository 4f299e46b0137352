"""Rows of fixed data as a method trains on them; a plan looks at the same rows before any stage runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kilter.batch import Needs
from kilter.data.arrange import arrangements, with_labels
from kilter.data.encode import Encoder
from kilter.errors import UserError
from kilter.training.config import TrainSpec
from kilter.types import Encoded, Group


@dataclass(frozen=True, slots=True)
class Rows:
    """What trains, what is reported on, and by what the best weights are chosen.

    left_out: answers that the method does not learn from, by their label.
    """

    train: Sequence[Encoded]
    heldout: Sequence[Encoded]
    select: Sequence[Encoded]
    left_out: int = 0


def rows_of(
    spec: TrainSpec,
    needs: Needs,
    encoder: Encoder,
    groups: Sequence[Group],
    heldout: Sequence[Group] = (),
    select: Sequence[Group] = (),
    where: str = "",
) -> Rows:
    """Labelled, encoded and arranged groups.

    Args:
        spec: the settings.
        needs: what the method asks for.
        encoder: of the model that trains.
        groups: training groups.
        heldout: groups that are reported on.
        select: groups to choose weights by.
        where: prefix of fields in errors.

    Raises:
        UserError: nothing is left to learn from, or nothing to stop by.
    """
    kept = groups
    # What a method cannot learn from is left out before it is tokenised.
    if len(needs.labels) == 1:
        kept, heldout, select = (with_labels(part, needs.labels) for part in (groups, heldout, select))
    if not kept and groups:
        (label,) = needs.labels
        raise UserError(
            f"{where}data",
            f"{len(groups)} rows",
            f"holds no answer labelled {bool(label)}",
            "choose another method: this one learns from those alone",
        )

    # Data without a single usable row is an error here, not an empty run.
    encoded = encoder.encode_all(kept, f"{where}data", f"{len(kept)} groups")
    held, chosen_by = encoder.encode_rows(heldout), encoder.encode_rows(select)
    if spec.early_stopping is not None and not chosen_by:
        raise UserError(
            f"{where}early_stopping",
            spec.early_stopping.metric,
            "has no held-out rows to look at: as many are set aside for it as data.heldout keeps",
            "set data.heldout above 0 or give more data, or leave early_stopping out",
        )
    arrange, length = arrangements.get(needs.rows), spec.max_length
    arranged = arrange(encoded, length, ())
    return Rows(
        arranged,
        arrange(held, length, arranged),
        arrange(chosen_by, length, arranged),
        len(groups) - len(kept),
    )
