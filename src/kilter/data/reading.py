"""From the rows of a source to groups, with an account of every row and every column."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kilter.data import hints, store
from kilter.data.formats import Format, detect, formats, reader
from kilter.data.formats.ask import asking, prompt_of
from kilter.data.formats.registry import IDS, NOTED, SYSTEMS, dressed
from kilter.data.row import Raw, Row, RowError, renamed
from kilter.data.source import SourceSpec
from kilter.errors import UserError
from kilter.registry import UNBOUND, bounded, left, user_line
from kilter.types import Group

LOOKED_AT = 200
"""Rows at the beginning of a source that say what its format is."""

RENAME = (
    "rename the columns (prompt, chosen, rejected / messages / instruction, output / text ...), "
    "say what they are with --map (in a recipe map), or set the format (kilter data formats lists them)"
)
"""What to do about columns that no format knows."""


QUOTED = re.compile(r"""(?<!\w)(['"]).*?\1(?!\w)""", re.DOTALL)
"""A value of the data in a message."""

STAY = ("prompt", "completion")
"""Columns that never go along: under these names a reward function gets something else."""

ROW = "kilter.row"
"""In Prompt.metadata while a data set is audited: (place of the row, name of its format)."""


@dataclass
class BadRows:
    """Rows that an audit cannot read: how many, and where the first ones are with what is wrong."""

    count: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)
    kept: int = 50

    def add(self, place: str, problem: str) -> None:
        """Takes down one more."""
        self.count += 1
        if len(self.first) < self.kept:
            self.first.append((place, problem))


@dataclass
class Account:
    """What became of the rows and columns of a data set.

    Args:
        skipped: rows and groups that are left out, by their reason.
        formats: rows by the name of their format.
        unread: columns (True) and keys inside of columns (False) from which nothing is learned, in the order
            of their appearance.
        said: rows by what their format made of them that nobody may expect.
        bad: of an audit, which reads on after a bad row, judges the sides itself, and notes where a row
            stands. None: a bad row ends the reading, or is skipped and counted.
    """

    skipped: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    unread: dict[str, bool] = field(default_factory=dict)
    said: Counter[str] = field(default_factory=Counter)
    bad: BadRows | None = None

    @property
    def format(self) -> str:
        """The formats of the rows, the most frequent one first."""
        return ", ".join(name for name, _ in self.formats.most_common())


class Reading:
    """Rows of one source to groups.

    Args:
        spec: the source and how it is read.
        where: the field that names it, for messages.
        account: takes down what is left out and what is not read.
        everything: whether prompts carry the columns that were learned from as well.
    """

    def __init__(self, spec: SourceSpec, where: str, account: Account, everything: bool = False) -> None:
        self.spec, self.where, self.account, self.everything = spec, where, account, everything
        self.named = None if spec.format == "auto" else spec.format
        self.read = None if self.named is None else _own_reader(self.named, f"{where}.format")
        self.format: Format | None = formats.get(spec.format) if spec.format in formats.names() else None
        self.uses: set[str] = set()
        self.asks: str | None = None
        self.answers = self.steps = False
        self.row_format = ""

    def groups(self, rows: Iterator[tuple[str, Raw | RowError]]) -> Iterator[Group]:
        """The groups of all rows.

        Raises:
            UserError: no format fits, or at the first bad row, unless bad rows are skipped and counted.
        """
        begin = list(itertools.islice(rows, LOOKED_AT))
        self._look(begin)
        for place, raw in itertools.chain(begin, rows):
            try:
                if isinstance(raw, RowError):
                    raise raw
                groups = self._row(raw)
                if self.account.bad is None:
                    for group in groups:
                        check_sides(group)
                else:
                    groups = [placed(group, place, self.row_format) for group in groups]
            except UserError:
                raise
            # What a reader of the user's own raises on a row that it cannot read.
            except (RowError, LookupError, TypeError, AttributeError, ValueError) as error:
                self._bad(place, raw, error)
                continue
            except UNBOUND as error:
                raise UserError(
                    f"{self.where}.format",
                    self.named,
                    f"cannot read {place}: {left(error)}",
                    "mend the reader, so that it returns the groups of every row",
                ) from error
            yield from groups

    def _look(self, begin: list[tuple[str, Raw | RowError]]) -> None:
        """Finds the format from the first rows together, for one row may be bad or lack a column."""
        sample: dict[str, Any] = {}
        place = next((place for place, raw in begin if not isinstance(raw, RowError)), "")
        for _, raw in begin:
            for key, value in _cleaned(raw, self.spec.map).items():
                if sample.get(key) in (None, "", [], {}):
                    sample[key] = value
        self._check_map(begin)
        # Where no row can be read, the first bad one is what has to be said.
        if self.read is not None or not place or not sample:
            return
        if _is_group(sample):
            self.named, self.read = "groups", _own_reader("groups", "")
            return
        self.format = detect(sample)
        if self.format is None:
            hint = hints.unknown(sample)
            problem = "are the columns of no known format"
            if not hint:
                raise UserError(place, sorted(sample), problem, RENAME)
            named = (
                f"set the format (kilter data formats lists them), or say what the columns are with {hint}"
            )
            raise UserError(place, sorted(sample), problem, named)
        row = Row(sample)
        try:
            groups = self.format.groups(row)
            self.answers, self.steps = any(g.completions for g in groups), _of_steps(groups)
        except RowError:
            self.answers = True
        self.uses, self.asks = set(row.used), asking(sample)
        self._refuse_hidden_prompt(begin, row, place)

    def _check_map(self, begin: list[tuple[str, Raw | RowError]]) -> None:
        known = {key for _, raw in begin if not isinstance(raw, RowError) for key in raw}
        for ours, theirs in self.spec.map.items():
            if known and theirs not in known:
                raise UserError(
                    f"{self.where}.map.{ours}",
                    theirs,
                    "is not a column of this data",
                    f"name one of its columns: {', '.join(sorted(known))}",
                )

    def _refuse_hidden_prompt(self, begin: list[tuple[str, Raw | RowError]], row: Row, place: str) -> None:
        """A prompt taken from the beginning of two texts is a guess, while a column may hold the prompt."""
        texts = isinstance(row.plain.get("chosen"), str)
        if self.format is None or self.format.name != "implicit_preference" or not texts:
            return
        seen = [_cleaned(raw, self.spec.map) for _, raw in begin]
        for column in [c for c in row.plain if c not in row.used and c not in SYSTEMS]:
            values = [r[column] for r in seen if isinstance(r.get(column), str)]
            if values and len(set(values)) > len(values) / 2 and any(" " in v.strip() for v in values):
                raise UserError(
                    place,
                    sorted(row.plain),
                    f"are pairs of plain text without a prompt, while the column {column!r} is not read",
                    f"set --map prompt={column} to read it as the prompt, or take the prompt from what "
                    "chosen and rejected share with --format implicit_preference",
                )

    def _row(self, raw: Raw) -> list[Group]:
        if self.format is None and self.read is not None:
            self.row_format = self.named or ""
            self.account.formats[self.row_format] += 1
            try:
                with bounded():
                    return list(self.read(renamed(raw, self.spec.map)))
            except EOFError as error:  # the terminal is closed to it, and the row is not to blame
                at = f"in line {user_line(error)} of its file"
                problem = f"reads the terminal, {at}, where nobody answers a reader"
                raise UserError(
                    f"{self.where}.format",
                    self.named,
                    problem,
                    "leave the terminal alone; read the row that is given",
                ) from error
        row = Row(raw, self.spec.map)
        chosen, groups = self._read(row)
        if self.everything and "prompt" in row and "prompt" not in row.used:
            groups = [_as_asked(g, row, chosen) for g in groups]
        self.row_format = chosen.name
        self.account.formats[chosen.name] += 1
        self.account.unread |= {n: whole and n not in STAY for n, whole in row.left().items()}
        self.account.said.update(row.said)
        return [self._carrying(g, row) for g in groups]

    def _read(self, row: Row) -> tuple[Format, list[Group]]:
        """The groups of a row in the format of the file, or in the row's own.

        Rows of one file may differ: some hold a label, others none. A row's own format counts where it reads
        all that the format of the file would have read.
        """
        file = self.format
        own = detect(row.plain)
        if self.asks not in (None, "input") and "input" in row and asking(row.plain) == "input":
            raise RowError(self.asks or "", "is missing")  # what a prompt is about does not ask by itself
        if self.named is not None or file is None or own is None or own is file:
            chosen = file or own
            if chosen is None:
                raise RowError("", "has the columns of no known format", sorted(row.plain), RENAME)
            return chosen, chosen.groups(row)
        order = [f.name for f in formats.in_order()]
        if order.index(own.name) < order.index(file.name):
            return own, own.groups(row)
        try:
            return file, file.groups(row)
        except RowError:
            row.forget()
            found = own.groups(row)
            lost = self.uses & (row.plain.keys() - row.used)
            if lost or (self.answers and not any(g.completions for g in found)):
                raise
            # Steps whose labels are missing are not answers that nobody judged.
            if self.steps and not _of_steps(found):
                raise
            return own, found

    def _carrying(self, group: Group, row: Row) -> Group:
        """The group with the columns that go along to reward functions and verifiers."""
        # A solution is learned, and checked against.
        kept = (*IDS, *NOTED, "solution")
        columns = {
            k: v if k in row.used or not isinstance(v, dict | list) else row.own(k)
            for k, v in row.plain.items()
            if k not in STAY and (self.everything or k in kept or k not in row.used | row.asked)
        }
        return replace(group, prompt=replace(group.prompt, columns=columns)) if columns else group

    def _bad(self, place: str, raw: Raw | RowError, error: Exception) -> None:
        known = error if isinstance(error, RowError) else None
        name = known.field if known else str(error)
        problem = known.problem if known else f"does not fit format {self.name!r} ({type(error).__name__})"
        if self.account.bad is not None:
            # What was found is text of the data, which an audit never shows.
            said = QUOTED.sub("(value)", problem.partition(", found")[0])
            self.account.bad.add(place, f"{name if known else ''} {said}".strip())
            return
        if self.spec.on_bad_row == "skip":
            column = re.sub(r"\[\d+\]", "[]", name)
            self.account.skipped[f"bad row: {column} {problem}" if column else f"bad row: {problem}"] += 1
            return
        value = known.value if known and known.value is not None else _shown(raw, name, self.spec.map)
        where = f"{place} field {name}" if name else place
        raise UserError(where, value, problem, self._fix(known.fix if known else "")) from error

    def _fix(self, mend: str) -> str:
        """What to do about a bad row: mend it, or leave it out, here and in a recipe."""
        recipe = f"--set {self.where}.on_bad_row=skip"
        skip = f"leave such rows out with --on-bad-row skip (in a recipe {recipe})"
        return f"{mend or 'correct the row'}, or {skip}"

    @property
    def name(self) -> str:
        """The format of the source, known when its first row has been read."""
        return self.format.name if self.format is not None else self.named or ""


def _of_steps(groups: Sequence[Group]) -> bool:
    """Whether answers are made of judged steps."""
    return any(f.kind == "steps" for g in groups for f in g.feedback)


def _as_asked(group: Group, row: Row, chosen: Format) -> Group:
    """The prompt that a column `prompt` holds beside a conversation that asks something else."""
    asked = prompt_of(row)
    said = [" ".join(m["content"].split()) for m in group.prompt.messages]
    if asked.messages == group.prompt.messages or " ".join((asked.text or "").split()) in said:
        return group
    return dressed(Group(asked, (), ()), row, chosen.system)


def _own_reader(name: str, field: str) -> Any:
    """What reads rows of this format; Kilter's own file of groups is one of them."""
    return (lambda row: iter([store.from_json(dict(row))])) if name == "groups" else reader(name, field)


def _is_group(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of Kilter's own groups."""
    return {"prompt", "completions", "feedback"} <= row.keys() and isinstance(row["prompt"], Mapping)


def _cleaned(raw: Raw | RowError, names: Mapping[str, str]) -> dict[str, Any]:
    """The columns of a row that can be read; none of a bad one."""
    if isinstance(raw, RowError):
        return {}
    try:
        return Row(raw, names).plain
    except RowError:
        return {}


def _shown(raw: Raw | RowError, name: str, names: Mapping[str, str]) -> object:
    """What stands in the column that an error names."""
    column = name.split("[")[0].split(".")[0]
    return "(absent)" if isinstance(raw, RowError) else renamed(raw, names).get(column, "(absent)")


def placed(group: Group, place: str, format_: str) -> Group:
    """The group with the place and the format of its row."""
    noted = {**group.prompt.metadata, ROW: (place, format_)}
    return replace(group, prompt=replace(group.prompt, metadata=noted))


def check_sides(group: Group) -> None:
    """Raises RowError for two answers that say the same and are said to differ."""
    judged = len(group.completions) == 2 or all(f.kind == "sides" for f in group.feedback)
    if not judged or len(group.completions) < 2:
        return
    seen: dict[str, float | None] = {}
    for completion, feedback in zip(group.completions, group.feedback, strict=True):
        text = " ".join(completion.text.split()) + repr(completion.turns)
        if seen.setdefault(text, feedback.score) != feedback.score:
            raise RowError("rejected", "is identical to chosen")
