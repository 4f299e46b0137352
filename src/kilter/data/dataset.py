"""A data set as training sees it: read, checked, split by prompt, and in the shape that a method needs."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from kilter.data import store
from kilter.data.formats import Reader, RowError, detect, reader
from kilter.data.read import rows
from kilter.data.shapes import NEEDED, Condition, PairRule, conditioned, to_shape
from kilter.data.worlds import registry as worlds
from kilter.errors import UserError
from kilter.types import Group, Message, Prompt, Shape

if TYPE_CHECKING:
    AnyDials = worlds.Dials
else:  # so that the schema and the command line show the dials of every registered world
    AnyDials = Union[tuple(world.dials for _, world in worlds.worlds)]  # noqa: UP007


class DataSpec(BaseModel):
    """Where preference data comes from and how it is split."""

    model_config = ConfigDict(extra="forbid")
    path: Annotated[str, AfterValidator(worlds.check_path)] = Field(
        description=f"file, Hub name (owner/name), or {', '.join(worlds.paths())}"
    )
    format: str = Field(
        "auto", description="auto, a name listed by `kilter data convert --help`, or my_file.py:read"
    )
    split: str = Field("train", description="split of a Hub data set")
    config: str | None = Field(None, description="configuration of a Hub data set")
    system: str | None = Field(None, description="system message put before prompts that have none")
    safety: Literal["safe", "unsafe"] | None = Field(
        None,
        description="label of all prompts: unsafe (red team) or safe (look-alikes that deserve an answer)",
    )
    text: Literal["chat", "raw"] = Field(
        "chat", description="plain-text prompts: one user turn (chat) or untouched text (raw)"
    )
    pairs: PairRule = Field(
        default_factory=lambda: PairRule(), description="which pairs rated or ranked answers give"
    )
    condition: Condition | None = Field(
        None, description="conditional SFT: answers of every quality, each with its level in the prompt"
    )
    heldout: float = Field(0.1, ge=0, lt=1, description="share of PROMPTS kept for evaluation")
    limit: int | None = Field(None, ge=1, description="use only the first N groups")
    seed: int = Field(0, description="seed of the split and of a built-in world")
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="stop at a bad row, or skip and count it"
    )
    world: Annotated[AnyDials, worlds.DialsOfPath()] = Field(
        default_factory=dict, validate_default=True, description=f"dials of {', '.join(worlds.paths())}"
    )


@dataclass(frozen=True, slots=True)
class Dataset:
    """Groups by split, and what was left out and why."""

    spec: DataSpec
    train: list[Group]
    heldout: list[Group]
    skipped: Counter[str] = field(default_factory=Counter)
    format: str = ""

    def left_out(self) -> str:
        """What was left out and why, for a person; "" when nothing was."""
        return ", ".join(f"{n} {why}" for why, n in self.skipped.items())

    def content_hash(self) -> str:
        """Hash of every group in both splits, for manifests and caches."""
        digest = hashlib.sha256()
        for name, groups in (("train", self.train), ("heldout", self.heldout)):
            digest.update(name.encode())
            for group in groups:
                digest.update(json.dumps(store.to_json(group), sort_keys=True, ensure_ascii=False).encode())
        return digest.hexdigest()


def _split_key(group: Group) -> str:
    """Says what may not be split: the prompt, or twins, so that both are held out or neither.

    Rows of plain text have no prompt and are told apart by their text.
    """
    if group.prompt.metadata.get("twins"):
        return str(group.prompt.metadata["twins"])
    if group.prompt.text == "" and group.completions:
        return hashlib.sha256(group.completions[0].text.encode()).hexdigest()
    return prompt_key(group.prompt)


def prompt_key(prompt: Prompt) -> str:
    """Identity of a prompt: its content, white space normalised, never its id.

    What a plain conversation lacks (calls, reasoning, tools) is part of it only where it is there.
    """
    content: Any = [_turn_key(m) for m in prompt.messages] or " ".join((prompt.text or "").split())
    if prompt.tools or prompt.template_kwargs:
        content = [content, prompt.tools, prompt.template_kwargs]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _turn_key(turn: Message) -> list[Any]:
    """Role and words, then whatever else the template may show."""
    more = {k: v for k, v in turn.items() if k not in ("role", "content", "train")}
    return [turn["role"], " ".join(turn["content"].split()), *([more] if more else [])]


def trained_prompts(model: Path) -> set[str]:
    """Prompt keys that a model and its ancestors were trained on, from its folder or its stage's."""
    found: set[str] = set()
    for path in (model / "trained_prompts.txt", model.parent / "trained_prompts.txt"):
        found |= set(path.read_text().split()) if path.is_file() else set()
    return found


def load(spec: DataSpec, shape: Shape, where: str = "data") -> Dataset:
    """Reads, checks, splits.

    Args:
        spec: where the data is and how it is read.
        shape: what the method needs; groups of another shape are brought into it.
        where: the field that names the data, for messages.

    Raises:
        UserError: at the first bad row, with file, line and field, unless bad rows are skipped and counted.
    """
    skipped: Counter[str] = Counter()
    if worlds.is_world(spec.path):
        groups, name = _generated(spec, shape, f"{where}.path")
    else:
        groups, name = _read(spec, skipped, where)
    groups = [_as_chat(g) for g in groups] if spec.text == "chat" else groups
    if spec.safety:
        groups = [
            replace(g, prompt=replace(g.prompt, metadata={**g.prompt.metadata, "safety": spec.safety}))
            for g in groups
        ]
    if spec.system:
        groups = [_with_system(g, spec.system) for g in groups]
    if spec.limit is not None:
        groups = groups[: spec.limit]
    # Split first: what a shape leaves out must not move a prompt from one side to the other.
    train, heldout = split_by_prompt(groups, spec.heldout, spec.seed)
    if spec.condition is not None:
        train, heldout = conditioned(train, heldout, shape, spec.condition, skipped)
    train = to_shape(train, shape, skipped, spec.pairs)
    if not train:
        reasons = ", ".join(f"{n} {why}" for why, n in skipped.items()) or "the file holds no completions"
        raise UserError(
            f"{where}.path",
            spec.path,
            f"leaves zero rows after filtering ({reasons})",
            f"give {NEEDED[shape]}: this method needs them",
        )
    return Dataset(spec, train, to_shape(heldout, shape, skipped, spec.pairs), skipped, name)


