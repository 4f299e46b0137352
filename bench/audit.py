"""The audit at size, and defects planted into a real data set.

    python -m bench.audit size pairs.jsonl --rows 100000     # seconds and peak memory, in a process of its own
    python -m bench.audit plant pairs.jsonl                  # every defect of bench.plants, into a clean copy

`size` makes rows as long as those of the file, each word drawn anew from all of its words, so that no two are
alike. `plant` first leaves out the rows in which the audit finds an error, then plants one defect at a time.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench.plants import DEFECTS, SUITE_SEED, Defect, Row, Rows, suite_of, write_lines
from kilter.data.audit import extras
from kilter.data.audit.run import Audit, Settings, audit
from kilter.data.dataset import DataSpec
from kilter.errors import UserError
from kilter.models.resolve import resolve
from kilter.roles.open import OpenSpec, open_encoder

MODEL = "builtin:smollm2-135m"


def read(path: str) -> Rows:
    """The pairs of a file that have no error, as the plants take them."""
    found = audit(DataSpec(path=path, heldout=0), Settings())
    wrong = {i for f in found.findings if f.level == "error" for i in found.flags[f.check]}
    return [
        {
            "id": f"r{index}",
            "prompt": [dict(m) for m in group.prompt.messages]
            or [{"role": "user", "content": group.prompt.text}],
            "chosen": group.completions[0].text,
            "rejected": group.completions[-1].text,
        }
        for index, group in enumerate(found.groups)
        if index not in wrong and not any(c.turns for c in group.completions)
    ]


def drawn(rows: Rows, count: int) -> Iterator[Row]:
    """Rows of the same lengths with other words, one at a time: a million of them must not fill the memory."""
    rng = random.Random(0)
    words = [w for row in rows for w in f"{row['prompt'][-1]['content']} {row['chosen']}".split()]

    def text(like: str) -> str:
        return " ".join(rng.choices(words, k=max(1, len(like.split()))))

    for index in range(count):
        row = rows[index % len(rows)]
        turns = [{"role": m["role"], "content": text(m["content"])} for m in row["prompt"]]
        yield {
            "id": f"r{index}",
            "prompt": turns,
            "chosen": text(row["chosen"]),
            "rejected": text(row["rejected"]),
        }


def measured(path: Path, model: str | None) -> tuple[float, float, float]:
    """(seconds, seconds of CPU, peak GB) of kilter audit in a process of its own, its children included."""
    command = [sys.executable, "-m", "kilter", "audit", str(path), "--heldout", "0.1", "--json"]
    command += ["--split-by", "near_duplicates", *(("--model", model) if model else ())]
    began, peak, spent = time.perf_counter(), 0, 0.0
    with open(path.with_suffix(".out"), "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak, spent
            while not ended.wait(0.2):
                try:
                    own = psutil.Process(process.pid)
                    whole = [own, *own.children(recursive=True)]
                    peak = max(peak, sum(p.memory_info().rss for p in whole))
                    spent = sum(p.cpu_times().user + p.cpu_times().system for p in whole)
                except psutil.Error:
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        process.wait()
        ended.set()
        watcher.join()
    return time.perf_counter() - began, spent, peak / 1e9


def size(path: str, count: int, model: str | None) -> None:
    """Prints one line: rows, MB, seconds, CPU, peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        target = write_lines(Path(folder) / "rows.jsonl", drawn(read(path), count))
        seconds, spent, peak = measured(target, model)
        found = json.loads(target.with_suffix(".out").read_text())
        megabytes = target.stat().st_size / 1e6
    print(
        f"{count} rows, {megabytes:.0f} MB: {seconds:.0f} s ({spent:.0f} s of CPU), "
        f"peak {peak:.2f} GB, verdict {found['verdict']}"
    )


def levels(found: Audit, checks: tuple[str, ...]) -> list[str]:
    return [f.level for f in found.findings if f.check in checks]


def plant(path: str) -> None:
    """Prints a line for each defect, and how many were found."""
    rows = read(path)
    print(f"{len(rows)} clean rows of {Path(path).name}")
    with tempfile.TemporaryDirectory() as folder:
        suite = write_lines(Path(folder) / "suite.jsonl", suite_of(rows, random.Random(SUITE_SEED)))
        suites = {"suite": DataSpec(path=str(suite), heldout=0)}
        clean = write_lines(Path(folder) / "rows.jsonl", rows)
        spec = DataSpec(path=str(clean), heldout=0.1, split_by="near_duplicates")
        before = {f.check: f.level for f in audit(spec, Settings(suites=suites)).findings}
        errors = [name for name, level in before.items() if level == "error"]
        print(f"clean: errors {errors}, warnings {[n for n, level in before.items() if level == 'warn']}")
        outcome = [_planted(defect, rows, Path(folder), suites, before) for defect in DEFECTS.values()]
    known = [found for found in outcome if found is not None]
    print(f"{sum(known)} of {len(known)} defects found; {len(outcome) - len(known)} not tried")


def _planted(
    defect: Defect, rows: Rows, folder: Path, suites: dict[str, DataSpec], before: dict[str, str]
) -> bool | None:
    """Whether a defect is found; None where an extra is missing."""
    try:
        extras.require(defect.look_for, "look_for")
    except UserError:
        print(f"not tried   {defect.name}: its extra is not installed")
        return None
    path = write_lines(folder / "rows.jsonl", defect.plant(rows, random.Random(1)))
    limit = defect.max_length
    encoder = open_encoder(OpenSpec(resolve(MODEL, "model"), max_length=limit)) if limit else None
    settings = Settings(
        encoder,
        suites if defect.suite else {},
        frozenset(defect.look_for),
        only=frozenset(defect.checks),
    )
    found = audit(DataSpec(path=str(path), heldout=defect.heldout), settings)
    hit = bool({"warn", "error"} & set(levels(found, defect.checks)))
    same = hit and all(before.get(c) in ("warn", "error") for c in defect.checks)
    note = " (the clean rows have this warning too)" if same else ""
    print(f"{'found' if hit else 'NOT FOUND':<11} {defect.name}: {', '.join(defect.checks)}{note}")
    return hit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["size", "plant"])
    parser.add_argument("data")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model", help="count tokens as well")
    given = parser.parse_args()
    if given.what == "size":
        size(given.data, given.rows, given.model)
    else:
        plant(given.data)


if __name__ == "__main__":
    main()
