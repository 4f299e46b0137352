"""Logs of inspect_ai (version 2): JSON is written, JSON and .eval archives are read."""

from __future__ import annotations

import importlib.util
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kilter.artifacts import write_json
from kilter.evaluation.exchange.outcome import (
    Asked,
    Exchange,
    Number,
    Outcome,
    cluster_named,
    content,
    damaged,
    exchanges,
    safe,
)
from kilter.version import __version__

LARGEST = 1 << 31
"""Bytes that an archive may hold once unpacked: beyond it a file is taken for a bomb."""

GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""What inspect_ai's own graders write: correct, partially correct, incorrect, no answer."""

STDERR = ("stderr", "bootstrap_stderr")


def fits(path: Path) -> bool:
    """An .eval archive, or JSON with the parts of a log."""
    if path.suffix == ".eval":
        return True
    return path.suffix == ".json" and {"eval", "status"} <= content(path).keys()


def read(path: Path) -> list[Outcome]:
    """The one outcome of a log; several epochs of a sample are averaged."""
    log, samples = _archive(path) if path.suffix == ".eval" else _json(path)
    try:
        return [_outcome(log, samples)]
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"it lacks {error}") from error


def _json(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    log = content(path)
    return log, list(log.get("samples") or [])


def _archive(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and samples of an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > LARGEST:
                raise damaged(path, f"it unpacks to more than {LARGEST >> 30} GB")
            samples = [
                json.loads(archive.read(name))
                for name in sorted(archive.namelist())
                if name.startswith("samples/")
            ]
            return json.loads(archive.read("header.json")), samples
    except NotImplementedError as error:
        return _by_inspect(path, error)
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(path, str(error)) from error


def _by_inspect(path: Path, error: NotImplementedError) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An archive compressed with zstd, which the standard library cannot unpack, by inspect_ai itself."""
    if importlib.util.find_spec("inspect_ai") is None:
        raise damaged(path, "it is compressed with zstd, for which inspect_ai has to be installed") from error
    from inspect_ai.log import read_eval_log

    log: dict[str, Any] = json.loads(read_eval_log(str(path)).model_dump_json())
    return log, log["samples"]


def _outcome(log: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> Outcome:
    spec, by_id = log["eval"], _by_id(samples)
    asked = [_asked(name, rows[0]) for name, rows in by_id.items()]
    names = dict.fromkeys(name for s in samples for name, _ in _flat(s.get("scores") or {}))
    values = {name: [_mean(rows, name) for rows in by_id.values()] for name in names}
    about = {"path": spec["model"], "created": spec.get("created"), "made_by": "inspect_ai"}
    about["sampling"] = spec.get("model_generate_config") or {}
    return Outcome(spec["model"], spec["task"], dict(_numbers(log, values)), asked, values, about)


def _by_id(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        found.setdefault(str(sample["id"]), []).append(sample)
    return found


def _asked(name: str, sample: Mapping[str, Any]) -> Asked:
    target = sample.get("target", "")
    output = sample.get("output") or {}
    answer = output.get("completion") or next(
        (_text(choice["message"]["content"]) for choice in output.get("choices") or []), ""
    )
    right = ", ".join(target) if isinstance(target, list) else str(target)
    asked = _question(sample["input"])
    return Asked(name, asked, answer, right, asked, cluster_named(sample.get("metadata")))


def _question(given: Any) -> str:
    """The last user turn of a conversation."""
    if isinstance(given, str):
        return given
    return next((_text(m["content"]) for m in reversed(given) if m["role"] == "user"), "")


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def _flat(scores: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Scores by name; one that has parts gives each of them."""
    for name, score in scores.items():
        if isinstance(score["value"], Mapping):
            yield from ((f"{name}/{part}", value) for part, value in score["value"].items())
        else:
            yield name, score["value"]


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Over the epochs of one sample that are scored."""
    given = [dict(_flat(row.get("scores") or {})).get(name) for row in rows]
    known = [v for v in map(_number, given) if v is not None]
    return sum(known) / len(known) if known else None


def _number(value: Any) -> float | None:
    """A score as a number; None is unscored."""
    if isinstance(value, str) and value in GRADES:
        return GRADES[value]
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _numbers(
    log: Mapping[str, Any], values: Mapping[str, Sequence[float | None]]
) -> Iterator[tuple[str, Number]]:
    """What the log itself says of each scorer: a mean and its standard error, if it has any."""
    for score in (log.get("results") or {}).get("scores", ()):
        metrics = {name: m["value"] for name, m in score.get("metrics", {}).items()}
        stderr = next((metrics[name] for name in STDERR if name in metrics), None)
        main = next((name for name in metrics if name not in STDERR), None)
        own = values.get(score["name"], ())
        unscored = score.get("unscored_samples") or sum(v is None for v in own)
        n = score.get("scored_samples") or len(own) - unscored
        number = _number(metrics[main]) if main else None
        yield score["name"], Number(number, n, unscored, stderr, method=f"inspect_ai, {main}")


def write(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """One log per outcome."""
    written = []
    for outcome in outcomes:
        path = folder / f"{safe(outcome.model)}.json"
        write_json(path, _log(outcome), indent=1)
        written.append(path)
    return written


def _log(outcome: Outcome) -> dict[str, Any]:
    """What inspect_ai's read_eval_log takes; an unscored value is its NaN."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ids = [a.id for a in outcome.asked]
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "created": now,
            "task": outcome.task,
            "dataset": {"name": outcome.task, "samples": len(ids), "sample_ids": ids},
            "model": outcome.model,
            "model_generate_config": {},
            "config": {},
            "packages": {"kilter": __version__},
            "metadata": dict(outcome.about),
        },
        "plan": {"name": "kilter", "steps": []},
        "results": {
            "total_samples": len(ids),
            "completed_samples": len(ids),
            "scores": [_score(name, number) for name, number in outcome.numbers.items()],
        },
        "stats": {"started_at": now, "completed_at": now},
        "samples": [_sample(outcome, i) for i in range(len(ids))],
    }


def _score(name: str, number: Number) -> dict[str, Any]:
    """A metric with its interval, each bound a metric of its own."""
    low, high = number.interval or (None, None)
    parts = {"mean": number.value, "ci_low": low, "ci_high": high}
    return {
        "name": name,
        "scorer": name,
        "scored_samples": number.n,
        "unscored_samples": number.unscored,
        "metrics": {part: {"name": part, "value": v} for part, v in parts.items() if v is not None},
        "metadata": {"method": number.method, "title": number.title, "better": number.better},
    }


def _sample(outcome: Outcome, place: int) -> dict[str, Any]:
    asked = outcome.asked[place]
    message = {"role": "assistant", "content": asked.answer}
    given = {name: values[place] for name, values in outcome.values.items()}
    return {
        "id": asked.id,
        "epoch": 1,
        "input": asked.prompt,
        "target": asked.target,
        "metadata": {"cluster": asked.cluster} if asked.cluster else {},
        "messages": [{"role": "user", "content": asked.prompt}, message],
        "output": {
            "model": outcome.model,
            "choices": [{"message": message, "stop_reason": "stop"}],
            "completion": asked.answer,
        },
        "scores": {name: {"value": math.nan if v is None else v} for name, v in given.items()},
    }


exchanges.register("inspect")(Exchange("inspect_ai", fits, read, write))
