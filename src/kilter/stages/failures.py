"""Answers that could not be made, with their reasons, in a file that is right after any kill."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kilter.artifacts import append_lines, read_lines, write_text
from kilter.data.dataset import prompt_key
from kilter.data.lineage import row_id
from kilter.types import Prompt

FAILURES = "failures.jsonl"


class Failures:
    """The failures of prompts, appended before the row that lacks their answers.

    A prompt without a row is asked anew by a run that goes on, so that its older failures are dropped.

    Args:
        path: of the file.
        there: keys of the prompts that have a row.
    """

    def __init__(self, path: Path, there: Collection[str]) -> None:
        self.path = path
        lines = list(read_lines(path))
        self.lines: list[dict[str, Any]] = [line for line in lines if line.get("key") in there]
        if len(self.lines) < len(lines):
            self._write()

    def add(self, prompt: Prompt, problems: Mapping[int, str]) -> None:
        """Appends the problems of one prompt, by the number of the answer."""
        row, key = row_id(prompt), prompt_key(prompt)
        lines = [{"row": row, "answer": i, "problem": problems[i], "key": key} for i in sorted(problems)]
        if lines:
            append_lines(self.path, lines, flush=True)
        self.lines += lines

    def order(self, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """All of them in the order of the prompts, on disk too: that in which they came is chance."""
        place = {prompt_key(prompt): n for n, prompt in enumerate(prompts)}
        self.lines.sort(key=lambda line: (place.get(line["key"], len(place)), line["answer"]))
        self._write()
        return self.lines

    def _write(self) -> None:
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))
