"""A method in words, from its own docstring and fields: what `kilter methods` prints and docs/methods holds.

A docstring has a fixed order: one sentence; the formula, indented; notation and "Paper:"; then "Use:",
"Watch:" and "Fails:".
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kilter.objectives.knobs import Knob, knobs
from kilter.objectives.registry import build_objective, objectives

if TYPE_CHECKING:
    from kilter.batch import Needs

DATA = {
    "demonstrations": "demonstrations: a prompt and a good answer",
    "pairs": "preference pairs: a prompt, a chosen and a rejected answer",
    "unpaired": "single answers judged good or bad (thumbs); pairs are split",
    "ranked": "ranked lists: a prompt and two or more answers with ranks or ratings",
    "rollouts": "prompts and a feedback source: the policy answers, and the answers are scored",
    "prompts": "prompts",
}
FAMILIES = {
    "imitation": "imitation",
    "pairs": "preference pairs",
    "unpaired": "thumbs",
    "lists": "ranked lists",
    "reward_models": "reward models",
    "rl": "reinforcement learning",
}


@dataclass(frozen=True, slots=True)
class Description:
    """Everything a reader asks of a method.

    `knobs` are its settings, `models` what is in memory while it trains.
    """

    name: str
    family: str
    summary: str
    formula: str
    notation: str
    paper: str
    use: str
    watch: str
    fails: str
    data: str
    models: tuple[str, ...]
    unit: str
    learning_rate: float
    knobs: tuple[Knob, ...]

    def to_json(self) -> dict[str, Any]:
        """The description as a dict of plain values, for JSON."""
        return asdict(self)


def describe(name: str) -> Description:
    """The description of a registered method, or of `file.py:Name`."""
    factory = objectives.get(name)
    objective = build_objective(name)
    text = inspect.getdoc(factory) or ""
    paragraphs = re.split(r"\n\s*\n", text)
    summary = " ".join(paragraphs[0].split())
    formula = "\n".join(inspect.cleandoc(p) for p in paragraphs[1:] if p.startswith("    "))
    if not formula and "L = " in summary:
        formula = re.split(r"(?<=\.) |: ", summary)[0].rstrip(".")
    prose = " ".join(" ".join(p.split()) for p in paragraphs[1:] if not p.startswith("    "))
    rest, fails = _cut(prose, "Fails:")
    rest, watch = _cut(rest, "Watch:")
    rest, use = _cut(rest, "Use:")
    whole = rest if re.search(r"Papers?:", rest) else f"{rest} {summary}"
    notation, paper = _cut(whole, "Papers:") if "Papers:" in whole else _cut(whole, "Paper:")
    if re.search(r"Papers?:", summary):
        summary, notation = re.split(r"Papers?:", summary)[0].strip(), rest
    family = (
        FAMILIES.get(factory.__module__.split(".")[2], "your own")
        if factory.__module__.startswith("kilter.objectives.")
        else "your own"
    )
    return Description(
        name,
        family,
        summary,
        formula,
        notation.strip(),
        paper,
        use,
        watch,
        fails,
        DATA[objective.needs.shape],
        models_held(objective.needs),
        objective.needs.unit,
        objective.needs.learning_rate,
        tuple(knobs(factory)),
    )


def _cut(text: str, mark: str) -> tuple[str, str]:
    before, _, after = text.partition(mark)
    return before.strip(), after.strip()


def models_held(needs: Needs) -> tuple[str, ...]:
    """What is in memory while a method with these needs trains, in words."""
    held = ["a reward model (trained)" if "reward" in needs.models else "the policy (trained)"]
    if "critic" in needs.models:
        held.append("a critic (trained)")
    if needs.teacher:
        held.append("a teacher (frozen)")
    if needs.opponent == "reference":
        held.append("the reference (frozen; it answers as well)")
    elif needs.opponent == "mixture" or ("ref_logps" in needs.annotations and needs.shape == "rollouts"):
        held.append("the reference (frozen; with adapters the policy with them off)")
    elif "ref_logps" in needs.annotations:
        held.append("no reference: its log-probs are computed once and cached")
    return tuple(held)


def page(d: Description, results: Sequence[str] = ()) -> str:
    """The method's page in Markdown, in the fixed order.

    `results`: what the project's own comparisons found.
    """
    rows = [f"| `{k.name}` | {_shown(k.default)} | {_range(k)} | {_meaning(k)} |" for k in d.knobs]
    table = (
        "\n".join(["| knob | default | range | meaning |", "|---|---|---|---|", *rows]) if rows else "None."
    )
    recipe = f"    kilter train --method {d.name} --model builtin:smollm2-135m --data your-file.jsonl"
    if d.family == "reinforcement learning":
        recipe += " --feedback my_rewards.py:reward"
    if "a teacher (frozen)" in d.models:
        recipe += " --teacher a-model"
    return "\n".join(
        [
            f"# {d.name}",
            "",
            d.summary,
            "",
            *_head("When to use it", f"{d.use[:1].upper()}{d.use[1:]}"),
            *_head("Data", f"{d.data[0].upper()}{d.data[1:]}."),
            recipe,
            "",
            "## Formula",
            "",
            *[f"    {line}" for line in d.formula.splitlines()],
            "",
            d.notation,
            "",
            *_head("Knobs", table),
            f"Default learning rate {d.learning_rate:g} (full training; adapters take about ten times as "
            f"much). In memory: {', '.join(d.models)}.",
            "",
            *_head("Metrics to watch", d.watch),
            *_head("Failure modes", f"{d.fails[:1].upper()}{d.fails[1:]}"),
            *_head("Result of our comparison", "\n\n".join(results) or "Not part of a comparison so far."),
            *_head("Paper", d.paper),
        ]
    )


def _head(title: str, text: str) -> list[str]:
    """A section's lines in Markdown."""
    return [f"## {title}", "", text, ""]


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _meaning(k: Knob) -> str:
    """In a cell of a Markdown table, where a bar would end it."""
    return (k.meaning or "see the text").replace("|", "\\|")


def _range(k: Knob) -> str:
    if k.choices:
        return ", ".join(map(str, k.choices))
    if k.kind.startswith("bool"):
        return "true, false"
    return k.interval + (f"; usual {k.usual}" if k.usual else "")
