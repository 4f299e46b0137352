"""metrics.jsonl and the trackers of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kilter.artifacts import append_lines, cut_lines
from kilter.batch import Batch
from kilter.errors import RunFailed, UserError
from kilter.seams import Hook, Step
from kilter.training.checkpoint import Checkpoints


def check_trackers(names: list[str]) -> dict[str, Any]:
    """Tracker classes by name.

    Raises UserError for an unknown or uninstalled one; called before any expensive work.
    """
    if not names:
        return {}
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = {str(t) for t in get_available_trackers()}
    known = {str(k): v for k, v in LOGGER_TYPE_TO_CLASS.items()}
    # Before any work: a tracker that is not installed would be found out after the first step.
    for name in names:
        if name not in known:
            raise UserError(
                "trackers", name, "is not a known tracker", f"choose one of: {', '.join(sorted(known))}"
            )
        if name not in available:
            raise UserError("trackers", name, "is not installed", f"run: pip install {name}")
    return {name: known[name] for name in names}


class Trackers:
    """Any tracker of accelerate by name. They see numbers only; metrics.jsonl remains the record."""

    def __init__(self, names: list[str], folder: Path, config: dict[str, Any]) -> None:
        self._trackers: list[Any] = []
        # accelerate knows how each wants to be opened, and who wants a folder.
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
        # Trackers draw curves; what is text stays in the file.
        numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and k != "step"}
        for tracker in self._trackers:
            tracker.log(numbers, step=record["step"])

    def close(self) -> None:
        """Flushes and closes every tracker."""
        for tracker in self._trackers:
            tracker.finish()


class MetricsLog(Hook):
    """Writes each step's record to metrics.jsonl and to the trackers.

    Args:
        run: name of the run, for messages.
        path: metrics.jsonl, None in processes that write nothing.
        trackers: their names, none in processes that write nothing.
        config: settings of the run, for the trackers.
        checkpoints: the last good one is named when a record cannot be written.
    """

    name = "metrics"

    def __init__(
        self,
        run: str,
        path: Path | None,
        trackers: Sequence[str],
        folder: Path,
        config: dict[str, Any],
        checkpoints: Checkpoints,
    ) -> None:
        self.run, self.path, self.checkpoints = run, path, checkpoints
        self._names, self._folder, self._config = list(trackers), folder, config
        self._trackers: Trackers | None = None

    def before_run(self, done: int | None) -> None:
        """Lines after the checkpoint are cut, for they will be written again."""
        # They will be written identically: a run that was killed leaves one line per step.
        if self.path is not None:
            cut_lines(self.path, lambda row: row["step"] <= (done or 0))
        if self._names:
            self._trackers = Trackers(self._names, self._folder, self._config)

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """The record as the hooks before this one have completed it."""
        try:
            if self.path is not None:
                append_lines(self.path, [record])
            if self._trackers is not None:
                self._trackers.write(record)
        except OSError as error:
            raise RunFailed(
                f"{self.run}: metrics of step {step.number} could not be written ({error})",
                "free disk space, then run the same command again to resume",
                f"Last good checkpoint: {self.checkpoints.latest() or 'none yet'}",
            ) from error

    def close(self, error: BaseException | None) -> None:
        """Flushes the trackers."""
        if self._trackers is not None:
            self._trackers.close()
