"""What principles do, measured: who fires, who contradicts whom, and what changes without each of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kilter.constitution.critique import look, said_by
from kilter.constitution.document import Constitution
from kilter.constitution.judge import MARGIN, ConstitutionJudge, combined, decides
from kilter.constitution.wording import critique_ask
from kilter.data.dataset import prompt_key
from kilter.errors import RunFailed
from kilter.feedback.judge.prompts import conversation
from kilter.feedback.judge.verdict import Comparison, Judgement, ToldJudge
from kilter.seams import Chat
from kilter.statistics import Estimate, PairedChange, paired_changes, proportion
from kilter.types import Prompt

Measure = Callable[[Prompt, str], float | None]
"""(prompt, answer) to a number; None where it does not apply."""

Votes = Sequence[Mapping[str, Judgement]]
"""Of each comparison, the judgement by the id of the principle."""


@dataclass(frozen=True, slots=True)
class Fires:
    """How often a principle finds something.

    invalid: critiques that name nothing, or that could not be had. rate: of those that count.
    """

    principle: str
    probes: int
    invalid: int
    rate: Estimate

    @property
    def says(self) -> str:
        """What a person should look at; "" where nothing is."""
        if not self.probes:
            return "its scope holds no prompt of this data"
        if self.rate.value is None:
            return "no critique under it could be used"
        return {0.0: "never fires", 1.0: "always fires"}.get(self.rate.value, "")


def fires(
    document: Constitution, critic: Chat, answers: Sequence[tuple[Prompt, str]], shots: int = 2
) -> list[Fires]:
    """Asks the critic under every principle, whose scope holds the prompt, about every answer.

    Raises:
        RunFailed: no critique could be used.
    """
    found, reasons = [], Counter[str]()
    for principle in document.principles:
        mine = [(p, a) for p, a in answers if principle.scope.holds(p)]
        replies = said_by(critic, [critique_ask(p, a, principle, shots) for p, a in mine])
        events: list[bool | None] = []
        for (prompt, answer), reply in zip(mine, replies, strict=True):
            read = ("invalid", reply.problem) if reply.problem else None
            kind, reason = read or look(reply.text, answer, conversation(prompt))
            events.append(None if kind == "invalid" else kind == "problem")
            reasons.update([reason] * (kind == "invalid"))
        found.append(Fires(principle.id, len(mine), events.count(None), proportion(events)))
    asked = sum(f.probes for f in found)
    if asked and reasons.total() == asked:
        raise nothing_said("critique", asked, reasons)
    return found


def votes(document: Constitution, judge: ToldJudge, comparisons: Sequence[Comparison]) -> Votes:
    """Every principle's own judgement on every comparison that its scope holds, in both orders."""
    return ConstitutionJudge(document, judge).votes(comparisons)


def said(found: Votes) -> Votes:
    """The same votes.

    Raises:
        RunFailed: none of them has a verdict, so that nothing could be measured of them.
    """
    judged = [v for row in found for v in row.values()]
    if any(v.p is not None for v in judged):
        return found
    if not judged:
        raise RunFailed("No principle is about any of these prompts", "name other data, or widen the scopes")
    raise nothing_said("verdict", len(judged), Counter(v.reason for v in judged))


def nothing_said(what: str, count: int, reasons: Counter[str]) -> RunFailed:
    """Of so many verdicts or critiques none could be used."""
    problem = f"None of {count} {what}s could be used; most often: {reasons.most_common(1)[0][0]}"
    return RunFailed(
        problem, "name another judge or critic; builtin: ones know the prompts of their world alone"
    )


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two principles on the pairs that both of them decide, in both orders.

    rate: share of those pairs on which they prefer different answers.
    """

    first: str
    second: str
    rate: Estimate

    def contradict(self, limit: float) -> bool:
        """Whether even the lower bound of the rate is above the limit."""
        return self.rate.ci_low is not None and self.rate.ci_low > limit


def conflicts(document: Constitution, found: Votes) -> list[Conflict]:
    """Every two principles that both decided some pair, the highest rate first."""
    out = []
    for a, b in itertools.combinations([p.id for p in document.principles], 2):
        both = [v for v in found if a in v and b in v and decides(v[a], MARGIN) and decides(v[b], MARGIN)]
        if both:
            opposite = [((v[a].p or 0.0) > 0.5) != ((v[b].p or 0.0) > 0.5) for v in both]
            out.append(Conflict(a, b, proportion(opposite)))
    return sorted(out, key=lambda c: (-(c.rate.value or 0.0), c.first, c.second))


def chosen(document: Constitution, comparisons: Sequence[Comparison], found: Votes) -> list[float | None]:
    """Probability of the first answer under a constitution, by its ranks and weights."""
    known = {p.id for p in document.principles}
    own = [{name: v for name, v in row.items() if name in known} for row in found]
    return [combined(document, c, v, MARGIN).p for c, v in zip(comparisons, own, strict=True)]


def values(
    measure: Measure, comparisons: Sequence[Comparison], p: Sequence[float | None]
) -> list[float | None]:
    """A measure of the answers that are preferred; of two equal ones, the mean of both."""
    out: list[float | None] = []
    for c, probability in zip(comparisons, p, strict=True):
        a, b = measure(c.prompt, c.first), measure(c.prompt, c.second)
        if probability is None or a is None or b is None:
            out.append(None)
        else:
            out.append(a if probability > 0.5 else b if probability < 0.5 else (a + b) / 2)
    return out


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a constitution is without one of its principles.

    moved: share of decisions that change with it. changes: by measure, what the preferred answers gain.
    """

    principle: str
    moved: Estimate
    changes: Mapping[str, PairedChange]


