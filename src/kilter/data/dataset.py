"""A data set as training sees it: read, checked, split by prompt, and in the shape that a method needs."""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from kilter.data import hints, store
from kilter.data.formats.ask import as_turn
from kilter.data.formats.scores import of_trees
from kilter.data.read import rows
from kilter.data.reading import LOOKED_AT, Account, Reading
from kilter.data.row import Raw, RowError
from kilter.data.shapes import (
    NEEDED,
    Condition,
    PairRule,
    asking,
    conditioned,
    refuse_ungraded,
    refuse_unrated,
    shaped,
)
from kilter.data.shelf import picked, shelved
from kilter.data.source import INHERITED, Part, SourceSpec
from kilter.data.worlds import registry as worlds
from kilter.errors import UserError
from kilter.screen import many
from kilter.types import PLAIN, Group, Message, Prompt, Shape


def _path_or_parts(schema: dict[str, Any]) -> None:
    """Tells editors that a mixture needs no path of its own."""
    schema["required"] = [name for name in schema.get("required", []) if name != "path"]
    schema["anyOf"] = [{"required": ["path"]}, {"required": ["parts"]}]


class DataSpec(SourceSpec):
    """Where preference data comes from and how it is split.

    A list stands for a mixture: [{path: a.jsonl, weight: 2}, {path: b.jsonl}].
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, json_schema_extra=_path_or_parts)
    parts: list[Part] = Field(
        default_factory=list, description="a mixture of several sources, each with path and weight"
    )
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
    threshold: float | None = Field(
        None,
        allow_inf_nan=False,
        description="the first rating of a good answer, where a method learns from good and bad answers "
        "and the data rates them; each is then judged by itself",
    )
    condition: Condition | None = Field(
        None, description="conditional SFT: answers of every quality, each with its level in the prompt"
    )
    heldout: float = Field(0.1, ge=0, lt=1, description="share of PROMPTS kept for evaluation")
    split_by: Literal["prompt", "near_duplicates"] = Field(
        "prompt",
        description="what is never split between training and evaluation: a prompt, or prompts that are "
        "nearly the same (Jaccard of character 5-grams of at least 0.8)",
    )
    limit: int | None = Field(None, ge=1, description="use only the first N groups")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the split and of a built-in world")

    @model_validator(mode="before")
    @classmethod
    def _mixture(cls, value: Any) -> Any:
        """A list of sources, or a list of paths, is a mixture."""
        if isinstance(value, list):
            value = {"parts": value}
        if isinstance(value, dict) and isinstance(value.get("path"), list):
            value = {"parts": value["path"]} | {k: v for k, v in value.items() if k != "path"}
        if isinstance(value, dict) and isinstance(value.get("parts"), list) and value["parts"]:
            parts = [p if isinstance(p, dict | Part) else {"path": p} for p in value["parts"]]
            paths = [str(p.get("path", "")) if isinstance(p, dict) else p.path for p in parts]
            # The words stand for people; of several worlds they must not be taken for one.
            shown = f"{'mixture of ' * worlds.is_world(paths[0])}{', '.join(paths)}"
            value = {"path": shown} | value | {"parts": parts}
        return value

    def sources(self) -> list[Part]:
        """What is read: the parts of a mixture, or the one source as a part."""
        if not self.parts:
            fields = {name: getattr(self, name) for name in SourceSpec.model_fields}
            return [Part.model_construct(**fields)]
        return [
            p.model_copy(update={n: getattr(self, n) for n in INHERITED if n not in p.model_fields_set})
            for p in self.parts
        ]


CHOOSING = 0.25
"""Share of the training prompts that choosing a model may take at most."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Groups by split, and what was left out and why.

    `select`: groups of training prompts that nobody learns from; weights are chosen by them.
    """

    spec: DataSpec
    train: Sequence[Group]
    heldout: Sequence[Group]
    skipped: Counter[str] = field(default_factory=Counter)
    format: str = ""
    unread: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    said: Counter[str] = field(default_factory=Counter)
    select: Sequence[Group] = ()

    def set_aside(self, prompts: int) -> Dataset:
        """The same, with training prompts taken out to choose weights by.

        Held-out prompts are for evaluations: by those that chose a model, its numbers would flatter. What the
        split keeps together, and what a column `cluster` joins, goes to one side. The choice is by hash.

        Args:
            prompts: how many are wanted; at most a quarter of them all is taken.
        """
        keys = [str(g.prompt.metadata.get("cluster") or key) for g, key in self._keyed()]
        members: dict[str, set[str]] = {}
        for key, group in zip(keys, self.train, strict=True):
            members.setdefault(key, set()).add(prompt_key(group.prompt))
        most = min(prompts, int(CHOOSING * sum(map(len, members.values()))))

        # A cluster that is larger than what is still wanted stays for training.
        taken: set[str] = set()
        for key in _by_hash(members, f"{self.spec.seed}:select"):
            if len(members[key]) <= most:
                taken.add(key)
                most -= len(members[key])
        places = range(len(keys))
        return replace(
            self,
            train=picked(self.train, [i for i in places if keys[i] not in taken]),
            select=picked(self.train, [i for i in places if keys[i] in taken]),
        )

    def _keyed(self) -> Iterator[tuple[Group, str]]:
        """The training groups, each with what may not be split."""
        return zip(self.train, _keys(self.train, self.spec), strict=True)

    def left_out(self) -> str:
        """What was left out and why, for a person; "" when nothing was."""
        return ", ".join(f"{n} {why}" for why, n in self.skipped.items())

    def notes(self) -> list[str]:
        """What a person has to know of the reading: rows that are left out, columns that are not read."""
        said = {
            "left out": self.left_out(),
            "carried along for rewards and verifiers": ", ".join(self.carried),
            "not read": ", ".join(self.unread),
        }
        said |= {what: many(n, "rows") for what, n in self.said.items()}
        return [f"{what}: {which}" for what, which in said.items() if which]

    def content_hash(self) -> str:
        """Hash of every group in both splits, for manifests and caches."""
        digest = hashlib.sha256()
        for name, groups in (("train", self.train), ("heldout", self.heldout), ("select", self.select)):
            if name == "select" and not groups:
                continue
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


def learned_keys(prompt: Prompt) -> set[str]:
    """What is noted of a prompt that a model learned from: its identity, and its words in two ways."""
    system, said = _words(prompt)
    return {prompt_key(prompt)[:16], _hashed("whole", system, said), _hashed(_with(system), said)}


def was_learned(prompt: Prompt, trained: Collection[str]) -> bool:
    """Whether a prompt was trained on, be it in other case, spaces, accents, end marks or roles.

    A system message on one side alone changes nothing of what was learned. Another one may hold rules.
    """
    system, said = _words(prompt)
    other = "" if system else "any"
    return (
        prompt_key(prompt)[:16] in trained
        or _hashed("whole", system, said) in trained
        or _hashed(_with(other), said) in trained
    )


def _with(system: str) -> str:
    return "beneath a system message" if system else "alone"


def _words(prompt: Prompt) -> tuple[str, str]:
    """What a reader sees of the system messages and of the other turns, in lower case."""
    from kilter.data.near import normal

    system = [normal(m["content"]) for m in prompt.messages if m["role"] == "system"]
    return " ".join(system), normal(prompt_words(prompt)).rstrip(".?!… ")


def _hashed(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def load(spec: DataSpec, shape: Shape, where: str = "data", learned: bool = True) -> Dataset:
    """Reads, checks, splits. What is too long for memory is kept on disk.

    Args:
        spec: where the data is and how it is read.
        shape: what the method needs; groups of another shape are brought into it.
        where: the field that names the data, for messages.
        learned: whether prompts alone carry the columns that other methods learn from, such as chosen.

    Raises:
        UserError: at the first bad row, with file, line and field, unless bad rows are skipped and counted.
    """
    account = Account()
    groups, weights = gathered(spec, shape, where, account, shape == "prompts" and learned)

    # Split first: what a shape leaves out must not move a prompt from one side to the other.
    trained, held = divided(groups, spec, weights)
    if not len(trained):
        problem = f"holds out every one of {len(groups)} rows, and leaves none to train on"
        raise UserError(f"{where}.heldout", spec.heldout, problem, "lower it, or give more prompts")
    train, heldout = picked(groups, _weighted(trained, weights, groups)), picked(groups, held)
    if spec.condition is not None:
        train, heldout = conditioned(
            train, heldout, shape, spec.condition, account.skipped, f"{where}.condition"
        )
    refuse_unrated(groups, shape, spec.pairs, spec.threshold, where)
    if shape == "unpaired" and spec.threshold is None:
        refuse_ungraded(groups, f"{where}.threshold")
    if shape == "prompts" and learned:
        train, heldout = (shelved(asking(part, account.skipped)) for part in (train, heldout))
    train = shelved(shaped(train, shape, account.skipped, spec.pairs, spec.threshold))
    if not train:
        raise _nothing_left(spec, shape, where, account)
    heldout = shelved(shaped(heldout, shape, account.skipped, spec.pairs, spec.threshold))
    if shape == "demonstrations":
        account.said.update(hints.learned_though(itertools.chain(train, heldout), account.unread))
    # Whoever answers the prompts anew learns nothing from a row: its columns are for those who judge.
    travels = shape in ("prompts", "rollouts")
    carried = tuple(n for n, whole in account.unread.items() if whole and travels)
    unread = tuple(n for n in account.unread if n not in carried)
    return Dataset(spec, train, heldout, account.skipped, account.format, unread, carried, account.said)


def _nothing_left(spec: DataSpec, shape: Shape, where: str, account: Account) -> UserError:
    """Why no row is left, and which columns were not read: the answers may stand in one of them."""
    reasons = ", ".join(f"{n} {why}" for why, n in account.skipped.items())
    unread = f"; not read: {', '.join(account.unread)}" if account.unread else ""
    fix = f"give {NEEDED[shape]}: this method needs them"
    # What the method needs may be there, under another name.
    columns = [name for name, whole in account.unread.items() if whole]
    source = spec.sources()[0]
    if columns and not account.skipped.keys() & {"tie"} and not worlds.is_world(source.path):
        begin = itertools.islice(rows(source.path, source.split, source.config, f"{where}.path"), LOOKED_AT)
        given = [raw for _, raw in begin if not isinstance(raw, RowError)]
        hint = hints.missing(given, shape, columns, lambda names: _gives(source, given, names, shape))
        fix += f". If a column holds them, say which: {hint}" if hint else ""
    return UserError(
        f"{where}.path",
        spec.path,
        f"leaves zero rows after filtering ({reasons or 'the file holds no completions'}{unread})",
        fix,
    )


def _gives(source: Part, given: Sequence[Raw], names: Mapping[str, str], shape: Shape) -> bool:
    """Whether rows give what a shape needs, once their columns have these names."""
    named = source.model_copy(update={"map": {**source.map, **names}, "on_bad_row": "skip"})
    try:
        reading = Reading(named, "data", Account())
        groups = list(reading.groups((source.path, raw) for raw in given))
        join = JOINS.get(reading.name)
        together = groups if join is None else join(groups, False)
        return any(True for _ in shaped(together, shape, Counter()))
    except UserError:
        return False


def divided(
    groups: Sequence[Group], spec: DataSpec, bounds: Sequence[tuple[int, float]]
) -> tuple[Sequence[int], Sequence[int]]:
    """Places of the groups to train on and of those held out, as the settings split them."""
    keys = _keys(groups, spec) if _holds_out(spec) else [_split_key(g) for g in groups]
    return _split_parts(keys, spec, [first for first, _ in bounds])


def _keys(groups: Sequence[Group], spec: DataSpec) -> list[str]:
    """What may not be split, for each group."""
    keys = [_split_key(g) for g in groups]
    return _joined_keys(keys, groups) if spec.split_by == "near_duplicates" else keys


def _holds_out(spec: DataSpec) -> bool:
    return bool(spec.heldout) or any(p.heldout for p in spec.parts)


def _joined_keys(keys: Sequence[str], groups: Sequence[Group]) -> list[str]:
    """The same key for prompts that are nearly the same, and for all that shares a key with one of them."""
    from kilter.data import near

    # A distinct prompt is sketched once; its words are read again only where a hit has to be verified.
    distinct, texts, first = near.Distinct(), array("q"), array("q")
    for row, group in enumerate(groups):
        texts.append(distinct.add(near.normal(prompt_words(group.prompt))))
        if texts[-1] == len(first):
            first.append(row)
    words = lambda place: near.normal(prompt_words(groups[first[place]].prompt))
    roots = near.joined(distinct.sketches, words)
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(key, len(numbers)) for key in keys]
    union = near.Union(len(numbers) + len(first))
    for code, text in zip(codes, texts, strict=True):
        union.join(code, len(numbers) + roots[text])

    # The smallest key of a cluster names it, so that the order of the rows does not count.
    least: dict[int, str] = {}
    for key, code in numbers.items():
        root = union.root(code)
        least[root] = min(key, least.get(root, key))
    return [least[union.root(code)] for code in codes]


def prompt_words(prompt: Prompt) -> str:
    """What a prompt says in all its turns, the system message left out."""
    turns = [m["content"] for m in prompt.messages if m["role"] != "system"]
    return "\n".join(turns) if turns else prompt.text or ""


def gathered(
    spec: DataSpec, shape: Shape, where: str, account: Account, everything: bool
) -> tuple[Sequence[Group], list[tuple[int, float]]]:
    """(all groups, [(first place, weight)] of every source), prompts as the settings want them."""
    bounds: list[tuple[int, float]] = []

    def read() -> Iterator[Group]:
        count = 0
        for n, source in enumerate(spec.sources()):
            field = f"{where}.parts.{n}" if spec.parts else where
            bounds.append((count, source.weight))
            # A stage that accepted nothing leaves an empty file; the other parts of a mixture are there.
            if spec.parts and _is_empty(source):
                account.skipped[f"part without a row ({source.path})"] += 1
                continue
            for group in _source(source, shape, spec.seed, field, account, everything):
                if count == spec.limit:
                    return
                count += 1
                if spec.text == "raw" and group.prompt.messages:
                    raise _not_raw(source, where, account)
                yield _prepared(group, spec, shape, account)

    if spec.text == "raw" and spec.system:
        problem = "has no place with text: raw, which leaves prompts as they are"
        raise UserError(
            f"{where}.system", spec.system, problem, "use text: chat, or write it into the prompts"
        )
    return shelved(read()), bounds


def _not_raw(source: Part, where: str, account: Account) -> UserError:
    """A prompt of turns is always rendered by the chat template, whatever `text` says."""
    return UserError(
        f"{where}.text",
        "raw",
        f"leaves plain-text prompts as they are, and {source.path} asks in turns: its format is "
        f"{account.format or 'groups'}, or a column system or history stands beside the prompt",
        "use text: chat, or leave such columns out of the file",
    )


def _is_empty(source: Part) -> bool:
    """Whether a source is what a stage made, and no row is in it."""
    path = Path(source.path)
    return source.format == "groups" and path.is_file() and path.stat().st_size == 0


def _source(
    source: Part, shape: Shape, seed: int, field: str, account: Account, everything: bool
) -> Iterator[Group]:
    """The groups of one source. Raises UserError where it has none."""
    if worlds.is_world(source.path):
        yield from _generated(source, shape, seed, f"{field}.path", account)
        return
    reading = Reading(source, field, account, everything)
    found = reading.groups(rows(source.path, source.split, source.config, f"{field}.path"))
    first = next(found, None)
    if first is None:
        raise UserError(
            f"{field}.path",
            source.path,
            f"leaves zero rows ({sum(account.skipped.values())} skipped)",
            "check the file and its format",
        )
    everyone = itertools.chain([first], found)
    apart = shape == "prompts"
    join = JOINS.get(reading.name)
    yield from everyone if join is None else join(shelved(everyone), apart)


def _prepared(group: Group, spec: DataSpec, shape: Shape, account: Account) -> Group:
    """The group with its prompt as the settings of the data set want it."""
    if spec.text == "chat" and group.prompt.text:
        group = _as_chat(group, account)
    # A reward function gets the prompt as the user wrote it.
    if shape != "prompts" and PLAIN in group.prompt.metadata:
        noted = {k: v for k, v in group.prompt.metadata.items() if k != PLAIN}
        group = replace(group, prompt=replace(group.prompt, metadata=noted))
    if spec.safety:
        noted = {**group.prompt.metadata, "safety": spec.safety}
        group = replace(group, prompt=replace(group.prompt, metadata=noted))
    return _with_system(group, spec.system) if spec.system else group


def _weighted(
    places: Sequence[int], bounds: Sequence[tuple[int, float]], groups: Sequence[Group]
) -> Sequence[int]:
    """The places of the groups, each as often as the weight of its source says.

    Of a broken weight the prompts that are seen once more follow from their content.
    """
    if all(weight == 1 for _, weight in bounds):
        return places
    found = []
    for place in places:
        weight = next(w for first, w in reversed(bounds) if place >= first)
        whole = int(weight)
        if weight > whole:
            drawn = int(_split_key(groups[place])[:8], 16) / 16**8
            whole += drawn < weight - whole
        found += [place] * whole
    return found


def heldout_pairs(spec: DataSpec, where: str = "data") -> Sequence[Group]:
    """Held-out pairs for measuring a reward model; none if the data, read for its prompts, holds no pairs."""
    try:
        found = load(spec, "pairs", where)
    except UserError:
        return []
    return found.heldout if spec.heldout else found.train


def _generated(source: Part, shape: Shape, seed: int, field: str, account: Account) -> Iterator[Group]:
    """Groups of a world. Each prompt has the world's name, by which its judge and labels are found again."""
    world = worlds.find(source.path, field)
    for group in source.world.groups(shape, seed):
        account.formats[world.source] += 1
        marked = {**group.prompt.metadata, "world": world.source}
        yield (
            group
            if world.owns(group.prompt)
            else replace(group, prompt=replace(group.prompt, metadata=marked))
        )


