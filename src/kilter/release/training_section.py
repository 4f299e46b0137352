"""The report's part of one training: its curves, and whether its reward was hacked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kilter import manifest as manifests
from kilter.artifacts import read_lines
from kilter.release.report import fill
from kilter.release.section import Section

CURVES = (
    ("reward", "reward"),
    ("kl/sequence", "KL, nats"),
    ("entropy", "entropy, nats"),
    ("completions/mean_length", "tokens"),
    ("frac_reward_zero_std", "zero-variance groups"),
    ("loss", "loss"),
    ("rewards/accuracies", "accuracy"),
    ("rewards/margins", "margin"),
    ("logps/chosen", "log-prob of chosen"),
    ("nll", "nll per token"),
    ("grad_norm", "gradient norm"),
)

PHRASE = "monitor/boilerplate_phrase"
"""What metrics.jsonl calls the phrase that most answers of a run hold."""

MARKED = 12
"""Events that stand on the curves, the first ones; all stand in the table."""


def training_section(folder: Path) -> Section | None:
    """Curves from metrics.jsonl; of a watched run also the gold evidence and the events.

    Args:
        folder: of the stage that trained.

    Returns:
        None where no step has been taken and nothing has been seen.
    """
    from kilter.release import figures

    rows, events = list(read_lines(folder / "metrics.jsonl")), list(read_lines(folder / "events.jsonl"))
    if not rows and not events:
        return None

    # One gold evaluation is the start's: there is no change to draw yet.
    name, entry = folder.resolve().name, manifests.read(folder)
    gold = list(read_lines(folder / "gold.jsonl"))
    facts = {} if entry is None else entry.facts
    stopped = gold[-1]["step"] if len(gold) > 1 and facts.get("stopped") else None
    kept = facts.get("best_step") if len(gold) > 1 else None
    numbered = [event | {"number": number} for number, event in enumerate(events, start=1)]
    page = fill(
        "training.html.j2",
        curves=figures.curves({name: rows}, CURVES, numbered[:MARKED]),
        gold=figures.proxy_against_gold(name, gold, stopped, kept) if len(gold) > 1 else "",
        events=numbered,
        name=name,
        stopped=stopped,
        kept=kept,
    )
    lead = "Thin: every optimizer step. Thick: a running mean." if rows else ""
    lead += " Dashed lines are events of the monitors, by their numbers below." if rows and events else ""
    lead += _phrase(rows[-1]) if rows else ""
    return Section("Training", lead, html=page, part="training")


def _phrase(row: Mapping[str, Any]) -> str:
    """The phrase that most of a watched run's answers hold, and how many of the last step's do."""
    if PHRASE not in row:
        return ""
    share = row["monitor/boilerplate"]
    said = f" At the last step {share:.0%} of the answers hold the phrase that the run repeats most"
    return f"{said}: {row[PHRASE]!r}."
