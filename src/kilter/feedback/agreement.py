"""Agreement of labels with people, measured on answers that carry both, before anybody trains on them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field

from kilter.data.dataset import prompt_key
from kilter.data.lineage import lineage
from kilter.feedback.worlds import OwnJudge
from kilter.refs import DataRef
from kilter.types import Feedback, Group
from kilter.validation import Settings

PEOPLE = "people"


class Agreement(Settings):
    """Whose labels the new ones are compared with, and on how many rows."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    limit: int = Field(
        400, ge=0, description="rows of either data on which labels are compared with people's; 0: off"
    )
    data: DataRef | None = Field(
        None, description="$name of pairs that people labelled: they are scored too, and not written"
    )


def labels_of_people(groups: Sequence[Group]) -> list[tuple[str, tuple[Feedback, ...]]]:
    """Whose labels each row brings, and the labels; the truth of its world where it brings none.

    A label that an earlier stage made is not one of people.
    """
    truth = OwnJudge([g.prompt for g in groups])(groups)
    found = []
    for group, known in zip(groups, truth, strict=True):
        made = any(entry["kind"] in ("label", "rollouts") for entry in lineage(group.prompt))
        own = {f.score for f in group.feedback} - {None}
        if len(own) > 1 and not made:
            found.append((PEOPLE, group.feedback))
        else:
            found.append((next((f.source for f in known if f.source), ""), tuple(known)))
    return found


def agreement(groups: Sequence[Group], judged: Sequence[Group]) -> dict[str, Any] | None:
    """How far labels agree with people's; None where no two answers carry both.

    Args:
        groups: as they came, with the labels of people.
        judged: the same answers with the new labels.

    Returns:
        with: whose labels. pairs, ties, unscored: counts. raw and kappa: Estimates over the pairs that people
        order, as JSON. A tie of the new labels is no agreement, and an unscored pair is counted apart.
    """
    from kilter.statistics import clustered, cohen_kappa

    whose: dict[str, None] = {}
    people: list[float] = []
    new: list[float] = []
    clusters: list[str] = []
    for group, (who, labels) in zip(judged, labels_of_people(groups), strict=True):
        # A source is not compared with itself.
        if any(f.source == who for f in group.feedback):
            continue
        for a, b in itertools.combinations(range(len(labels)), 2):
            wanted = _order(labels[a].score, labels[b].score)
            if wanted is None or wanted == 0.5:
                continue
            found = _preferred(group.feedback, a, b)
            # In most data the better answer stands first; without turning, chance would agree too.
            turned = _turned(group, a, b)
            people.append(1 - wanted if turned else wanted)
            new.append(float("nan") if found is None else 1 - found if turned else found)
            clusters.append(prompt_key(group.prompt))
            whose.setdefault(who)
    if not people:
        return None
    agrees = [x if x != x else float(x == y) for x, y in zip(new, people, strict=True)]
    raw, kappa = clustered(agrees, clusters), cohen_kappa(people, new, clusters)
    return {
        "with": " and ".join(who if who == PEOPLE else f"the truth of {who}" for who in whose),
        "pairs": raw.n,
        "ties": new.count(0.5),
        "unscored": raw.n_unscored,
        "raw": raw.to_json(),
        "kappa": kappa.to_json(),
    }


def in_words(found: Mapping[str, Any]) -> str:
    """One line for a person."""
    raw, kappa = found["raw"], found["kappa"]
    if raw["value"] is None:
        return f"agreement with {found['with']}: none of {found['unscored']} pairs was scored"
    told = f"agreement with {found['with']}: {raw['value']:.1%} of {raw['n']} pairs{_between(raw, '.1%')}"
    told += f", kappa {kappa['value']:.2f}{_between(kappa, '.2f')}" if kappa["value"] is not None else ""
    apart = [f"{found[name]} {name}" for name in ("ties", "unscored") if found[name]]
    return f"{told}; {', '.join(apart)}" if apart else told


def _between(estimate: Mapping[str, Any], shape: str) -> str:
    if estimate["ci_low"] is None:
        return ""
    return f" ({estimate['ci_low']:{shape}} to {estimate['ci_high']:{shape}})"


def _order(first: float | None, second: float | None) -> float | None:
    """1 where the first is better, 0 where the second is, 1/2 for a tie; None where one is unscored."""
    if first is None or second is None:
        return None
    return 0.5 if first == second else float(first > second)


def _preferred(feedback: Sequence[Feedback], a: int, b: int) -> float | None:
    """Which of two answers the labels prefer: by a judge's odds between the two, else by scores."""
    p = feedback[a].over(b)
    return _order(feedback[a].score, feedback[b].score) if p is None else _order(p, 0.5)


def _turned(group: Group, a: int, b: int) -> bool:
    """Whether a pair is read from its second answer: half of them are, by hash."""
    texts = "\0".join(group.completions[i].text for i in (a, b))
    return hashlib.sha256(texts.encode("utf-8", "surrogatepass")).digest()[0] % 2 == 1
