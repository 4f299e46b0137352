"""Two constitutions on the same answers, as a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from kilter.constitution.probe import Difference
from kilter.statistics import Estimate


def interval(estimate: Estimate, sign: bool = False) -> str:
    """A number with its interval and n."""
    if estimate.value is None:
        return "not measured"
    form = "+.2f" if sign else ".2f"
    bounds = "no interval"
    if estimate.ci_low is not None and estimate.ci_high is not None:
        bounds = f"{estimate.ci_low:{form}} to {estimate.ci_high:{form}}"
    return f"{estimate.value:{form}} ({bounds}, n = {estimate.n})"


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
    yield f"{found.pairs} pairs of {data}, judged by {judge} in both orders under every principle."
    yield f"Both prefer the same answer in {interval(found.agree)} of the pairs that both could judge."
    yield ""
    yield f"| of the preferred answers | {first} | {second} | difference, paired |"
    yield "|---|---|---|---|"
    for name, (a, b, change) in found.rates.items():
        yield f"| {name} | {_number(a)} | {_number(b)} | {interval(change, sign=True)} |"
    yield ""
    for what, names in found.texts.items():
        if names:
            yield f"- {what}: {', '.join(names)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
