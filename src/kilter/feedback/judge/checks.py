"""What a judge's settings may not say: each key is read by its kind, and somebody can answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kilter.errors import UserError, nearest
from kilter.feedback.judge.prompts import GRADED
from kilter.feedback.judge.spec import JudgeSpec
from kilter.refs import TEMPLATE_WORDS
from kilter.sampling.build import check_who_answers
from kilter.sampling.config import FOLLOWS, READS
from kilter.validation import refuse_idle

BY_MODE: Mapping[str, frozenset[str]] = {
    "criterion": frozenset({"pairwise", "rubric", "reference", "safety"}),
    "scale": frozenset({"rubric", "reference"}),
    "constitution": frozenset({"constitution"}),
    "clamp": frozenset({"pairwise", "constitution"}),
}
"""The modes that read a key. All modes read a key that is not listed."""

BY_READING: Mapping[str, frozenset[str]] = {
    "clamp": frozenset({"reasoned"}),
    "min_mass": frozenset({"logprob", "reasoned"}),
    "max_tokens": frozenset({"text", "reasoned"}),
}
"""The readings that read a key. All readings read a key that is not listed."""

BY_SAMPLER: Mapping[str, frozenset[str]] = {"template": FOLLOWS}
"""The samplers that read a key. A sampler of the user's own may read all of them."""

OF_THE_PANEL = frozenset(
    {"panel", "repeats", "canary", "constitution", "max_cost", "certificate", "require_certificate"}
)
"""Keys that a panel has once, and that none of its judges reads."""

OF_EACH_JUDGE = frozenset({"model", "sampler"})
"""Keys that a panel never has for all of its judges."""

COMPARES_BY_PROBABILITY = frozenset({"world"})
"""Samplers that say which of two answers is better, and nothing else."""


def reads(spec: JudgeSpec, key: str) -> bool:
    """Whether a judge of this mode, reading and sampler uses the key."""
    who = spec.sampler.name
    asked = spec.mode in BY_MODE.get(key, {spec.mode}) and spec.read in BY_READING.get(key, {spec.read})
    return asked and (who not in READS or who in BY_SAMPLER.get(key, {who}))


def refuse_unusable(spec: JudgeSpec, panel: Sequence[JudgeSpec], where: str) -> None:
    """Raises UserError for settings that contradict each other, or that nobody reads.

    Args:
        spec: the settings as they stand.
        panel: the judges of a panel, each with the panel's settings; none of a judge alone.
        where: the field of the settings, for messages.
    """
    if len(panel) == 1:
        raise UserError(f"{where}.panel", 1, "is one judge", "name two or more, or put it in place of panel")
    refuse_idle(spec, f"{where}.", _idle(spec, panel), written=True)
    _refuse_clamp(spec, where)
    for n, own in enumerate(panel):
        field = f"{where}.panel.{n}"
        refuse_idle(own, f"{field}.", _idle(own, ()), written=True)
        _refuse_member(spec, own, field)
        _refuse_clamp(own, field)
    if spec.max_cost is not None and not any(p.price.prompt or p.price.completion for p in panel or [spec]):
        raise UserError(
            f"{where}.max_cost",
            spec.max_cost,
            "limits nothing without a price",
            "set price: {prompt: ..., completion: ...} per million tokens",
        )


def _idle(spec: JudgeSpec, panel: Sequence[JudgeSpec]) -> Iterator[tuple[str, str, str]]:
    """(key, why, fix) of all keys that no judge of the settings would read, for validation.refuse_idle."""
    for key in sorted(OF_EACH_JUDGE if panel else ()):
        yield key, "each judge of the panel has its own", f"move {key} into the judges of the panel"
    for table, kind in ((BY_MODE, "mode"), (BY_READING, "read")):
        for key, kinds in table.items():
            # A key for a whole panel needs one judge that reads it.
            asked = [spec] if key in OF_THE_PANEL else list(panel or [spec])
            if not any(getattr(one, kind) in kinds for one in asked):
                said = " and ".join(sorted({str(getattr(one, kind)) for one in asked}))
                fix = f"leave {key} out, or use {kind}: {' or '.join(sorted(kinds))}"
                yield key, f"{kind}: {said} does not read it", fix

    for key in BY_SAMPLER:
        if not any(reads(one, key) for one in panel or [spec]):
            who = " and ".join(sorted({one.sampler.name for one in panel or [spec]}))
            yield key, f"sampler {who} opens no model", f"leave {key} out"

    # One judge has the mode for it, and another one the reading.
    for key in BY_MODE.keys() & BY_READING.keys() if panel else ():
        if not any(reads(one, key) for one in panel):
            yield key, "no judge of the panel reads it", f"leave {key} out"


def _refuse_member(panel: JudgeSpec, own: JudgeSpec, where: str) -> None:
    """A judge of a panel gives what its panel counts."""
    if panel.mode in GRADED and own.mode not in GRADED:
        problem = f"gives no grades, which a panel of mode {panel.mode} counts"
        fix = f"use one of {', '.join(sorted(GRADED))}, or another mode of the panel"
        raise UserError(f"{where}.mode", own.mode, problem, fix)
    if own.mode == "constitution" != panel.mode:
        fix = "write mode: constitution beside panel, and leave it out here"
        raise UserError(f"{where}.mode", own.mode, "is a mode of the whole panel", fix)


def _refuse_clamp(spec: JudgeSpec, where: str) -> None:
    """Bounds of probabilities hold 1/2, or a verdict would change sides."""
    if spec.clamp is not None:
        low, high = spec.clamp
        if not 0 <= low <= 0.5 <= high <= 1:
            raise UserError(f"{where}.clamp", spec.clamp, "does not hold 0.5 in 0 to 1", "use [0.4, 0.6]")


def refuse_nobody(spec: JudgeSpec, panel: Sequence[JudgeSpec], where: str) -> None:
    """Raises UserError unless somebody answers, and can say what mode and reading ask for.

    Args as those of `refuse_unusable`.
    """
    for own, field in [(own, f"{where}.panel.{n}") for n, own in enumerate(panel)] or [(spec, where)]:
        check_who_answers(own.model, own.sampler, field)
        if own.template not in TEMPLATE_WORDS and not Path(own.template).is_file():
            fix = nearest(own.template, TEMPLATE_WORDS)
            raise UserError(f"{field}.template", own.template, "names no chat template and no file", fix)
        _refuse_silent(own, field)


def _refuse_silent(spec: JudgeSpec, where: str) -> None:
    """A sampler that only compares is asked for nothing else."""
    if spec.sampler.name not in COMPARES_BY_PROBABILITY:
        return
    who = f"sampler {spec.sampler.name}"
    if spec.mode in GRADED:
        fix = "use mode: pairwise, or another sampler"
        raise UserError(f"{where}.mode", spec.mode, f"needs a grade, and {who} compares alone", fix)
    if spec.read != "logprob":
        fix = "use read: logprob, or another sampler"
        raise UserError(f"{where}.read", spec.read, f"needs words, and {who} writes none", fix)