def heldout_pairs(spec: DataSpec, where: str = "data") -> list[Group]:
    """Held-out pairs for measuring a reward model; none if the data, read for its prompts, holds no pairs."""
    try:
        found = load(spec, "pairs", where)
    except UserError:
        return []
    return found.heldout if spec.heldout else found.train


def _generated(spec: DataSpec, shape: Shape, field: str) -> tuple[list[Group], str]:
    """Groups of a world. Each prompt has the world's name, by which its judge and labels are found again."""
    world = worlds.find(spec.path, field)
    groups = [
        g
        if world.owns(g.prompt)
        else replace(g, prompt=replace(g.prompt, metadata={**g.prompt.metadata, "world": world.source}))
        for g in spec.world.groups(shape, spec.seed)
    ]
    return groups, world.source


def _read(spec: DataSpec, skipped: Counter[str], where: str) -> tuple[list[Group], str]:
    chosen = spec.format
    read = None if chosen == "auto" else _reader(chosen, f"{where}.format")
    groups: list[Group] = []
    for place, row in rows(spec.path, spec.split, spec.config, f"{where}.path"):
        if read is None:
            known = detect(row)
            found = "groups" if {"prompt", "completions", "feedback"} <= row.keys() else known and known.name
            if not found:
                raise UserError(
                    place,
                    sorted(row),
                    "are the columns of no known format",
                    "rename the columns (prompt, chosen, rejected / messages / instruction, output "
                    "/ text ...) or set data.format",
                )
            chosen, read = found, _reader(found, f"{where}.format")
        try:
            new = list(read(row))
            for group in new:
                _check_sides(group)
        except (RowError, KeyError, TypeError, AttributeError, ValueError) as error:
            name = error.field if isinstance(error, RowError) else str(error)
            problem = (
                error.problem
                if isinstance(error, RowError)
                else f"does not fit format {chosen!r} ({type(error).__name__})"
            )
            if spec.on_bad_row == "skip":
                skipped[f"bad row: {problem}"] += 1
                continue
            raise UserError(
                f"{place} field {name}",
                _shown(row, name),
                problem,
                "correct the row, or set data.on_bad_row to skip (--set data.on_bad_row=skip) "
                "to leave such rows out",
            ) from error
        groups.extend(new)
    if not groups:
        raise UserError(
            f"{where}.path",
            spec.path,
            f"leaves zero rows ({sum(skipped.values())} skipped)",
            "check the file and data.format",
        )
    return (_by_prompt(groups) if chosen == "scored" else groups), chosen


def _reader(name: str, field: str) -> Reader:
    """What reads rows of this format; Kilter's own file of groups is one of them."""
    return (lambda row: iter([store.from_json(dict(row))])) if name == "groups" else reader(name, field)


def _by_prompt(groups: Sequence[Group]) -> list[Group]:
    """Answers to one prompt, read from rows of their own, as one group, in order of first appearance."""
    together: dict[str, list[Group]] = {}
    for g in groups:
        together.setdefault(prompt_key(g.prompt), []).append(g)
    return [
        replace(
            own[0],
            completions=tuple(c for g in own for c in g.completions),
            feedback=tuple(f for g in own for f in g.feedback),
        )
        for own in together.values()
    ]


def _shown(row: dict[str, object], name: str) -> object:
    return row.get(name.split("[")[0].split(".")[0], "(absent)")


def _check_sides(group: Group) -> None:
    texts = [" ".join(c.text.split()) + repr(c.turns) for c in group.completions]
    if len(texts) == 2 and texts[0] == texts[1] and group.feedback[0].score != group.feedback[1].score:
        raise RowError("rejected", "is identical to chosen")


def _as_chat(group: Group) -> Group:
    """A plain-text prompt becomes one user turn; the empty prompt of language modeling stays raw."""
    prompt = group.prompt
    if prompt.text:
        return replace(
            group, prompt=replace(prompt, text=None, messages=({"role": "user", "content": prompt.text},))
        )
    return group


def _with_system(group: Group, text: str) -> Group:
    messages = group.prompt.messages
    if not messages or messages[0]["role"] == "system":
        return group
    return replace(
        group, prompt=replace(group.prompt, messages=({"role": "system", "content": text}, *messages))
    )


def split_by_prompt(groups: Sequence[Group], heldout: float, seed: int) -> tuple[list[Group], list[Group]]:
    """Sets a share of the distinct prompts aside, by hash, so that the split survives a reordered file.

    Args:
        groups: everything that was read.
        heldout: share of the prompts, 0 to 1.
        seed: another seed holds other prompts out.

    Returns:
        Groups to train on, and groups held out.
    """
    keys = [_split_key(g) for g in groups]
    if heldout == 0:
        return list(groups), []
    order = sorted(set(keys), key=lambda k: hashlib.sha256(f"{seed}:{k}".encode()).digest())
    size = max(1, round(heldout * len(order)))
    if len(order) < 2:
        return list(groups), []
    held = set(order[:size])
    train = [g for g, k in zip(groups, keys, strict=True) if k not in held]
    return train, [g for g, k in zip(groups, keys, strict=True) if k in held]
