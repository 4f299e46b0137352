"""From judge.yaml, or the options of a recipe, to a judge. Weights are opened when it is first asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kilter.errors import UserError
from kilter.feedback.context import Context
from kilter.feedback.judge.checks import OF_EACH_JUDGE, OF_THE_PANEL, reads, refuse_nobody, refuse_unusable
from kilter.feedback.judge.panel import Panel
from kilter.feedback.judge.prompts import version
from kilter.feedback.judge.protocol import ChatJudge
from kilter.feedback.judge.spec import JudgeSpec
from kilter.feedback.judge.verdict import ToldJudge
from kilter.registry import Registry
from kilter.roles.paid import Bill, Rate
from kilter.roles.talk import Talker
from kilter.validation import as_user_error, load_yaml

CACHE = "judge.sqlite"
"""In the folder of a run, where the settings name no file of their own."""

over: Registry[Callable[[JudgeSpec, Context, ToldJudge], ToldJudge]] = Registry("judge mode")
"""Modes in which a judge is asked by another one, as a constitution asks principle by principle."""

over.declare("kilter.constitution.judge", "constitution")

SETTINGS = ("mode", "read", "criterion", "scale", "clamp", "min_mass", "max_tokens", "max_length")
"""What decides a verdict beside the model and the wording."""


def load_spec(path: str | Path, field: str = "judge") -> JudgeSpec:
    """Reads judge.yaml. Paths in it are taken from the working directory, as in a recipe.

    Raises:
        UserError: there is no such file, or a setting in it is unknown or impossible.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(field, str(path), "names no file", "give a judge.yaml; docs/judges.md shows some")
    try:
        raw = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = f"is not YAML ({' '.join(str(error).split())[:160]})"
        raise UserError(field, str(path), problem, "check indentation, colons and repeated keys") from error
    if not isinstance(raw, dict):
        raise UserError(field, str(path), "is not a mapping", "write model: and mode: at least")
    spec = parse_spec(raw, str(path))
    check(spec, str(path))
    return spec


def parse_spec(raw: dict[str, Any], field: str = "judge") -> JudgeSpec:
    """Settings from plain data, checked. Raises UserError."""
    try:
        spec = JudgeSpec.model_validate(raw)
    except ValidationError as error:
        raise as_user_error(error, field, JudgeSpec) from error
    refuse_unusable(spec, members(spec, field), field)
    return spec


def check(spec: JudgeSpec, field: str = "judge") -> list[JudgeSpec]:
    """Refuses settings that cannot work, before weights are opened or anybody is asked.

    Returns:
        The judges of a panel; none of a judge alone.

    Raises:
        UserError: settings contradict each other, nobody reads one of them, or nobody would answer.
    """
    panel = members(spec, field)
    refuse_unusable(spec, panel, field)
    refuse_nobody(spec, panel, field)
    return panel


def members(spec: JudgeSpec, field: str = "judge") -> list[JudgeSpec]:
    """The judges of a panel, each with the panel's settings where it has none of its own."""
    shared = spec.model_dump(exclude_unset=True, exclude={*OF_THE_PANEL, *OF_EACH_JUDGE})
    found = []
    for n, own in enumerate(spec.panel):
        where = f"{field}.panel.{n}"
        if "panel" in own:
            raise UserError(f"{where}.panel", own["panel"], "stands inside a panel", "list all judges once")
        for key in sorted(OF_THE_PANEL & own.keys()):
            fix = f"write {key} beside panel, and leave it out here"
            raise UserError(f"{where}.{key}", own[key], "is read of the whole panel alone", fix)
        try:
            merged = JudgeSpec.model_validate(shared | own)
            # What the panel says for its other judges binds nobody else.
            idle = {key for key in shared.keys() - own.keys() if not reads(merged, key)}
            found.append(JudgeSpec.model_validate({k: v for k, v in (shared | own).items() if k not in idle}))
        except ValidationError as error:
            raise as_user_error(error, where, JudgeSpec) from error
    return found


def build(
    spec: JudgeSpec,
    context: Context,
    field: str = "judge",
    bill: Bill | None = None,
    min_mass: float | None = None,
    file: str | None = None,
) -> ToldJudge:
    """The judge that the settings describe.

    Args:
        spec: the settings.
        context: finds models; its folder keeps the replies where the settings name no cache.
        field: where the settings stand, for messages.
        bill: books what the judge costs; default: one of its own.
        min_mass: in place of the settings' own, also in a panel.
        file: judge.yaml that holds the settings, for messages; None where `field` does.

    Raises:
        UserError: the settings contradict each other, or a certificate is required and missing.
    """
    bill = Bill(spec.max_cost) if bill is None else bill
    bill.limit = spec.max_cost
    own = check(spec, field)
    if min_mass is not None:
        spec, *own = (one.model_copy(update={"min_mass": min_mass}) for one in (spec, *own))
    if own:
        places = [f".panel.{n}" for n in range(len(own))]
        voices = [_one(m, context, field, bill, file, place) for m, place in zip(own, places, strict=True)]
        judge: ToldJudge = Panel(voices)
    else:
        judge = _one(spec, context, field, bill, file)
    if spec.mode in over.names():
        judge = over.get(spec.mode)(spec, context, judge)
    return judge


def _one(
    spec: JudgeSpec, context: Context, field: str, bill: Bill, file: str | None, place: str = ""
) -> ChatJudge:
    """place: of the judge in the settings, such as .panel.0."""
    wording = version(spec.mode, spec.read)
    talker = Talker(
        sampler=spec.sampler,
        model=None if spec.model is None else _folder(spec.model, context, file and f"{file}{place}"),
        max_tokens=spec.max_tokens,
        max_length=spec.max_length,
        template=spec.template,
        version=wording,
        bill=bill,
        rate=Rate(spec.price.prompt, spec.price.completion),
        cache=_cache(spec, context),
        replay=spec.replay or context.replay is not None,
        where=f"{field}{place}",
        place=f"{file or field}{place}",
        cache_field="" if context.replay is None else "replay",
        elsewhere=context.sampler,
    )
    settings = spec.model_dump(mode="json", include=set(SETTINGS))
    text = json.dumps([talker.identity, wording, settings], sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    begin = talker.chat.begin if talker.apart else None
    return ChatJudge(talker.chat, spec, fingerprint, talker.name, lambda ask: talker.length(ask), begin)


def _folder(model: str, context: Context, named: str | None) -> Path:
    """Of the weights. named: what names the settings' file and the place in it; None without a file."""
    try:
        return context.model(model)
    except UserError as error:
        if named is None:
            raise
        raise UserError(f"{named}.model", error.value, error.problem, error.fix) from error


def _cache(spec: JudgeSpec, context: Context) -> Path | None:
    if context.replay is not None:
        return context.replay
    if spec.cache is not None:
        return Path(spec.cache)
    return None if context.folder is None else context.folder / CACHE
