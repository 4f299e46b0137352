"""Runs the checks over a data set in one pass, and says what they found."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kilter.data.audit import extras
from kilter.data.audit.check import Check, Context, families, rules
from kilter.data.audit.checks import __all__ as _registered  # noqa: F401
from kilter.data.audit.finding import Finding
from kilter.data.audit.row import Row, look
from kilter.data.dataset import DataSpec, divided, gathered, load
from kilter.data.encode import Encoder
from kilter.data.reading import Account, BadRows
from kilter.errors import UserError, nearest
from kilter.screen import many
from kilter.types import Group, Shape

SCHEMA = 2
Said = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What an audit looks at.

    Args:
        encoder: counts tokens; None: truncation is not checked.
        suites: data of evaluations by name, which no row may give away.
        look_for: pii, toxicity, language: each needs an extra.
        only: names of rules; empty: all of them.
        waive: the reason for which a rule's error does not stop a run, by the name of the rule.
        seed: of samples.
    """

    encoder: Encoder | None = None
    suites: Mapping[str, DataSpec] = field(default_factory=dict)
    look_for: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    waive: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        path, format: of the data.
        data_hash: of prompts, answers and scores, in their order.
        groups: all of them.
        heldout: how many are held out.
        findings: one for each rule that was asked for.
        flags: numbers of the rows by the name of the rule that flags them.
        context: names rows.
    """

    path: str
    format: str
    data_hash: str
    groups: Sequence[Group]
    heldout: int
    findings: Sequence[Finding]
    flags: Mapping[str, array[int]]
    context: Context

    @property
    def verdict(self) -> str:
        """The worst level; an error that is waived counts as a warning."""
        levels = {"warn" if f.waived else f.level for f in self.findings}
        return next((level for level in ("error", "warn") if level in levels), "ok")

    def stopping(self) -> list[Finding]:
        """Errors that nobody has waived."""
        return [f for f in self.findings if f.stops]

    def to_json(self) -> dict[str, Any]:
        """The audit as plain values, for audit.json."""
        return {
            "schema": SCHEMA,
            "data": self.path,
            "format": self.format,
            "data_hash": self.data_hash,
            "verdict": self.verdict,
            "rows": len(self.groups),
            "train": len(self.groups) - self.heldout,
            "heldout": self.heldout,
            "flagged": len(self.rows_flagged()),
            "findings": [f.to_json() for f in self.findings],
        }

    def rows_flagged(self) -> dict[int, list[str]]:
        """The names of the rules that flag a row, by its number."""
        found: dict[int, list[str]] = {}
        for name, rows in self.flags.items():
            for row in rows:
                found.setdefault(row, []).append(name)
        return found

    def flag_lines(self) -> Iterator[dict[str, Any]]:
        """A line for every row: where it stands, what it is called, and its flags."""
        flagged = self.rows_flagged()
        for index, group in enumerate(self.groups):
            yield {
                "row": self.context.place(index),
                "id": group.prompt.id,
                "flags": flagged.get(index, []),
            }


def check_names(names: Collection[str], field: str) -> None:
    """Raises UserError for a name that no rule has."""
    known = rules()
    for name in names:
        if name not in known:
            raise UserError(field, name, "is not the name of a check", nearest(name, list(known)))


def audit(
    spec: DataSpec,
    settings: Settings,
    shape: Shape = "pairs",
    where: str = "data",
    said: Said = lambda line: None,
) -> Audit:
    """Reads a data set as it is, bad rows included, and looks at all of it.

    Args:
        spec: where the data is, how it is read and split.
        settings: what is looked at.
        shape: the shape in which a built-in world gives its rows.
        where: the field that names the data, for messages.
        said: called with a line for a person as the work goes on.

    Raises:
        UserError: nothing can be read, or a rule or extra is unknown.
    """
    check_names(settings.only, "only")
    check_names(settings.waive, "waive")
    extras.require(settings.look_for, "look_for")

    # A row that stops a training is what an audit is for: it is taken down, and the reading goes on.
    account = Account(bad=BadRows())
    said("reading rows")
    groups, bounds = gathered(spec, shape, where, account, False)
    _, held = divided(groups, spec, bounds)
    suites = {name: _suite(suite, name) for name, suite in settings.suites.items()}
    bad = account.bad or BadRows()
    context = Context(groups, spec, bad, settings.encoder, suites, settings.look_for, settings.seed)
    return _examined(context, set(held), account.format, settings, said)


def examine(groups: Sequence[Group], only: Collection[str] = ()) -> dict[str, Finding]:
    """What some rules find in groups that are in memory, by the name of the rule."""
    settings = Settings(only=frozenset(only))
    found = _examined(Context(groups), set(), "groups", settings, lambda line: None)
    return {f.check: f for f in found.findings}


def _suite(spec: DataSpec, name: str) -> Sequence[Group]:
    """All prompts of an evaluation, with the reference answers that it holds."""
    found = load(spec.model_copy(update={"heldout": 0.0}), "prompts", name, learned=False)
    return found.train


def _examined(context: Context, held: set[int], format_: str, settings: Settings, said: Said) -> Audit:
    """One pass over the rows, then what each family says of them."""
    wanted = [f for f in families.in_order() if _wanted(f, settings)]
    checks = [family(context) for family in wanted]
    said(f"looking at {many(len(context.groups), 'rows')}")
    digest = hashlib.sha256()
    for index, group in enumerate(context.groups):
        row = look(index, group, index in held)
        digest.update(_content(row))
        for check in checks:
            check.see(row)

    # A family answers for all of its rules; of those that nobody asked for nothing is said.
    findings = []
    for check in checks:
        said(f"checking {check.rules[0].title.lower()}")
        for finding in check.findings():
            if not settings.only or finding.check in settings.only:
                reason = settings.waive.get(finding.check, "")
                findings.append(replace(finding, waived=reason if finding.level == "error" else ""))
    flags = {f.check: context.flags[f.check] for f in findings}
    path = context.spec.path if context.spec else ""
    return Audit(path, format_, digest.hexdigest(), context.groups, len(held), findings, flags, context)


def _wanted(family: type[Check], settings: Settings) -> bool:
    return not settings.only or any(rule.name in settings.only for rule in family.rules)


def _content(row: Row) -> bytes:
    """What a row says and what is said of it; where it comes from does not count."""
    scores = [f.score for f in row.group.feedback]
    return repr((row.key, row.texts, scores, row.held)).encode("utf-8", "surrogatepass")


def counts(findings: Sequence[Finding]) -> str:
    """How many findings are of each level, for a person."""
    levels = Counter("waived" if f.waived else f.level for f in findings)
    return ", ".join(f"{levels[name]} {name}" for name in ("error", "waived", "warn", "ok", "not checked"))
