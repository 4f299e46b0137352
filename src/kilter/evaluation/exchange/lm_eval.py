"""Results of lm-evaluation-harness: results_*.json, and samples_TASK_*.jsonl beside it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from kilter.artifacts import write_json, write_text
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

FILTER = "none"
"""What lm-eval calls the filter that changes nothing."""

FIXED = ("alias", "name", "sample_len", "sample_count")
"""Entries of a task that are no metrics."""


def fits(path: Path) -> bool:
    """JSON with the parts of a result."""
    return path.suffix == ".json" and {"results", "versions"} <= content(path).keys()


def read(path: Path) -> list[Outcome]:
    """An outcome per task that is not a group of tasks; samples are read where they lie beside the file."""
    found = content(path)
    grouped = {name for name, members in (found.get("group_subtasks") or {}).items() if members}
    try:
        return [
            _outcome(found, task, _samples(path, task)) for task in found["results"] if task not in grouped
        ]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def beside(path: Path) -> list[Path]:
    """The samples of its tasks, where they lie beside the results."""
    tasks = content(path).get("results")
    files = [_samples(path, task) for task in tasks] if isinstance(tasks, dict) else []
    return [file for file in files if file.is_file()]


def _samples(path: Path, task: str) -> Path:
    # A task's name is text from outside, and no path.
    name = task.replace("/", "_").replace("\\", "_")
    return path.with_name(f"samples_{name}_{path.stem.partition('results_')[2]}.jsonl")


def _outcome(found: Mapping[str, Any], task: str, samples: Path) -> Outcome:
    rows = list(_rows(samples)) if samples.is_file() else []
    by_filter: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_filter.setdefault(str(row.get("filter", FILTER)), {})[str(row["doc_id"])] = row
    first: Mapping[str, Mapping[str, Any]] = next(iter(by_filter.values()), {})
    asked = [_asked(name, row) for name, row in first.items()]

    # A metric may be taken behind several filters; each has its own rows.
    values = {}
    for name, own in by_filter.items():
        for metric in dict.fromkeys(m for row in own.values() for m in row.get("metrics", ())):
            values[_key(metric, name)] = [_number(own.get(a.id, {}).get(metric)) for a in asked]
    config = found.get("config") or {}
    model = str(found.get("model_name") or config.get("model") or "model")
    about = {
        "path": model,
        "created": found.get("date"),
        "made_by": f"lm-eval {found.get('lm_eval_version', '')}",
    }
    about["sampling"] = (found.get("configs", {}).get(task) or {}).get("generation_kwargs") or {}
    return Outcome(model, task, dict(_numbers(found, task, values)), asked, values, about)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _key(metric: str, by: str) -> str:
    """A metric's name; the filter stands in it unless it changes nothing."""
    return metric if by == FILTER else f"{metric},{by}"


def _asked(name: str, row: Mapping[str, Any]) -> Asked:
    """lm-eval keeps the prompt among the arguments of the first request."""
    arguments = row.get("arguments") or {}
    first: Any = next(iter(arguments.values()), {}) if isinstance(arguments, Mapping) else {}
    prompt = first.get("arg_0", "") if isinstance(first, Mapping) else ""
    answer: Any = row.get("filtered_resps") or row.get("resps") or ""
    while isinstance(answer, list) and answer:
        answer = answer[0]
    told = str(row.get("doc_hash") or "")
    target, cluster = str(row.get("target", "")), cluster_named(row.get("doc"))
    return Asked(name, str(prompt), str(answer), target, told, cluster)


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _numbers(
    found: Mapping[str, Any], task: str, values: Mapping[str, Sequence[float | None]]
) -> Iterator[tuple[str, Number]]:
    given = found["results"][task]
    counts = (found.get("n-samples") or {}).get(task) or {}
    for key, value in given.items():
        metric, _, by = key.partition(",")
        if key in FIXED or metric.endswith("_stderr"):
            continue
        own = values.get(_key(metric, by or FILTER), ())
        unscored = sum(v is None for v in own)
        n = len(own) - unscored if own else int(counts.get("effective") or 0)
        higher = (found.get("higher_is_better") or {}).get(task, {}).get(metric)
        better = {True: "higher", False: "lower"}.get(higher)
        stderr = _number(given.get(f"{metric}_stderr,{by or FILTER}"))
        number = Number(_number(value), n, unscored, stderr, None, better, "lm-eval")
        yield _key(metric, by or FILTER), number


def write(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """A folder per model with its results and its samples, named as lm-eval names them."""
    written = []
    date = datetime.now(UTC).isoformat(timespec="seconds").replace(":", "-").replace("+00-00", "")
    for outcome in outcomes:
        own = folder / safe(outcome.model)
        own.mkdir(parents=True, exist_ok=True)
        results, samples = own / f"results_{date}.json", own / f"samples_{outcome.task}_{date}.jsonl"
        write_json(results, _results(outcome), indent=2)
        rows = (json.dumps(_row(outcome, i), ensure_ascii=False) for i in range(len(outcome.asked)))
        write_text(samples, "".join(f"{row}\n" for row in rows))
        written += [results, samples]
    return written


def _results(outcome: Outcome) -> dict[str, Any]:
    """What lm-eval's make_table takes. lm-eval knows no unscored prompts: their number stands in config."""
    task, numbers = outcome.task, outcome.numbers
    given: dict[str, Any] = {"alias": task}
    for name, number in numbers.items():
        given[f"{name},{FILTER}"] = number.value
        given[f"{name}_stderr,{FILTER}"] = "N/A" if number.stderr is None else number.stderr
    n = len(outcome.asked)
    unscored = {name: number.unscored for name, number in numbers.items()}
    methods = {name: number.method for name, number in numbers.items()}
    intervals = {name: number.interval for name, number in numbers.items()}
    return {
        "results": {task: {k: v for k, v in given.items() if v is not None}},
        "group_subtasks": {task: []},
        "configs": {task: {"task": task, "metadata": {"version": 1.0}, "output_type": "generate_until"}},
        "versions": {task: 1.0},
        "n-shot": {task: 0},
        "higher_is_better": {
            task: {k: {"higher": True, "lower": False}.get(v.better or "") for k, v in numbers.items()}
        },
        "n-samples": {task: {"original": n, "effective": n}},
        "config": {
            "model": "kilter",
            "model_args": {"pretrained": outcome.about.get("path", outcome.model)},
            "kilter": {"unscored": unscored, "method": methods, "interval": intervals, **outcome.about},
        },
        "date": time.time(),
        "model_source": "kilter",
        "model_name": outcome.model,
        "model_name_sanitized": safe(outcome.model),
    }


def _row(outcome: Outcome, place: int) -> dict[str, Any]:
    asked = outcome.asked[place]
    known = {name: v[place] for name, v in outcome.values.items()}
    return {
        "doc_id": place,
        "doc": {
            "id": asked.id,
            "prompt": asked.prompt,
            "answer": asked.target,
            **({"cluster": asked.cluster} if asked.cluster else {}),
        },
        "target": asked.target,
        "arguments": {"gen_args_0": {"arg_0": asked.prompt, "arg_1": {}}},
        "resps": [[asked.answer]],
        "filtered_resps": [asked.answer],
        "filter": FILTER,
        "metrics": list(known),
        "doc_hash": sha256(asked.id.encode()).hexdigest(),
        "prompt_hash": sha256(asked.prompt.encode()).hexdigest(),
        "target_hash": sha256(asked.target.encode()).hexdigest(),
        **known,
    }


exchanges.register("lm-eval")(Exchange("lm-evaluation-harness", fits, read, write, beside))
