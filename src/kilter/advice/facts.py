"""What can be measured of a data set, before any training, that decides which methods fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kilter.data.dataset import DataSpec, load
from kilter.data.shapes import border, to_shape
from kilter.data.worlds.registry import is_world, world_of

MEASURED = ("contradictions", "length_bias", "style_probe", "shortcut_probe")
"""Checks of the audit that tell methods apart."""

Kind = Literal["pairs", "thumbs", "rankings", "ratings", "scored", "demonstrations", "verifiable", "prompts"]


@dataclass(frozen=True, slots=True)
class Facts:
    """Counts and shares; None where the data has nothing to measure it on. Lengths in characters.

    border: a rating above the middle of all, where single answers are rated.
    """

    path: str
    format: str
    kind: Kind
    groups: int
    prompts: int
    answers_per_prompt: float
    verifiable: int
    left_out: int = 0
    desirable: int | None = None
    undesirable: int | None = None
    ties: int = 0
    contradictions: float | None = None
    longer_chosen: float | None = None
    longer_low: float | None = None
    longer_high: float | None = None
    style_auc: float | None = None
    shortcut_auc: float | None = None
    answer_length: float | None = None
    border: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The facts as a dict of plain values, for JSON."""
        return asdict(self)


def measure(spec: DataSpec) -> Facts:
    """Reads the data once as it is.

    Raises UserError when nothing can be read.
    """
    whole = load(
        spec.model_copy(update={"heldout": 0.0}),
        "pairs" if is_world(spec.path) and spec.world.view == "auto" else "prompts",
    )
    groups = whole.train
    kinds = Counter(_kind(len(g.completions), {f.kind for f in g.feedback}) for g in groups)
    kind: Kind = kinds.most_common(1)[0][0]  # type: ignore[assignment]
    verifiable = sum(
        "answer" in (*g.prompt.metadata, *g.prompt.columns) or world_of(g.prompt) is not None for g in groups
    )
    if kind in ("prompts", "demonstrations") and verifiable > len(groups) / 2:
        kind = "verifiable"
    lengths = [len(c.text) for g in groups for c in g.completions]
    common: dict[str, Any] = {
        "path": spec.path,
        "format": whole.format,
        "kind": kind,
        "groups": len(groups),
        "prompts": len({repr(g.prompt.messages or g.prompt.text) for g in groups}),
        "answers_per_prompt": round(sum(len(g.completions) for g in groups) / len(groups), 2),
        "verifiable": verifiable,
        "left_out": sum(whole.skipped.values()),
        "answer_length": round(sum(lengths) / len(lengths)) if lengths else None,
    }
    if kind == "thumbs":
        good = sum((g.feedback[0].score or 0) > 0 for g in groups)
        return Facts(**common, desirable=good, undesirable=len(groups) - good)
    if kind == "scored":
        return Facts(
            **common, border=border({f.score for g in groups for f in g.feedback if f.score is not None})
        )
    if kind in ("pairs", "rankings", "ratings"):
        skipped: Counter[str] = Counter()
        pairs = to_shape(groups, "pairs", skipped)
        from kilter.data.audit.run import examine

        found = {name: f.numbers for name, f in examine(pairs, MEASURED).items()}
        length, style, words = (found[n] for n in ("length_bias", "style_probe", "shortcut_probe"))
        return Facts(
            **common,
            ties=skipped["tie"],
            contradictions=found["contradictions"].get("share"),
            longer_chosen=length.get("share"),
            longer_low=length.get("ci_low"),
            longer_high=length.get("ci_high"),
            style_auc=style.get("auc"),
            shortcut_auc=words.get("auc"),
        )
    return Facts(**common)


def _kind(answers: int, kinds: set[str]) -> str:
    if answers == 0:
        return "prompts"
    if answers == 1:
        return (
            "thumbs"
            if kinds == {"binary"}
            else "scored"
            if kinds & {"rating", "rank", "reward", "verifier"}
            else "demonstrations"
        )
    if answers == 2:
        return "pairs"
    return "rankings" if "rank" in kinds else "ratings"