def _by_prompt(groups: Sequence[Group], apart: bool) -> Iterator[Group]:
    """Answers to one prompt, read from rows of their own, as one group, in order of first appearance.

    apart: rows whose user columns differ stay apart, for each is a question of its own to who rewards.
    """
    together: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        key = prompt_key(group.prompt)
        if apart:
            key += json.dumps(group.prompt.columns, sort_keys=True, default=str)
        together.setdefault(key, []).append(place)
    for places in together.values():
        own = [groups[i] for i in places]
        yield replace(
            own[0],
            completions=tuple(c for g in own for c in g.completions),
            feedback=tuple(f for g in own for f in g.feedback),
        )


JOINS: Mapping[str, Callable[[Sequence[Group], bool], Iterator[Group]]] = {
    "scored": _by_prompt,
    "attributes": _by_prompt,
    "mt_bench_grades": _by_prompt,
    "summary_ratings": _by_prompt,
    "oasst_messages": lambda groups, apart: of_trees(groups),
}
"""By format, what brings together the groups of rows that belong together."""


def _as_chat(group: Group, account: Account) -> Group:
    """A plain-text prompt becomes turns; the empty prompt of language modeling stays raw."""
    said: list[str] = []
    prompt, answers = as_turn(group.prompt, said.append), group.completions
    account.said.update(said)
    if said:  # the space behind the mark of the answer belongs to the mark
        answers = tuple(c if c.turns else replace(c, text=c.text.strip()) for c in answers)
    return replace(group, prompt=prompt, completions=answers)


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
    train, held = _split_places([_split_key(g) for g in groups], heldout, seed)
    return [groups[i] for i in train], [groups[i] for i in held]


