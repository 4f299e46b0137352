"""Files, folders, Hub data sets and Python objects to rows, each with its place.

A line that is not a row comes out as a RowError: whether it stops the reading is for others to say.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from kilter.data import columns, memory
from kilter.data.blocks import SUFFIX, Reader
from kilter.data.formats import detect
from kilter.data.judgments import Joiner, beside, sides_of
from kilter.data.row import OBJECT, Cells, Raw, RowError, absent, twice
from kilter.data.source import SourceSpec
from kilter.data.worlds.registry import is_world, paths
from kilter.errors import UserError
from kilter.validation import RepeatedKeyError

Rows = Iterator[tuple[str, Raw | RowError]]
"""(place, row), or what is wrong with the line at that place."""

LINE = "write one JSON object per line"
"""What to do about a line that is not a row."""

_BETWEEN = re.compile(r"[\s,]*")
"""Between two rows of an array."""

FILES = ("json", "jsonl", "jsonlines", "ndjson", "txt", "csv", "tsv", "parquet", "arrow")
"""Endings of files that are data in a folder, each also with .gz where it is text."""

SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
}
"""How the names of files in a folder say which split they belong to."""


def rows(path: str, split: str = "train", config: str | None = None, field: str = "data.path") -> Rows:
    """Yields (place, row); place is 'file:line' for text files and 'name[split]:index' otherwise.

    Args:
        path: a file, a pattern such as data/*.jsonl, a folder of files or of `save_to_disk`, or a Hub name.
        split: of a Hub data set, or of a folder whose files are named after splits.
        config: of a Hub data set.
        field: that names the path, for messages.
    """
    if memory.is_memory(path):
        yield from memory.rows(path, field)
        return
    local = Path(path).expanduser()
    files = local_files(path, split, field)
    if files is None:
        yield from _hub(path, split, config, field)
    elif (local / "state.json").is_file() or (local / "dataset_dict.json").is_file():
        yield from _saved(local, split, field)
    else:
        for file in files:
            yield from _file(file, field)


def local_files(path: str, split: str = "train", field: str = "data.path") -> list[Path] | None:
    """The files that a path names; None for the name of a Hub data set.

    Raises:
        UserError: the path names nothing.
    """
    # An empty path is the folder one is in, with whatever lies there.
    if not path.strip():
        raise UserError(field, path, "is empty", "give a file, a folder or a Hub name; `.` is this folder")
    local = Path(path).expanduser()
    if local.is_file():
        return [local]
    if local.is_dir():
        return _folder(local, split, field)
    if any(c in path for c in "*?["):
        anchor = Path(local.anchor) if local.is_absolute() else Path()
        found = sorted(p for p in anchor.glob(str(local.relative_to(local.anchor))) if p.is_file())
        if not found:
            raise UserError(field, path, "names no file", "check the pattern, such as data/*.jsonl")
        return found
    typed = path.endswith((*(f".{f}" for f in FILES), ".gz"))
    if local.is_absolute() or path.startswith((".", "~")) or typed or path.count("/") != 1:
        raise UserError(
            field,
            path,
            "names no file",
            f"give an existing file or folder{_by_recipe(field)}, a Hub data set (owner/name), "
            f"or {', '.join(paths())}",
        )
    return None


def content_of(source: SourceSpec) -> list[Path]:
    """The local files that a source reads, for its hash; none of a Hub name, a world or a Python object."""
    if memory.is_memory(source.path) or is_world(source.path):
        return []
    files = local_files(source.path, source.split) or []
    # Rows of a run's rollouts are half of the data: their tokens lie beside them. So do judged answers.
    tokens = [f.with_suffix(SUFFIX) for f in files if f.with_suffix(SUFFIX).is_file()]
    return list(dict.fromkeys([*files, *tokens, *(judged for f in files for judged in _judged(f))]))


def _judged(path: Path) -> list[Path]:
    """The questions and answers that the judgments of a file are read with; none of any other file."""
    found = beside(path)
    rows = (row for _, row in _raw(path, "data.path") if isinstance(row, Mapping)) if found else iter(())
    return found if sides_of(next(rows, None)) else []


def _folder(folder: Path, split: str, field: str) -> list[Path]:
    """The data files of a folder, those of the split where their names say it."""
    if (folder / "dataset_dict.json").is_file():
        return sorted((folder / split).glob("*.arrow"))
    found = sorted(p for p in folder.rglob("*") if p.is_file() and _is_data(p.relative_to(folder)))
    if not found:
        raise UserError(
            field, str(folder), "holds no data file", f"give one with files of type {', '.join(FILES)}"
        )
    named = {p: _split_of(p.relative_to(folder)) for p in found}
    if not any(named.values()):
        return found
    wanted = next((name for name, words in SPLITS.items() if split in words), split)
    chosen = [p for p in found if named[p] == wanted]
    if not chosen:
        known = ", ".join(sorted({name for name in named.values() if name}))
        raise UserError(field, str(folder), f"has no files of the split {split!r}", f"set split to {known}")
    return chosen


NOT_DATA = ("dataset_info.json", "state.json", "dataset_infos.json", "dataset_dict.json")


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    name = path.name.removesuffix(".gz")
    return not hidden and name not in NOT_DATA and name.rpartition(".")[2].lower() in FILES


def _split_of(path: Path) -> str:
    """The split that the name of a file, or of a folder around it, begins with; "" where none does."""
    for part in reversed(path.parts):
        words = part.lower().replace("_", "-").replace(".", "-").split("-")
        for name, spelled in SPLITS.items():
            if any(word in spelled for word in words):
                return name
    return ""


LONGEST_ROW = 1 << 26
"""Characters of one row. A file without a line end must not fill the memory."""

LARGEST_ARRAY = 1 << 31
"""Characters of a JSON array, which is read as a whole."""

PACKED, RATIO = 1 << 28, 200
"""A file is a bomb that unpacks to more bytes than the first, and to more than the second times its own."""


AT_ONCE, ROWS = 1 << 31, 1024
"""Bytes that a batch of a Parquet file can come to at most, and rows of one: texts are stored once each."""

VALUES = 1 << 26
"""Values that any file may have in a column; a longer one has to be larger itself."""


def _refuse_bomb(path: Path, packed: int, unpacked: int) -> None:
    """Raises UserError where a file takes far more room than data of its size can."""
    if unpacked > max(PACKED, RATIO * packed):
        problem = f"takes more than {RATIO} times its size when it is unpacked"
        raise UserError("file", str(path), problem, "give the unpacked file, if you trust it")


class _Unpacked(gzip.GzipFile):
    """A packed file that is read no further than data of its size can reach."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self.path, self.packed = path, path.stat().st_size

    def read1(self, size: int = -1) -> bytes:
        """Some bytes. Raises UserError where they have become too many."""
        found = super().read1(size)
        _refuse_bomb(self.path, self.packed, self.tell())
        return found

    def read(self, size: int | None = -1) -> bytes:
        """Some bytes, or all of them."""
        if size is not None and size >= 0:
            return self.read1(size)
        return b"".join(iter(lambda: self.read1(1 << 20), b""))


def _bytes_of(path: Path) -> BinaryIO:
    return cast(BinaryIO, _Unpacked(path) if path.suffix == ".gz" else path.open("rb"))


def _open(path: Path) -> TextIO:
    """The file as text. A byte that is not UTF-8 stays, marked, for its row to be named."""
    with _bytes_of(path) as handle:
        if handle.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise UserError(str(path), "UTF-16", "is not the encoding of data files", "save it as UTF-8")
    return io.TextIOWrapper(_bytes_of(path), encoding="utf-8-sig", errors="surrogateescape", newline="")


def _lines(handle: TextIO, path: Path) -> Iterator[str]:
    """The lines of a file, none of them longer than a row can be."""
    while line := handle.readline(LONGEST_ROW + 1):
        if len(line) > LONGEST_ROW:
            problem = f"holds a row of more than {LONGEST_ROW:,} characters"
            raise UserError("file", str(path), problem, "write each row on a line of its own")
        yield line


def _file(path: Path, field: str) -> Rows:
    """The rows of a file; judgments of answers that lie in other files come with them."""
    judged = Joiner(path)
    for place, row in _raw(path, field):
        yield place, judged.filled(row)


def _raw(path: Path, field: str) -> Rows:
    """The rows of a file as they stand in it."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    try:
        yield from READERS.get(kind, _by_content)(path, field)
    except (OSError, UnicodeDecodeError, EOFError, zlib.error, csv.Error) as error:
        raise _unreadable(field, path, error) from error


def _unreadable(field: str, path: Path, error: Exception) -> UserError:
    return UserError(field, str(path), f"cannot be read ({error})", "check the file: its text must be UTF-8")


def _parquet(path: Path, field: str) -> Rows:
    # pyarrow takes longer to import than everything else that a small command needs
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = 0
    try:
        with pq.ParquetFile(path) as file:
            # The footer says what the columns come to, before any of them is unpacked.
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
            _refuse_bomb(path, path.stat().st_size, sum(c.total_uncompressed_size for c in chunks))
            _refuse_many(path, max((c.num_values for c in chunks), default=0))
            nested = [file.schema.column(i).max_repetition_level > 0 for i in range(len(file.schema))]
            repeated = [c for c, deep in zip(chunks, nested * len(groups), strict=True) if deep]
            for column in repeated:
                _refuse_prefixes(path, column)

            # A text that many rows share stands in the file once, and in a batch once per row.
            shared = max((c.total_uncompressed_size for c in chunks if _shares(c)), default=0)

        # A text that a list repeats stays in the dictionary that it stands in.
        texts = {c.path_in_schema for c in repeated if c.physical_type == "BYTE_ARRAY"}
        texts -= {c.path_in_schema for c in repeated if not PREFIXES.isdisjoint(c.encodings)}
        with pq.ParquetFile(path, read_dictionary=sorted(texts)) as file:
            for batch in file.iter_batches(batch_size=max(1, min(ROWS, AT_ONCE // max(1, shared)))):
                for row in _made(path, batch):
                    index += 1
                    yield f"{path}:{index}", row
    except pa.ArrowException as error:
        raise _unreadable(field, path, error) from error


PREFIXES = frozenset({"DELTA_BYTE_ARRAY"})
"""Encodings in which a text repeats the beginning of the one before it without holding it."""


def _shares(column: Any) -> bool:
    """Whether many values of a column of a Parquet file may be one text of the file."""
    return column.has_dictionary_page or not PREFIXES.isdisjoint(column.encodings)


def _refuse_prefixes(path: Path, column: Any) -> None:
    """Raises UserError where texts in lists may come to far more than they take in the file."""
    if PREFIXES.isdisjoint(column.encodings) or column.total_uncompressed_size * column.num_values < AT_ONCE:
        return
    problem = f"holds lists ({column.path_in_schema}) whose texts may come to more than {AT_ONCE:,} bytes"
    raise UserError("file", str(path), problem, "write it without the encoding DELTA_BYTE_ARRAY")


def _refuse_many(path: Path, values: int) -> None:
    """Raises UserError where a file has far more values than its size can hold."""
    if values > max(VALUES, RATIO * path.stat().st_size):
        problem = f"holds more than {RATIO} values for each of its bytes"
        raise UserError("file", str(path), problem, "write it anew, if you trust it")


def _made(path: Path, batch: Any) -> Iterator[Raw]:
    """The rows of a batch as Python values, a few at a time. Raises UserError for one that is too long."""
    found = columns.row_sizes(batch)
    _refuse_long(path, found)
    for start, count in columns.slices(found):
        yield from absent(batch.slice(start, count).to_pylist(), batch.schema)


def _refuse_long(path: Path, sizes: columns.Sizes) -> None:
    if len(sizes) and sizes.max() > LONGEST_ROW:
        problem = f"holds a row of more than {LONGEST_ROW:,} characters"
        raise UserError("file", str(path), problem, "leave it out, or split it into several rows")


def _arrow(path: Path, field: str) -> Rows:
    import pyarrow as pa

    index = 0
    try:
        _refuse_packed(path)
        with pa.memory_map(str(path)) as source:
            for batch in pa.ipc.open_stream(_streamed(source)):
                # What a foreign program wrote may point anywhere.
                batch.validate(full=True)
                for row in _made(path, batch):
                    index += 1
                    yield f"{path}:{index}", row
    except UserError:  # it names the file already
        raise
    except (pa.ArrowException, ValueError) as error:
        raise _unreadable(field, path, error) from error


def _streamed(source: Any) -> Any:
    """An Arrow file at the beginning of its stream: a file for random access has one behind its name."""
    magic = source.read(6)
    source.seek(8 if magic == b"ARROW1" else 0)
    return source


def _refuse_packed(path: Path) -> None:
    """Raises UserError where a batch of an Arrow file, or all of them, unpack to far more than the file."""
    import pyarrow as pa

    total = 0
    with pa.memory_map(str(path)) as source:
        for message in pa.ipc.MessageReader.open_stream(_streamed(source)):
            size, rows = columns.unpacked(message)
            total += size
            _refuse_bomb(path, path.stat().st_size, total)
            _refuse_many(path, rows)
            if size > AT_ONCE:
                problem = f"holds a batch of more than {AT_ONCE:,} bytes"
                raise UserError("file", str(path), problem, "write it in batches of 1,000 rows")


def _csv(path: Path, field: str) -> Rows:
    csv.field_size_limit(LONGEST_ROW)
    with _open(path) as handle:
        header = next(_lines(handle, path), "")
        handle.seek(0)
        # The separator is whatever the header has most of: spreadsheets write semicolons in half of Europe.
        separator = max(",;\t", key=header.count)
        reader = csv.DictReader(_lines(handle, path), delimiter=separator, strict=True)
        # pandas writes its index without a name, and calls it so when it reads it.
        names = [n or f"Unnamed: {i}" for i, n in enumerate(reader.fieldnames or ())]
        reader.fieldnames = names
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise UserError(
                field, str(path), f"has two columns {twice[0]!r}", "give each column its own name"
            )
        while (found := _cells(reader)) is not None:
            yield f"{path}:{reader.line_num}", found


def _cells(reader: csv.DictReader[str]) -> Raw | RowError | None:
    """The next row of a table, or what is wrong with it; None after the last one."""
    try:
        row = next(reader, None)
    except csv.Error as error:
        return RowError("", f"is not a row ({error})", "(unreadable)", "close every quotation mark")
    if row is not None and None in row:
        return RowError("", "has more cells than the header", row[None], "quote cells that hold a separator")
    # An empty cell and a missing one are the same: a table cannot say which is meant.
    return None if row is None else Cells({k: v for k, v in row.items() if v not in (None, "")})


def _jsonl(path: Path, field: str) -> Rows:
    tokens = Reader(path)
    with _open(path) as handle:
        for number, line in enumerate(_lines(handle, path), start=1):
            if not line.strip():
                continue
            if number == 1 and _is_array(line):
                yield from _json(path, field)
                return
            yield f"{path}:{number}", tokens.filled(_line(line))


def _is_array(line: str) -> bool:
    """Whether the first line of a file begins an array of rows."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return line.lstrip().startswith("[")
    return isinstance(found, list) and all(isinstance(row, dict) for row in found)


def _line(line: str) -> Raw | RowError:
    """The row that a line holds, or what is wrong with it."""
    try:
        row = OBJECT.decode(line.strip())
    except RepeatedKeyError as error:
        return twice(error)
    except json.JSONDecodeError as error:
        return RowError("", f"is not JSON ({_said(error)})", line.strip()[:60], LINE)
    except RecursionError:
        return RowError("", "is nested too deeply", line.strip()[:60], LINE)
    except ValueError as error:  # a number of thousands of digits
        return RowError("", f"cannot be read ({error})", line.strip()[:60], LINE)
    return row if isinstance(row, dict) else RowError("", "is not a JSON object", line.strip()[:60], LINE)


def _said(error: json.JSONDecodeError) -> str:
    return f"{error.msg.removesuffix(' at')} at column {error.colno}"


def _json(path: Path, field: str) -> Rows:
    with _open(path) as handle:
        text = handle.read(LARGEST_ARRAY + 1)
    if len(text) > LARGEST_ARRAY:
        problem = f"is an array of more than {LARGEST_ARRAY:,} characters, which is read as a whole"
        raise UserError(field, str(path), problem, "write it as JSON lines (.jsonl)")
    try:
        value = _parsed(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}", error.msg, "is not JSON", "write a JSON array of objects"
        ) from error
    except RecursionError as error:
        raise UserError(field, str(path), "is nested too deeply", "write a JSON array of objects") from error
    except ValueError as error:  # a number of thousands of digits
        raise UserError(
            field, str(path), f"cannot be read ({error})", "write such numbers as text"
        ) from error
    value = value["examples"] if _is_task(value) else value
    if not isinstance(value, list):
        raise _no_array(path, value)
    tokens = Reader(path)
    for index, row in enumerate(value, start=1):
        wrong = RowError("", "is not a JSON object", row, "write [{...}, {...}]")
        known = tokens.filled(row) if isinstance(row, dict) else row
        yield f"{path}:[{index}]", known if isinstance(known, dict | RowError) else wrong


def _parsed(text: str) -> Any:
    """What a JSON text holds; a row of an array that names a key twice is the RowError that says so."""
    try:
        return OBJECT.decode(text)
    except RepeatedKeyError:
        value = json.loads(text)
    if not isinstance(value, list):
        return value
    # Which row it is only shows where each is read alone.
    alike, at = json.JSONDecoder(), text.index("[") + 1
    for index in range(len(value)):
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it also matches nothing
        try:
            _, at = OBJECT.raw_decode(text, at)
        except RepeatedKeyError as error:
            value[index] = twice(error)
            _, at = alike.raw_decode(text, at)
    return value


def _is_task(value: object) -> bool:
    """Whether a mapping is a task of BIG-bench, which has its rows beside what describes it."""
    return isinstance(value, dict) and isinstance(value.get("examples"), list)


def _is_table(value: object) -> bool:
    """Whether a mapping holds columns, as pandas writes a table, and not a row."""
    if not isinstance(value, dict) or len(value) < 2:
        return False
    if all(isinstance(v, list) and v and isinstance(v[0], str) for v in value.values()):
        return True
    return all(isinstance(v, dict) and "0" in v for v in value.values())


def _no_array(path: Path, value: object) -> UserError:
    fix = "write [{...}, {...}], or use .jsonl"
    if _is_table(value):
        fix = 'write rows, not columns: in pandas df.to_json(path, orient="records", lines=True)'
    return UserError(str(path), type(value).__name__, "is not an array of objects", fix)


def _by_content(path: Path, field: str) -> Rows:
    """A file whose name says nothing, or says JSON of either kind: its first characters decide."""
    with _open(path) as handle:
        begin = handle.read(1 << 16)
    text = begin.lstrip()
    first = text.partition("\n")[0]
    if text[:4] in ("PAR1", "ARRO") or "\0" in begin[:1000]:
        raise UserError(
            field, str(path), "is of an unknown file type", f"name it by its type: {', '.join(FILES)}"
        )
    if text[:1] == "[":
        yield from _json(path, field)
    elif text[:1] == "{" and (_is_row(first) or not _is_start(first)):
        only = _line(first)
        alone = isinstance(only, dict) and text.strip() == first.strip()
        if alone and _is_task(only):
            yield from _json(path, field)
            return
        if alone and (_is_table(only) or detect(cast(Mapping[str, Any], only)) is None):
            raise _no_array(path, only)
        yield from _jsonl(path, field)
    elif text[:1] == "{":
        yield from _json(path, field)
    else:
        raise UserError(
            field, str(path), "is of an unknown file type", f"use one of {', '.join(f'.{f}' for f in FILES)}"
        )


def _is_row(line: str) -> bool:
    return not isinstance(_line(line), RowError)


def _is_start(line: str) -> bool:
    """Whether a line that is not a whole object is the first of one written over several lines."""
    return line.strip() == "{" or not line.rstrip().endswith("}")


READERS: dict[str, Callable[[Path, str], Rows]] = {
    "jsonl": _jsonl,
    "ndjson": _jsonl,
    "jsonlines": _jsonl,
    "json": _by_content,
    "csv": _csv,
    "tsv": _csv,
    "parquet": _parquet,
    "arrow": _arrow,
}
"""By the end of the name. Any other file is JSON if its content is."""


def _saved(folder: Path, split: str, field: str) -> Rows:
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    from datasets import load_from_disk

    # The library unpacks a file as a whole.
    for file in sorted(folder.rglob("*.arrow")):
        _refuse_packed(file)
    try:
        found = load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise _unreadable(field, folder, error) from error
    known = [*found] if (folder / "dataset_dict.json").is_file() else []
    if known and split not in known:
        raise UserError(field, str(folder), f"has no split {split!r}", f"set split to {', '.join(known)}")
    table = found[split] if known else found
    for batch in table.data.to_batches():
        _refuse_long(folder, columns.row_sizes(batch))
    for index, row in enumerate(memory.plain_rows(table)):
        yield f"{folder}:{index + 1}", row


def _by_recipe(field: str) -> str:
    """How a recipe is given another path."""
    return f" (in a recipe --set {field}=FILE)" if field.startswith("data.") else ""


def _hub(name: str, split: str, config: str | None, field: str) -> Rows:
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
            f"check name, config, split and network, or give a local file{_by_recipe(field)}",
        ) from error
    for index, row in enumerate(memory.plain_rows(table)):
        yield f"{name}[{split}]:{index}", row
