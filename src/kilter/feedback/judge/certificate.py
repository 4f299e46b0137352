"""judge.json: what was measured of which judge, and until when it holds. `kilter audit-judge` writes it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kilter.artifacts import read_json
from kilter.errors import UserError

SCHEMA = 1
DAYS = 90
"""How long a certificate holds unless its audit says otherwise."""

State = Literal["pass", "refused", "inconclusive", "not measured", "reported"]
"""Of one metric. not measured: the data lacks what it needs. reported: it has no limit."""


class Limit(BaseModel):
    """The interval of a metric has to lie between these two; None is no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    low: float | None = None
    high: float | None = None


class Metric(BaseModel):
    """One thing that was measured of a judge: an Estimate with its limit."""

    model_config = ConfigDict(extra="ignore")
    title: str = Field(description="for people")
    value: float | None = Field(
        description="the estimate; null: nothing was scored, or there is no such data"
    )
    ci_low: float | None = Field(None, description="lower bound of the 95 % interval")
    ci_high: float | None = Field(None, description="upper bound of the 95 % interval")
    n: int = Field(0, description="scored values")
    n_unscored: int = Field(0, description="values that could not be had")
    n_clusters: int = Field(0, description="prompts")
    method: str = Field("", description="how the interval was made")
    limit: Limit = Field(default_factory=Limit, description="where the interval has to lie")
    state: State
    unit: str = Field("share", description="share, or empty for a coefficient")
    says: str = Field(description="one sentence for a person")
    parts: dict[str, float] = Field(default_factory=dict, description="the value of parts, such as each null")
    per_prompt: list[float | None] = Field(
        default_factory=list, description="mean of each prompt, by which two audits are paired"
    )


class Subject(BaseModel):
    """The judge."""

    model_config = ConfigDict(extra="ignore")
    name: str
    fingerprint: str = Field(min_length=8, description="hash of model, wording, mode and sampling")
    settings: dict[str, Any] = Field(default_factory=dict, description="judge.yaml")


class Cost(BaseModel):
    """What the audit took."""

    model_config = ConfigDict(extra="ignore")
    verdicts: int = Field(description="calls of the audit, those that were kept from before included")
    paid: float = Field(0.0, description="in the currency of judge.yaml; 0 without a price")
    prompt_tokens: int = 0
    tokens: int = Field(0, description="tokens written")
    seconds: float = 0.0


class Certificate(BaseModel):
    """judge.json."""

    model_config = ConfigDict(extra="ignore")
    schema_: Literal[1] = Field(alias="schema")
    judge: Subject
    data: str = Field(description="name of the labelled data")
    data_hash: str = Field(description="hash of the labelled rows")
    pairs: int = Field(description="labelled pairs that were judged")
    verdict: Literal["pass", "refused", "inconclusive"]
    failures: list[str] = Field(default_factory=list, description="metrics beyond their limit")
    undecided: list[str] = Field(default_factory=list, description="metrics that need more pairs or labels")
    metrics: dict[str, Metric]
    failed: int = Field(0, description="calls that failed; no metric counts them")
    cost: Cost
    made: dt.date
    expires: dt.date = Field(description="last day on which it holds")
    seal: str = Field("", description="SHA-256 of all that stands above")

    def problem(self, fingerprint: str, today: dt.date) -> str:
        """Why it does not vouch for a judge; "" where it does."""
        if self.judge.fingerprint != fingerprint:
            other = f"{self.judge.name}, {self.judge.fingerprint[:12]}"
            same = "model, wording and mode have to be the same"
            return f"the certificate is of another judge ({other}), not of {fingerprint[:12]}: {same}"
        if self.verdict == "refused":
            return f"the audit of {self.made} refused this judge for {', '.join(self.failures)}"
        if self.verdict == "inconclusive":
            return f"the audit of {self.made} could not decide on {', '.join(self.undecided)}"
        if self.expires < today:
            return f"the certificate expired on {self.expires}"
        return ""


def sealed(row: Mapping[str, Any]) -> dict[str, Any]:
    """What judge.json holds, with the hash of it. That shows what was edited; it stops no forger."""
    rest = {key: value for key, value in row.items() if key != "seal"}
    text = json.dumps(rest, sort_keys=True)
    return rest | {"seal": hashlib.sha256(text.encode()).hexdigest()}


def read(path: str | Path) -> Certificate:
    """The certificate in a file. Raises UserError where it is missing, damaged or edited."""
    row = read_json(Path(path), _FIX)
    try:
        found = Certificate.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError("certificate", str(path), f"is damaged: {where}: {first['msg']}", _FIX) from error
    if found.seal != sealed(row)["seal"]:
        raise UserError("certificate", str(path), EDITED if found.seal else UNSEALED, _FIX)
    return found


_FIX = "write it anew with `kilter audit-judge`"
EDITED = "was edited since its audit"
UNSEALED = "has no seal: an older Kilter wrote it, or somebody edited it"


def valid(path: str | Path | None, fingerprint: str, today: dt.date | None = None) -> str:
    """Why a file does not vouch for the judge with this fingerprint; "" where it does.

    Args:
        path: of judge.json; None is no certificate.
        fingerprint: of the judge that is asked.
        today: the day that the certificate has to hold on; default: the present one.
    """
    if path is None:
        return "there is no certificate of this judge"
    if not Path(path).is_file():
        return f"there is no certificate at {path}"
    try:
        return read(path).problem(fingerprint, today or dt.date.today())
    except UserError as error:
        known = error.problem in (EDITED, UNSEALED)
        return f"the certificate at {path} {error.problem if known else 'is damaged'}"


def vouching(named: str | None, others: Sequence[Path], fingerprint: str) -> tuple[Path | None, str]:
    """(the certificate of a judge, ""), or (None, why none vouches for it).

    Args:
        named: file that the judge's settings name; it is asked first.
        others: files of the run's own audits.
        fingerprint: of the judge that is asked.
    """
    problems = []
    for path in (*([] if named is None else [Path(named)]), *others):
        problem = valid(path, fingerprint)
        if not problem:
            return path, ""
        problems.append(problem)
    return None, next(iter(problems), valid(None, fingerprint))