def leave_one_out(
    document: Constitution, comparisons: Sequence[Comparison], found: Votes, measures: Mapping[str, Measure]
) -> list[LeftOut]:
    """Leaves out each principle in turn, and compares both decisions on the same pairs.

    Pairs of one prompt count together. Each measure is one family, whose p-values Holm corrects.
    """
    if len(document.principles) < 2:
        return []
    whole = chosen(document, comparisons, found)
    left = {p.id: chosen(document.without(p.id), comparisons, found) for p in document.principles}
    prompts = prompts_of(comparisons)
    families = {
        name: paired_changes(
            {i: values(m, comparisons, p) for i, p in left.items()}, values(m, comparisons, whole), prompts
        )
        for name, m in measures.items()
    }
    return [
        LeftOut(i, proportion(_other_sides(whole, p), prompts), {name: f[i] for name, f in families.items()})
        for i, p in left.items()
    ]


def prompts_of(comparisons: Sequence[Comparison]) -> list[str]:
    """The prompt of each pair: pairs of one prompt are no independent trials."""
    return [prompt_key(c.prompt) for c in comparisons]


def _other_sides(first: Sequence[float | None], second: Sequence[float | None]) -> list[bool | None]:
    """Of each pair, whether two constitutions prefer different answers; None where one could not say."""
    both = zip(first, second, strict=True)
    return [None if x is None or y is None else _side(x) != _side(y) for x, y in both]


@dataclass(frozen=True)
class Difference:
    """Two constitutions on the same pairs of answers.

    agree: share of pairs on which they prefer the same. rates: by measure, the estimates of both and the
    paired difference, second minus first. texts: principles by what became of them.
    """

    names: tuple[str, str]
    pairs: int
    agree: Estimate
    rates: Mapping[str, tuple[float | None, float | None, PairedChange]]
    texts: Mapping[str, Sequence[str]]

    def to_json(self) -> dict[str, Any]:
        """The comparison as a dict of plain values, for JSON."""
        measures = {
            name: {"first": a, "second": b, "change": change.to_json()}
            for name, (a, b, change) in self.rates.items()
        }
        head = {"first": self.names[0], "second": self.names[1], "pairs": self.pairs}
        return head | {"agree": self.agree.to_json(), "measures": measures, "principles": dict(self.texts)}


def difference(
    first: Constitution,
    second: Constitution,
    judge: ToldJudge,
    comparisons: Sequence[Comparison],
    measures: Mapping[str, Measure],
) -> Difference:
    """Judges every pair under both, and compares the answers that each one prefers."""
    p = [chosen(d, comparisons, said(votes(d, judge, comparisons))) for d in (first, second)]
    rates, prompts = {}, prompts_of(comparisons)
    for name, measure in measures.items():
        a, b = (values(measure, comparisons, own) for own in p)
        means = [
            sum(known) / len(known) if (known := [v for v in x if v is not None]) else None for x in (a, b)
        ]
        rates[name] = (means[0], means[1], paired_changes({name: b}, a, prompts)[name])
    same = [None if other is None else not other for other in _other_sides(*p)]
    return Difference(
        (first.name, second.name), len(comparisons), proportion(same, prompts), rates, _texts(first, second)
    )


def _side(p: float) -> int:
    return (p > 0.5) - (p < 0.5)


def _texts(first: Constitution, second: Constitution) -> dict[str, list[str]]:
    a, b = ({p.id: p for p in d.principles} for d in (first, second))
    return {
        "only in the first": [i for i in a if i not in b],
        "only in the second": [i for i in b if i not in a],
        "changed": [i for i in a if i in b and a[i] != b[i]],
        "the same": [i for i in a if b.get(i) == a[i]],
    }
