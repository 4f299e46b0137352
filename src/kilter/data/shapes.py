"""Groups into the shape that a method reads: demonstrations, pairs, thumbs, rankings.

Conditional SFT also turns scores into words of the prompt.

What a shape leaves out is counted with its reason, never dropped in silence.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import replace
from typing import Literal

from pydantic import ConfigDict, Field

from kilter.errors import UserError
from kilter.types import Group, Message, Prompt, Shape
from kilter.validation import Settings

NEEDED = {
    "pairs": "two completions per prompt with unequal scores",
    "unpaired": "completions judged good or bad (a label), or pairs",
    "ranked": "two or more completions per prompt with different scores or ranks",
    "demonstrations": "at least one accepted completion per prompt",
    "prompts": "prompts",
    "rollouts": "prompts and feedback, or scored rollouts",
}


class PairRule(Settings):
    """Which pairs a list of rated or ranked answers gives."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    rule: Literal["best_worst", "all", "adjacent"] = Field(
        "best_worst", description="best against worst; every two unequal ones; neighbours in rank"
    )
    min_margin: float = Field(0.0, ge=0, description="pairs whose scores differ by less are left out")


class Condition(Settings):
    """Conditional SFT: every scored answer is a demonstration of its own level, written before the prompt.

    Afterwards the model is asked for the best level. Levels are quantiles of the training scores, and equal
    scores share a level. Papers: Lu et al. 2022 (Quark), Dong et al. 2023 (SteerLM), Korbak et al. 2023.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    levels: int = Field(
        2, ge=2, le=10, description="how many levels; each holds about the same number of answers"
    )
    text: str = Field(
        "Quality of the answer: {level} of {levels}.",
        description="the words; {level} counts from 1, the best is {levels}",
    )

    def applied(self, prompt: Prompt, level: int) -> Prompt:
        """The prompt with the level's words: a system message, or the beginning of raw text."""
        words = self.text.format(level=level, levels=self.levels)
        if prompt.text is not None:
            return replace(prompt, text=f"{words}\n{prompt.text}")
        messages = list(prompt.messages)
        if messages and messages[0]["role"] == "system":
            return replace(
                prompt,
                messages=(
                    Message(role="system", content=f"{messages[0]['content']}\n{words}"),
                    *messages[1:],
                ),
            )
        return replace(prompt, messages=(Message(role="system", content=words), *messages))


def to_shape(
    groups: Iterable[Group],
    shape: Shape,
    skipped: Counter[str],
    pairs: PairRule | None = None,
    threshold: float | None = None,
) -> list[Group]:
    """Groups as a method reads them; what is left out is counted in `skipped`.

    demonstrations: the best completion of each group; pairs: by the rule; ranked: best first, ties dropped;
    unpaired: judged single answers, of several the best (good) and the worst (bad), or with a threshold each
    rated answer by itself; prompts, rollouts: nothing is dropped.
    """
    return list(shaped(groups, shape, skipped, pairs, threshold))


def shaped(
    groups: Iterable[Group],
    shape: Shape,
    skipped: Counter[str],
    pairs: PairRule | None = None,
    threshold: float | None = None,
) -> Iterator[Group]:
    """What `to_shape` gives, one group after the other."""
    rule = pairs or PairRule()
    convert: dict[Shape, Callable[[Group], list[Group]]] = {
        "demonstrations": lambda g: _best(g, skipped),
        "pairs": lambda g: _pairs(g, rule, skipped),
        "ranked": lambda g: _ranking(g, skipped),
        "unpaired": lambda g: _judged(g, rule, skipped, threshold),
    }
    change = convert.get(shape)
    for group in groups:
        yield from [group] if change is None else change(group)


def asking(groups: Iterable[Group], skipped: Counter[str]) -> Iterator[Group]:
    """The groups whose prompt says something: a text to be continued by itself asks a model nothing."""
    for group in groups:
        if group.prompt.messages or (group.prompt.text or "").strip():
            yield group
        else:
            skipped["without a prompt"] += 1


