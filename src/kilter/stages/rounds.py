"""Rounds: the same stages several times, each round from the model that the one before left.

    loop:
      rounds: 3
      start: sft
      reference: kept            # moved: each round's reference is where it starts; kept: always `start`
      stages:
        answers: {generate: {data: $data, part: "{round}/{rounds}"}}
        pairs: {label: {data: $answers, feedback: support_desk}}
        dpo: {train: {method: dpo, data: $pairs}}

It stands for the stages loop-1.answers, loop-1.pairs, loop-1.dpo, loop-2.answers, and so on.

Inside, a name means the stage of this round. If it comes later or is the stage itself, it means that of the
round before, and `start` in the first round. A model that is left out is the one that the round starts from.
After the block, `loop.dpo` is the last round's dpo, and `loop` the last round's last model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kilter.errors import UserError
from kilter.refs import BaseRef, Found
from kilter.stages.kind import Stage
from kilter.stages.refs import replaced
from kilter.stages.registry import make
from kilter.validation import as_user_error, load_yaml, require_name

KEY = "rounds"
"""What tells a block of rounds from a stage."""


class Rounds(BaseModel):
    """The same stages several times, each round from the model that the one before left."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    rounds: int = Field(ge=1, le=1000, description="how often the stages are run")
    start: BaseRef = Field(None, description="stage or model of the first round; default: the recipe's model")
    reference: Literal["moved", "kept"] = Field(
        "moved",
        description="reference policy: moved is where each round starts, kept where the first did",
    )
    stages: dict[str, dict[str, Any]] = Field(
        min_length=1, description="stages by name; {round} and {rounds} in a value are numbers"
    )


@dataclass
class _Round:
    """One round. `made` maps the names inside to stages of this round, `before` to those of the last."""

    number: int
    start: str | None
    made: dict[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)


def expand(name: str, raw: Mapping[str, Any], base: str) -> tuple[dict[str, Stage], dict[str, str]]:
    """The stages that a block stands for, and what its names mean to later stages.

    Args:
        name: of the block.
        raw: the block as it was written.
        base: the recipe's model.

    Raises:
        UserError: with field, value and fix.
    """
    where = f"stages.{name}"
    try:
        block = Rounds.model_validate(raw)
    except ValidationError as error:
        raise as_user_error(error, where, Rounds) from error
    for inner in block.stages:
        require_name(f"{where}.stages", inner)
    stages: dict[str, Stage] = {}
    last = _Round(0, block.start)
    for number in range(1, block.rounds + 1):
        now = _Round(number, last.start, before=last.made)
        for inner, settings in block.stages.items():
            stage = _stage(f"{where}.stages.{inner}", settings, now, block, base)
            full = f"{name}-{number}.{inner}"
            stages[full] = stage
            now.made[inner] = full

        # The next round begins with the last model of this one; a round that trains nothing changes none.
        models = [full for full in now.made.values() if stages[full].maker.makes == "model"]
        last = replace(now, start=models[-1] if models else now.start)
    final = {f"{name}.{inner}": full for inner, full in last.made.items()}
    return stages, final | {name: last.start or next(reversed(last.made.values()))}


def _stage(where: str, raw: Mapping[str, Any], now: _Round, block: Rounds, base: str) -> Stage:
    """One stage of a round, with its references led to this round or to the last one."""
    if len(raw) != 1 or KEY in raw:
        raise UserError(where, raw, "is not one stage", "write NAME: {KIND: {...}}; rounds hold no rounds")
    kind, settings = next(iter(_numbered(raw, now.number, block.rounds).items()))
    stage = make(str(kind), settings, where)

    def change(item: Found) -> Any:
        if item.value is None:
            kept = item.ref.default == "start" and block.reference == "kept"
            return (block.start or base) if kept else now.start if item.ref.default == "base" else None
        return _led(item, now, block, base, f"{where}.{kind}")

    return replace(stage, spec=replaced(stage.spec, change))


def _led(item: Found, now: _Round, block: Rounds, base: str, where: str) -> str:
    """The full name of what a reference means in this round."""
    text = str(item.value)
    dollar = "$" if text.startswith("$") else ""
    name = text.removeprefix("$")
    if name not in block.stages:
        return text
    if name in now.made:
        return dollar + now.made[name]
    if name in now.before:
        return dollar + now.before[name]
    if item.ref.to == "model":
        return block.start or base
    raise UserError(
        f"{where}.{item.field}",
        text,
        "is made by a later stage, so the first round has none",
        "put the stage that makes it first",
    )


def _numbered(value: Any, number: int, total: int) -> Any:
    """{round} and {rounds} in texts as numbers; a text that holds nothing else becomes a number."""
    if isinstance(value, Mapping):
        return {k: _numbered(v, number, total) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbered(v, number, total) for v in value]
    if not isinstance(value, str) or not ("{round}" in value or "{rounds}" in value):
        return value
    text = value.replace("{round}", str(number)).replace("{rounds}", str(total))
    try:
        return load_yaml(text)
    except yaml.YAMLError:
        return text