def _split_parts(
    keys: Sequence[str], spec: DataSpec, firsts: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """As _split_places; parts with a share of their own are split apart, as if each were the whole."""
    shares = [p.heldout for p in spec.parts]
    if all(share is None for share in shares):
        return _split_places(keys, spec.heldout, spec.seed)

    # A prompt that one part holds out is held out in every part, so that nobody trains on it.
    ends = [*firsts[1:], len(keys)]
    out: set[str] = set()
    for first, end, share in zip(firsts, ends, shares, strict=False):
        own = spec.heldout if share is None else share
        out |= {keys[first + i] for i in _split_places(keys[first:end], own, spec.seed)[1]}
    places = range(len(keys))
    return [i for i in places if keys[i] not in out], [i for i in places if keys[i] in out]


def _by_hash(keys: Iterable[str], salt: str) -> list[str]:
    """Keys in an order that is random, and does not depend on that of the rows."""
    return sorted(keys, key=lambda k: hashlib.sha256(f"{salt}:{k}".encode()).digest())


def _split_places(keys: Sequence[str], heldout: float, seed: int) -> tuple[Sequence[int], Sequence[int]]:
    """Places of the groups to train on and of those held out, by the keys of their prompts."""
    everyone = range(len(keys))
    if heldout == 0:
        return everyone, ()
    order = _by_hash(set(keys), str(seed))
    if len(order) < 2:
        return everyone, ()
    held = set(order[: max(1, round(heldout * len(order)))])
    return [i for i in everyone if keys[i] not in held], [i for i in everyone if keys[i] in held]