def conditioned(
    train: Sequence[Group],
    heldout: Sequence[Group],
    shape: Shape,
    condition: Condition,
    skipped: Counter[str],
    field: str = "data.condition",
) -> tuple[list[Group], list[Group]]:
    """Conditional SFT, by levels of the training scores.

    Demonstrations become one per scored completion, with its level's words. In every other shape the prompts
    ask for the best level.
    """
    if shape != "demonstrations":
        best = [
            [replace(g, prompt=condition.applied(g.prompt, condition.levels)) for g in part]
            for part in (train, heldout)
        ]
        return best[0], best[1]
    counts = Counter(f.score for g in train for f in g.feedback if f.score is not None)
    level_of, below, total = {}, 0, sum(counts.values())
    for score in sorted(
        counts
    ):  # a score's level is that of its mid-rank, so that ties at the bottom stay at the bottom
        level_of[score] = 1 + min(
            condition.levels - 1, int(condition.levels * (below + counts[score] / 2) / total)
        )
        below += counts[score]
    if len(set(level_of.values())) < 2:
        raise UserError(
            field,
            dict(counts),
            "puts all answers into one level",
            "give answers with different scores, or leave the condition out",
        )
    known = sorted(level_of)

    def split(part: Sequence[Group]) -> list[Group]:
        out = []
        for g in part:
            for c, f in zip(g.completions, g.feedback, strict=True):
                if f.score is None:
                    skipped["no score to condition on"] += 1
                    continue
                # A held-out score that training never saw takes the level of the nearest one that it did.
                own = f.score
                level = level_of[min(known, key=lambda x: abs(x - own))]
                out.append(Group(condition.applied(g.prompt, level), (c,), (replace(f, kind="level"),)))
        return out

    return split(train), split(heldout)


def _score(group: Group, i: int) -> float:
    score = group.feedback[i].score
    return float("-inf") if score is None else score


def _best(group: Group, skipped: Counter[str]) -> list[Group]:
    if not group.completions:
        skipped["no completion"] += 1
        return []
    if len(group.completions) > 1 and all(f.score is None for f in group.feedback):
        skipped["unjudged, behind a first answer"] += len(group.completions) - 1
    best = max(range(len(group.completions)), key=lambda i: _score(group, i))
    if group.feedback[best].kind in ("binary", "steps") and group.feedback[best].score == 0:
        skipped["rejected by its label"] += 1
        return []
    return [group.picked([best])]


def _said(group: Group, i: int) -> tuple[str, str]:
    """What an answer says, white space normalised: two raters may have judged the same one."""
    return " ".join(group.completions[i].text.split()), repr(group.completions[i].turns)


def _ranking(group: Group, skipped: Counter[str]) -> list[Group]:
    scored = [i for i, f in enumerate(group.feedback) if f.score is not None]
    kept: dict[float, int] = {}
    for i in sorted(scored, key=lambda i: -_score(group, i)):
        if any(_said(group, i) == _said(group, j) for j in kept.values()):
            skipped["identical answers"] += 1
        elif _score(group, i) in kept:
            skipped["tied completion"] += 1
        else:
            kept[_score(group, i)] = i
    if len(kept) < 2:
        skipped["fewer than two ranks"] += 1
        return []
    return [group.picked(list(kept.values()))]


def _pairs(group: Group, rule: PairRule, skipped: Counter[str]) -> list[Group]:
    return [group.picked(pair) for pair in pairs_of(group, rule, skipped)]


def pairs_of(group: Group, rule: PairRule, skipped: Counter[str]) -> list[tuple[int, int]]:
    """(better, worse) as places in the group, by the rule; what gives no pair is counted in `skipped`."""
    return apart(group, compared(group, rule, skipped), rule, skipped)


def compared(group: Group, rule: PairRule, skipped: Counter[str]) -> list[tuple[int, int]]:
    """(better, worse) as places in the group, by the rule, however close the scores are."""
    order = sorted(
        (i for i, f in enumerate(group.feedback) if f.score is not None), key=lambda i: -_score(group, i)
    )
    if len(order) < 2:
        skipped["fewer than two scored completions"] += 1
        return []
    # Sides of a file's own pairs: every chosen answer stands against every rejected one.
    if {f.kind for f in group.feedback} == {"sides"}:
        return [(i, j) for i, j in itertools.combinations(order, 2) if _score(group, i) > _score(group, j)]
    return {
        "best_worst": lambda: [(order[0], order[-1])],
        "all": lambda: list(itertools.combinations(order, 2)),
        "adjacent": lambda: list(itertools.pairwise(order)),
    }[rule.rule]()


