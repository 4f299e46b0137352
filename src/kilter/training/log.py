"""metrics.jsonl, trackers and the progress display of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kilter.artifacts import append_lines, cut_lines
from kilter.errors import UserError


class MetricsFile:
    """One JSON object per optimizer step. On resume, lines after the checkpoint are cut, for they will be written again."""

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        cut_lines(path, lambda row: row["step"] <= resume_step)

    def write(self, record: dict[str, Any]) -> None:
        """Appends, so that a kill loses nothing already logged."""
        append_lines(self.path, [record])


def check_trackers(names: list[str]) -> dict[str, Any]:
    """Tracker classes by name. Raises UserError for an unknown or uninstalled one; called before any expensive work."""
    if not names:
        return {}
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = {str(t) for t in get_available_trackers()}
    known = {str(k): v for k, v in LOGGER_TYPE_TO_CLASS.items()}
    for name in names:
        if name not in known:
            raise UserError("trackers", name, "unknown tracker", f"one of: {', '.join(sorted(known))}")
        if name not in available:
            raise UserError("trackers", name, "is not installed", f"run: pip install {name}")
    return {name: known[name] for name in names}


class Trackers:
    """Any tracker of accelerate by name. They see numbers only; metrics.jsonl remains the record."""

    def __init__(self, names: list[str], folder: Path, config: dict[str, Any]) -> None:
        self._trackers: list[Any] = []
        for cls in check_trackers(names).values():
            folder.mkdir(parents=True, exist_ok=True)
            tracker = (
                cls("kilter", logging_dir=str(folder)) if cls.requires_logging_directory else cls("kilter")
            )
            if hasattr(tracker, "start"):
                tracker.start()
            tracker.store_init_configuration(
                {k: v for k, v in config.items() if isinstance(v, int | float | str | bool)}
            )
            self._trackers.append(tracker)

    def write(self, record: dict[str, Any]) -> None:
        """Logs the numbers of one step."""
        numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and k != "step"}
        for tracker in self._trackers:
            tracker.log(numbers, step=record["step"])

    def close(self) -> None:
        """Flushes and closes every tracker."""
        for tracker in self._trackers:
            tracker.finish()


NOTES = (
    ("loss", "loss {:.3f}"),
    ("reward", "reward {:.3f}"),
    ("gold/score", "gold {:.3f}"),
    ("kl/sequence", "KL {:.2f}"),
    ("completions/mean_length", "length {:.0f}"),
    ("rewards/accuracies", "acc {:.2f}"),
    ("sampling/tokens_per_second", "sampling {:.0f} tok/s"),
    ("tokens_per_second", "training {:.0f} tok/s"),
)


def note(record: dict[str, Any]) -> str:
    """A step in one line, for the progress display."""
    return "  ".join(text.format(record[key]) for key, text in NOTES if key in record)
