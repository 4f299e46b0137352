"""evaluation.json in; gate.json, its schema and JUnit XML out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kilter.artifacts import write_json, write_text
from kilter.errors import Exit, UserError
from kilter.release.gate.condition import State
from kilter.release.subjects import subjects
from kilter.screen import plain


class Bounds(BaseModel):
    """What a gate reads of any estimate: numbers that are numbers, or null."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    method: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if self.ci_low is not None and self.ci_high is not None and self.ci_low > self.ci_high:
            raise ValueError(f"ci_low = {self.ci_low:g} lies above ci_high = {self.ci_high:g}")
        return self


class Measured(Bounds):
    """An estimate of evaluation.json, as a gate needs it."""

    n: int = Field(ge=0)
    n_unscored: int = Field(ge=0)
    n_clusters: int | None = Field(None, ge=0)
    fewest: int = Field(0, ge=0)
    corrected: Bounds | None = None


class Result(BaseModel):
    """One condition of gate.json."""

    model_config = ConfigDict(extra="forbid")
    condition: str = Field(description="the condition in words")
    metric: str
    bound: str = Field(description="which number was compared")
    op: Literal[">", ">=", "<", "<="]
    value: float = Field(description="what it was compared with")
    observed: float | None = Field(description="the number; null where there is none")
    n: int | None = Field(description="prompts that were scored")
    n_clusters: int | None = Field(None, description="independent ones among them")
    state: State
    severity: Literal["fail", "warn"]
    why: str = Field(description="a sentence for people")
    family: str | None = Field(None, description="claims that were corrected together")
    p_holm: float | None = Field(None, description="one-sided p-value after the correction")


class Verdict(BaseModel):
    """gate.json: whether a candidate may ship, and why."""

    model_config = ConfigDict(extra="forbid", title="kilter gate.json")
    schema_: Literal[1] = Field(alias="schema", description="version of this format")
    policy: str = Field(description="name of the policy")
    candidate: str
    baseline: str | None
    verdict: Literal["pass", "fail", "inconclusive"]
    data_hash: str = Field(description="of the data that the prompts come from")
    model_hash: str = Field(description="of the candidate's weights")
    conditions: list[Result]
    notes: list[str] = Field(default_factory=list, description="what a reader has to know of the policy")


def read(path: Path) -> dict[str, Any]:
    """What evaluation.json holds. Raises UserError where it is none, or damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["baseline"], found["n_prompts"], found["data_hash"]
        # Absent or null: nobody looked, which the gate says. Anything but a count is no evaluation.
        leaked = found.get("prompts_found_in_training_data")
        if leaked is not None and (type(leaked) is not int or leaked < 0):
            raise ValueError(f"prompts_found_in_training_data is {leaked!r}")
        models = subjects(found)
        [(m["path"], m["model_hash"]) for m in models.values()]
        _check_numbers([*models.values(), found.get("reward_model") or {}])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            "evaluation",
            str(path),
            f"is not an evaluation.json ({error})",
            "give the file that `kilter eval` wrote",
        ) from error
    return found


def _check_numbers(subjects: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError for the first estimate that is none: what is no number decides nothing."""
    for part in ("metrics", "difference"):
        for name, estimate in ((n, e) for s in subjects for n, e in s.get(part, {}).items()):
            try:
                Measured.model_validate(estimate)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, (part, name, *first["loc"])))
                raise ValueError(f"{place}: {first['msg']}") from error


def exit_code(verdict: str) -> Exit:
    """0 pass, 1 fail, 3 inconclusive."""
    return {"pass": Exit.OK, "fail": Exit.GATE_FAILED, "inconclusive": Exit.INCONCLUSIVE}[verdict]


def junit(gate: Mapping[str, Any]) -> str:
    """The conditions as JUnit XML, for CI systems. Whatever keeps the gate from passing is a failure."""
    bad = ("fail", "error", "inconclusive")
    rows: Sequence[Mapping[str, Any]] = gate["conditions"]
    suite = ElementTree.Element(
        "testsuite",
        name=f"kilter gate {gate['policy']}",
        tests=str(len(rows)),
        failures=str(sum(r["state"] in bad for r in rows)),
        skipped=str(sum(r["state"] in ("waived", "warn") for r in rows)),
    )
    for row in rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=str(gate["candidate"]), name=str(row["condition"])
        )
        if row["state"] in bad:
            ElementTree.SubElement(case, "failure", message=f"{row['state']}: {row['why']}")
        elif row["state"] != "pass":
            ElementTree.SubElement(case, "skipped", message=f"{row['state']}: {row['why']}")
    if gate.get("notes"):
        ElementTree.SubElement(suite, "system-out").text = "\n".join(gate["notes"])
    # A name may hold what XML cannot: control characters are written out.
    for element in suite.iter():
        element.attrib.update({name: plain(value) for name, value in element.attrib.items()})
        element.text = None if element.text is None else plain(element.text)
    return ElementTree.tostring(suite, encoding="unicode")


def write(gate: Mapping[str, Any], folder: Path) -> None:
    """gate.json, as its schema says, and gate.xml (JUnit)."""
    Verdict.model_validate(gate)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "gate.json", gate, indent=1)
    write_text(folder / "gate.xml", junit(gate))