def apart(
    group: Group, pairs: Sequence[tuple[int, int]], rule: PairRule, skipped: Counter[str]
) -> list[tuple[int, int]]:
    """The pairs whose scores differ by enough; the others are counted."""
    out = []
    for high, low in pairs:
        gap = _score(group, high) - _score(group, low)
        if gap != 0 and _said(group, high) == _said(group, low):
            skipped["identical answers"] += 1
        elif gap == 0:
            skipped["tie"] += 1
        elif gap < rule.min_margin:
            skipped[f"margin below {rule.min_margin:g}"] += 1
        else:
            out.append((high, low))
    return out


LABELLED = ("binary", "steps")
"""Kinds of feedback that call an answer good or bad. Others say how good it is."""


SIDES = ("label", "sides", "demonstration")
"""Kinds that only tell the better answer from the worse one, unless their scores are ratings."""


def _rates(group: Group) -> bool:
    """Whether the answers of a group are rated, so that a threshold tells the good ones."""
    own = (f for f in group.feedback if f.kind not in LABELLED)
    return any(f.kind not in SIDES or f.score not in (None, 0, 1) for f in own)


def _judged(group: Group, rule: PairRule, skipped: Counter[str], threshold: float | None) -> list[Group]:
    if threshold is not None and _rates(group):
        return _graded(group, threshold, skipped)
    if len(group.completions) == 1:
        if group.feedback[0].score is None:
            skipped["no label"] += 1
            return []
        return [group]
    ends = PairRule(rule="best_worst", min_margin=rule.min_margin)
    return [
        Group(group.prompt, (c,), (replace(f, score=float(i == 0), kind="binary", against=()),))
        for pair in _pairs(group, ends, skipped)
        for i, (c, f) in enumerate(zip(pair.completions, pair.feedback, strict=True))
    ]


def _graded(group: Group, threshold: float, skipped: Counter[str]) -> list[Group]:
    """Each rated answer by itself, good from the threshold on."""
    out = []
    for c, f in zip(group.completions, group.feedback, strict=True):
        if f.score is None:
            skipped["no score"] += 1
            continue
        label = replace(f, score=float(f.score >= threshold), kind="binary", against=())
        out.append(Group(group.prompt, (c,), (label,)))
    return out


TWO_VALUED = ({0.0, 1.0}, {-1.0, 1.0})
"""Scores that are labels: the higher one is good."""


def border(scores: Set[float]) -> float | None:
    """A threshold above the middle of these scores; None where they are labels already."""
    if any(scores <= two for two in TWO_VALUED):
        return None
    low, high = min(scores), max(scores)
    middle = (low + high) / 2
    return math.floor(middle) + 1.0 if high - low >= 2 else round(middle, 2)


def refuse_unrated(
    groups: Iterable[Group], shape: Shape, pairs: PairRule, threshold: float | None, where: str
) -> None:
    """Raises UserError for settings about ratings where nothing rates an answer.

    Args:
        groups: as they were read.
        shape: what they are brought into.
        pairs: read for pairs and for labels.
        threshold: read for labels alone.
        where: what a recipe calls the data set.
    """
    given: dict[str, float] = {}
    if shape in ("pairs", "unpaired") and pairs.min_margin:
        given["pairs.min_margin"] = pairs.min_margin
    if shape == "unpaired" and threshold is not None:
        given["threshold"] = threshold
    for field, value in given.items():
        if not any(map(_rates, groups)):
            problem = "has no effect: the data tells better answers from worse ones, and rates none"
            raise UserError(f"{where}.{field}", value, problem, "leave it out, or give data with ratings")


def refuse_ungraded(groups: Iterable[Group], field: str) -> None:
    """Raises UserError where single answers are rated, and nothing says from which rating on one is good.

    A rating of 1 to 5 is above 0 throughout. To take the sign would call every answer good.

    Args:
        groups: as they were read.
        field: what a recipe calls the threshold.
    """
    single = (g.feedback[0] for g in groups if len(g.completions) == 1)
    scores = {f.score for f in single if f.score is not None and f.kind not in LABELLED}
    example = border(scores)
    if example is None:
        return
    low, high = min(scores), max(scores)
    raise UserError(
        field,
        None,
        f"is needed to tell good answers from bad ones: the data rates them from {low:g} to {high:g}",
        f"name the first good rating, such as --data.threshold {example:g} "
        f"(in a recipe --set {field}={example:g})",
    )
