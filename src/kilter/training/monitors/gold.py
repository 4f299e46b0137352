"""Evidence: answers to the same held-out prompts every few steps, judged by a source that training does not see."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kilter.data.store import trim_torn_line
from kilter.evaluation.statistics import Metric, paired_difference
from kilter.types import Feedback, FeedbackSource, Group, Prompt, Sampler, SamplingParams

MARGIN_STEPS = 2
"""Evaluations in a row that must show proxy up and gold down before the run stops."""


@dataclass
class GoldEvaluator:
    """One answer per held-out prompt, with the same seed each time, scored by the gold source and by the reward that trains."""

    prompts: Sequence[Prompt]
    sampler: Sampler
    gold: FeedbackSource
    proxy: FeedbackSource
    params: SamplingParams

    def __call__(self) -> dict[str, list[float | None]]:
        """{"gold": [...], "proxy": [...], "length": [...]}, one value per prompt."""
        answers = self.sampler.generate(self.prompts, 1, self.params)
        groups = [Group(p, tuple(a), (Feedback(None),)) for p, a in zip(self.prompts, answers, strict=True)]
        return {
            "gold": [f[0].score for f in self.gold(groups)],
            "proxy": [f[0].score for f in self.proxy(groups)],
            "length": [float(len(a[0].token_ids or ())) for a in answers],
        }


@dataclass
class GoldHistory:
    """Every gold evaluation of a run, on disk in gold.jsonl; the first one is the reference."""

    path: Path | None = None
    entries: list[dict[str, Any]] = field(default_factory=list)

    def load(self, resume_step: int) -> None:
        """Evaluations up to the checkpoint."""
        if self.path is None or not self.path.exists():
            return
        trim_torn_line(self.path)
        self.entries = [e for line in self.path.read_text().splitlines() if (e := json.loads(line))["step"] <= resume_step]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(e) + "\n" for e in self.entries))
        os.replace(partial, self.path)

    def add(self, step: int, values: dict[str, list[float | None]]) -> dict[str, Any]:
        """Adds an evaluation with its paired differences to the first; returns the entry."""
        entry: dict[str, Any] = {"step": step, "values": values}
        first = self.entries[0]["values"] if self.entries else values
        for name in values:
            known = [v for v in values[name] if v is not None]
            entry[name] = sum(known) / len(known) if known else None
            entry[f"{name}_change"] = paired_difference(values[name], first[name]).to_json() if self.entries and known else None
        self.entries.append(entry)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as f:
                f.write(json.dumps(entry) + "\n")
        return entry

    def best(self) -> int | None:
        """Step of the best mean gold score, the earliest among equals."""
        known = [(e["gold"], -e["step"]) for e in self.entries if e["gold"] is not None]
        return -max(known)[1] if known else None

    def hacked(self) -> bool:
        """Proxy up and gold's paired change significantly down, in the last evaluations in a row."""
        recent = self.entries[1:][-MARGIN_STEPS:]
        return len(recent) == MARGIN_STEPS and all(diverges(e) for e in recent)


def diverges(entry: dict[str, Any]) -> bool:
    """Proxy above its start while the interval of the gold change lies below 0."""
    gold, proxy = entry.get("gold_change"), entry.get("proxy_change")
    if not gold or not proxy:
        return False
    high = Metric(**gold).ci_high
    return high is not None and high < 0 and (Metric(**proxy).value or 0) > 0
