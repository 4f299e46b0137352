"""Files and Hub data sets to rows, each with its place, so that an error can name file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from kilter.data.worlds.registry import paths
from kilter.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")


def rows(
    path: str, split: str = "train", config: str | None = None, field: str = "data.path"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (place, row); place is 'file:line' for text files and 'name[split]:index' otherwise."""
    local = Path(path).expanduser()
    if local.is_file():
        yield from _file(local, field)
    elif local.is_dir():
        raise UserError(field, path, "is a folder", f"give one file ({', '.join(SUFFIXES)})")
    elif (
        local.is_absolute() or path.startswith((".", "~")) or path.endswith(SUFFIXES) or path.count("/") != 1
    ):
        raise UserError(
            field,
            path,
            "names no file",
            f"give an existing file, a Hub data set (owner/name), or {', '.join(paths())}",
        )
    else:
        yield from _hub(path, split, config, field)


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _file(path: Path, field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".jsonl"):
            yield from _jsonl(path)
        elif name.endswith(".json"):
            yield from _json(path)
        elif name.endswith(".csv"):
            with _open(path) as handle:
                csv.field_size_limit(1 << 30)
                reader = csv.DictReader(handle)
                for row in reader:
                    yield f"{path}:{reader.line_num}", {k: v for k, v in row.items() if k is not None}
        elif name.endswith(".parquet"):
            yield from _parquet(path, field)
        else:
            raise UserError(
                field, str(path), "is of an unknown file type", f"use one of {', '.join(SUFFIXES)}"
            )
    except (OSError, UnicodeDecodeError, EOFError, zlib.error, csv.Error) as error:
        raise _unreadable(field, path, error) from error


def _unreadable(field: str, path: Path, error: Exception) -> UserError:
    return UserError(field, str(path), f"cannot be read ({error})", "check the file: its text must be UTF-8")


def _parquet(path: Path, field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # pyarrow takes longer to import than everything else that a small command needs
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                yield f"{path}:{index + 1}", row
                index += 1
    except pa.ArrowException as error:
        raise _unreadable(field, path, error) from error


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with _open(path) as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    place,
                    line.strip()[:60],
                    f"is not JSON ({error.msg} at column {error.colno})",
                    "write one JSON object per line",
                ) from error
            if not isinstance(row, dict):
                raise UserError(
                    place, line.strip()[:60], "is not a JSON object", "write one JSON object per line"
                )
            yield place, row


def _json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with _open(path) as handle:
        try:
            value = json.load(handle)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}:{error.lineno}", error.msg, "is not JSON", "write a JSON array of objects"
            ) from error
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise UserError(
            str(path),
            type(value).__name__,
            "is not an array of objects",
            "write [{...}, {...}], or use .jsonl",
        )
    for index, row in enumerate(value, start=1):
        yield f"{path}:[{index}]", row


def _hub(name: str, split: str, config: str | None, field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import load_dataset

    try:
        table = load_dataset(name, config, split=split)
    # The library raises many kinds, all of which mean: not readable under this name.
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error)[:120]}"
        raise UserError(
            field,
            name,
            f"is not a local file and cannot be fetched from the Hub ({reason})",
            "check name, config, split and network, or give a local file",
        ) from error
    for index, row in enumerate(table):
        yield f"{name}[{split}]:{index}", dict(row)
