"""What principles do, and two constitutions on the same answers: as rows, and as a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kilter.constitution.probe import Difference, Fires, LeftOut
from kilter.screen import many
from kilter.statistics import Estimate, PairedChange

FIRES = ("principle", "fires on", "name nothing", "")
LEFT_OUT = (
    "without",
    "decisions that change",
    "of the preferred answers",
    "change, paired",
    "+/-",
    "p",
    "p (Holm)",
)
ABOUT_LEFT_OUT = (
    "Intervals are 95 %, over prompts. +/- counts the prompts on which a measure is higher and lower without "
    "the principle. p is the exact sign test of these counts, which for decisions of 0 and 1 is McNemar's. "
    "p (Holm) holds over all principles together."
)
"""How a table of principles that are left out is read."""


def interval(estimate: Estimate, sign: bool = False) -> str:
    """A number with its interval and n."""
    if estimate.value is None:
        return "not measured"
    form = "+.2f" if sign else ".2f"
    bounds = "no interval"
    if estimate.ci_low is not None and estimate.ci_high is not None:
        bounds = f"{estimate.ci_low:{form}} to {estimate.ci_high:{form}}"
    return f"{estimate.value:{form}} ({bounds}, n = {estimate.n})"


def fires_rows(found: Sequence[Fires]) -> list[tuple[str, ...]]:
    """A row per principle, under FIRES."""
    return [(f.principle, interval(f.rate), f"{f.invalid} of {f.probes}", f.says) for f in found]


def surest_first(found: Sequence[LeftOut]) -> list[LeftOut]:
    """Principles by their smallest p-value."""
    return sorted(
        found,
        key=lambda one: min((c.p_holm for c in one.changes.values() if c.p_holm is not None), default=2.0),
    )


def left_out_rows(found: Sequence[LeftOut]) -> list[tuple[str, ...]]:
    """Under LEFT_OUT, a row per principle and measure that changes with it."""
    rows: list[tuple[str, ...]] = []
    for one in surest_first(found):
        changed = [(name, *tested(c)) for name, c in one.changes.items() if c.gains or c.losses]
        # Its name stands once, so that what belongs to one principle is seen at a glance.
        heads = [(one.principle, interval(one.moved)), *[("", "")] * len(changed)]
        lines: list[tuple[str, ...]] = [*changed] or [("nothing", "", "", "", "")]
        rows += [(*head, *line) for head, line in zip(heads, lines, strict=False)]
    return rows


def tested(change: PairedChange) -> tuple[str, str, str, str]:
    """A change with its interval, its counts and its p-values."""
    counts = f"{change.gains}/{change.losses}"
    return interval(change, sign=True), counts, _p(change.p), _p(change.p_holm)


def _p(value: float | None) -> str:
    return "" if value is None else "< .001" if value < 0.001 else f"{value:.3f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    ruler = "|".join("---" for _ in head)
    return [f"| {' | '.join(head)} |", f"|{ruler}|", *(f"| {' | '.join(row)} |" for row in rows)]


def principles_page(
    name: str, fired: Sequence[Fires], left: Sequence[LeftOut], data: str, critic: str, judge: str
) -> str:
    """The page of `kilter constitution test`.

    Args:
        name: of the constitution.
        fired: how often each principle finds something.
        left: what changes without each of them; none where no judge was asked.
        data: name of the pairs.
        critic: who criticised.
        judge: who compared; "" for nobody.
    """
    lines = [f"# What the principles of {name} do", "", f"Answers of {data}, criticised by {critic}.", ""]
    lines += table(FIRES, fires_rows(fired))
    if left:
        lines += ["", "## Without each principle", "", f"Pairs of {data}, judged by {judge} in both orders."]
        lines += [ABOUT_LEFT_OUT, "", *table(LEFT_OUT, left_out_rows(left))]
    return "\n".join(lines) + "\n"


def page(found: Difference, data: str, judge: str) -> str:
    """The page.

    Args:
        found: what was measured.
        data: name of the pairs.
        judge: name of who compared.
    """
    return "\n".join(_lines(found, data, judge)) + "\n"


def _lines(found: Difference, data: str, judge: str) -> Iterator[str]:
    first, second = found.names
    yield f"# {first} against {second}"
    yield ""
    yield f"{many(found.pairs, 'pairs')} of {data}, judged by {judge} in both orders under every principle."
    yield f"Both prefer the same answer in {interval(found.agree)} of the pairs that both could judge."
    yield ""
    head = ("of the preferred answers", first, second, "difference, paired", "+/-", "p")
    rows = [
        (name, _number(a), _number(b), *tested(change)[:3]) for name, (a, b, change) in found.rates.items()
    ]
    yield from table(head, rows)
    yield ""
    yield "Intervals are 95 %, of the mean over prompts. +/- counts the prompts on which the second is higher"
    yield "and lower; p is the exact sign test of these counts, which knows nothing of how much higher."
    yield ""
    for what, names in found.texts.items():
        if names:
            yield f"- {what}: {', '.join(names)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
