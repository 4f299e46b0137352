"""A row's whole history: prompt, answers, critiques, revisions, verdicts, certificates, stages and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kilter import manifest as manifests
from kilter.artifacts import read_lines, sha256_file
from kilter.constitution.judge import DECISIONS
from kilter.data import store
from kilter.data.blocks import SUFFIX
from kilter.data.dataset import prompt_key
from kilter.data.lineage import KEY, REACHED, lineage, marks, row_id
from kilter.errors import UserError, nearest
from kilter.manifest import Manifest
from kilter.models.noted import trained_prompts
from kilter.screen import many
from kilter.types import Group
from kilter.validation import load_yaml

ROWS = "groups.jsonl"
SHOWN = (
    "model",
    "model_hash",
    "critic",
    "critic_hash",
    "constitution",
    "constitution_hash",
    "feedback",
    "judge_name",
    "judge",
)
MORE = ("certificate", "uncertified", "wording", "sampling", "answers")
"""What is told of a stage, in this order, where it is known."""

NO_SOURCES = ("train", "evaluate")
"""Kinds that keep rows, and make no data for later stages."""


@dataclass(frozen=True)
class Traced:
    """A row that was found.

    Args:
        stage: name of the stage that wrote it.
        folder: of the stage.
        index: 0-based place in its file.
        group: the row.
        run: folder of the run.
    """

    stage: str
    folder: Path
    index: int
    group: Group
    run: Path


def find(run: Path, row: str, stage: str = "") -> Traced:
    """A row by its place or its name.

    Args:
        run: folder of a run, or of one of its stages.
        row: 0-based place in the stage's file, a row's name, or the beginning of its prompt's hash.
        stage: of the run; default: the last one that has such a row, an evaluation if no other has.

    Raises:
        UserError: there is no such run, stage or row.
    """
    known = _stages(run)
    if stage and stage not in known:
        raise UserError("--stage", stage, "makes no data in this run", nearest(stage, known))
    latest = list(known)[::-1]
    names = [stage] if stage else sorted(latest, key=lambda name: _asks(known[name]))
    for name in names:
        for index, group in enumerate(store.read(known[name] / ROWS)):
            if row == str(index) or row in _names(group) or _begins(row, group):
                return Traced(name, known[name], index, group, run)
    counts = ", ".join(f"{n} has {many(sum(1 for _ in store.read(known[n] / ROWS)), 'rows')}" for n in names)
    raise UserError(
        "ROW", row, f"is no row of this run ({counts})", "Give a place from 0 on, or a row's name."
    )


def _stages(run: Path) -> dict[str, Path]:
    """Stages with rows by name, in the order in which they began."""
    if not run.is_dir():
        raise UserError("RUN", str(run), "is not a folder", "Give the folder of a run, such as runs/NAME.")
    if (run / ROWS).is_file():
        return {run.name: run}
    entries = _entries(run)
    found = {name: run / name for name in entries if (run / name / ROWS).is_file()}
    if not found:
        fix = "Give a run with a generate, label or revise stage."
        raise UserError("RUN", str(run), "holds no rows that Kilter made", fix)
    return found


def _asks(folder: Path) -> bool:
    """Whether a stage evaluated: nobody learns from its rows."""
    entry = manifests.read(folder)
    return entry is not None and entry.kind == "evaluate"


def _entries(run: Path) -> dict[str, Manifest]:
    read = {path.parent.name: manifests.read(path.parent) for path in sorted(run.glob("*/manifest.json"))}
    known = {name: entry for name, entry in read.items() if entry is not None}
    return dict(sorted(known.items(), key=lambda item: item[1].started))


def _names(group: Group) -> set[str]:
    return {row_id(group.prompt), *(str(e.get("row", "")) for e in lineage(group.prompt))} - {""}


def _begins(row: str, group: Group) -> bool:
    return len(row) >= 8 and prompt_key(group.prompt).startswith(row)


def record(found: Traced) -> dict[str, Any]:
    """The history as plain data: the row of the stage's file, and what the run's other files tell of it.

    Of who might have learned from it, `learned` is None where no record tells.
    """
    row = store.to_json(found.group)
    # The history stands once, with its decisions.
    row["prompt"]["metadata"] = {k: v for k, v in found.group.prompt.metadata.items() if k != KEY}
    entries = lineage(found.group.prompt)
    named = {"row": row_id(found.group.prompt), "place": found.index, "stage": found.stage}
    return {
        **named,
        "file": str(found.folder / ROWS),
        "prompt_hash": prompt_key(found.group.prompt),
        **row,
        "history": [e | {"decisions": _decisions(found, str(e.get("stage")))} for e in entries],
        "files": [*_files(found)],
        "learners": [*_learners(found)],
    }


def lines(found: Traced) -> Iterator[str]:
    """The history, line by line."""
    group = found.group
    yield f"row {found.index} ({row_id(group.prompt)}) of {found.folder / ROWS}"
    yield f"prompt {prompt_key(group.prompt)}"
    for turn in group.prompt.messages:
        yield f"  {turn['role']}: {turn['content']}"
    if group.prompt.text:
        yield f"  {group.prompt.text}"
    yield "answers"
    for n, (completion, feedback) in enumerate(zip(group.completions, group.feedback, strict=True)):
        score = "unscored" if feedback.score is None else f"score {feedback.score:g}"
        by = f" by {feedback.source}" if feedback.source else ""
        yield f"  {n}: {completion.text}"
        yield f"     {score}{by}{_odds(feedback.against)}"
    for entry in lineage(group.prompt):
        yield from _entry(entry)
        for line in _decisions(found, str(entry.get("stage"))):
            who = ", ".join(line["decided_by"]) or "no principle"
            yield f"  answer {line['answer']} better than {line['over']}: {_p(line['p'])}, decided by {who}"
            yield f"    votes: {', '.join(f'{name} {_p(p)}' for name, p in line['votes'].items())}"
    yield "files"
    for file in _files(found):
        settings = f"settings and inputs {file['key'][:16]}, {file['started']}"
        yield f"  {file['stage']}: {file['hash'][:16]}, {file['said']}; {settings}"
    for learner in _learners(found):
        way = f"by way of {learner['by_way_of']}: " if learner["by_way_of"] else ""
        model = (learner["model"] or learner["status"])[:16]
        yield f"  {learner['stage']}: {way}{learner['said']}; model {model}, {learner['started']}"


def _odds(against: Sequence[tuple[float, float] | None]) -> str:
    both = [f"answer {n}: {p[0]:.3g} shown first, {p[1]:.3g} second" for n, p in enumerate(against) if p]
    return f"; better than {'; '.join(both)}" if both else ""


def _entry(entry: Mapping[str, Any]) -> Iterator[str]:
    """One stage of the row's history."""
    yield f"stage {entry.get('stage', '?')} ({entry.get('kind', '?')}), row {entry.get('row', '?')}"
    for name in (*SHOWN, *MORE):
        if entry.get(name) not in (None, "", {}, []):
            yield f"  {name.replace('_', ' ')}: {entry[name]}"
    for link in entry.get("links", ()):
        yield f"  round {link['round']}, principle {link['principle'] or '(none)'}: {link['state']}"
        for name in ("critique", "revision", "reason"):
            if link[name]:
                yield f"    {name}: {link[name]}"
        if link["forward"] is not None or link["swapped"] is not None:
            odds = f"{_p(link['forward'])} shown first, {_p(link['swapped'])} shown second"
            yield f"    revision better: {odds}"


def _decisions(found: Traced, stage: str) -> list[dict[str, Any]]:
    """What a stage's constitution decided between the answers: the deciding principle, and all votes."""
    texts = [c.text.encode("utf-8", "surrogatepass") for c in found.group.completions]
    places = {hashlib.sha256(text).hexdigest()[:16]: n for n, text in enumerate(texts)}
    folder = found.folder if found.run == found.folder else found.run / stage
    said: dict[tuple[int | None, int | None], Mapping[str, Any]] = {}
    # A kill may leave a decision twice.
    for line in read_lines(folder / DECISIONS):
        pair = places.get(line["first"]), places.get(line["second"])
        # Of two answers with one text none is better, and only one of them may be in the row.
        if line["row"] == row_id(found.group.prompt) and None not in pair and pair[0] != pair[1]:
            said[pair] = line
    told = ("p", "decided_by", "votes")
    return [
        {"answer": first, "over": second} | {name: line[name] for name in told}
        for (first, second), line in said.items()
    ]


def _p(value: float | None) -> str:
    return "unscored" if value is None else f"{value:.3g}"


def _files(found: Traced) -> Iterator[dict[str, Any]]:
    """The hashes of the stages that made the row, and whether their rows have changed since."""
    alone = found.run == found.folder
    entries = {found.stage: manifests.read(found.folder)} if alone else dict(_entries(found.run))
    mine = [str(e.get("stage")) for e in lineage(found.group.prompt)]
    for name in dict.fromkeys([*mine, found.stage]):
        entry = entries.get(name)
        if entry is None:
            continue
        folder = found.folder if alone else found.run / name
        now = sha256_file(folder / ROWS)
        changed, said = _since(folder, entry, now)
        hashes = {"hash": now, "changed": changed, "said": said, "key": entry.key}
        yield {"stage": name, **hashes, "started": entry.started}


def _learners(found: Traced) -> Iterator[dict[str, Any]]:
    """The train stages that read the row's file, or what was made of it later, and what each did with it."""
    if found.run == found.folder:
        return
    entries = _entries(found.run)
    made = dict(_made_of(found, entries))
    for name, entry in entries.items():
        for stage, rows in made.items() if entry.kind == "train" else ():
            if not _reads(found.run, {stage}, entry):
                continue
            told = [_learned(row, found.run / name, entry) for row in rows]
            # Of several rows that came of this one, the one that was learned from.
            best = next((one for one in told if one["learned"]), told[0])
            way = {"stage": name, "by_way_of": None if stage == found.stage else stage}
            model = {"model": entry.outputs.get("model"), "status": entry.status}
            yield way | best | model | {"started": entry.started}


def _made_of(found: Traced, entries: Mapping[str, Manifest]) -> Iterator[tuple[str, list[Group]]]:
    """By stage, the row and those that later stages made of its file, with its prompt."""
    yield found.stage, [found.group]
    key, stages = prompt_key(found.group.prompt), {found.stage}
    for name, entry in entries.items():
        path = found.run / name / ROWS
        if name in stages or entry.kind in NO_SOURCES or not _reads(found.run, stages, entry):
            continue
        rows = [group for group in store.read(path) if prompt_key(group.prompt) == key]
        if rows:
            stages.add(name)
            yield name, rows


def _learned(group: Group, folder: Path, entry: Manifest) -> dict[str, Any]:
    """What a train stage that read a row's file did with the row, by the records of its steps."""
    # The list holds the prompts of all rows that it might learn from, and those of its ancestors.
    known, key = trained_prompts(folder), prompt_key(group.prompt)[:16]
    if known and key not in known:
        return _told(False, None, "read its file, and held it out")
    fixed, asked = folder / REACHED, folder / ROWS
    if not fixed.is_file() and not asked.is_file():
        return _told(None, None, "read its file; no record tells which rows its steps reached")

    if fixed.is_file():
        steps = (line["step"] for line in read_lines(fixed) if any(marks(row, group) for row in line["rows"]))
    else:  # its answers to prompts; of a prompt that was never asked there are none
        steps = (
            int(g.prompt.metadata["step"]) for g in store.read(asked) if prompt_key(g.prompt)[:16] == key
        )
    first = min(steps, default=None)
    if first is None:
        taken = max((line["step"] for line in read_lines(folder / "metrics.jsonl")), default=0)
        return _told(False, None, f"not reached in its {many(taken, 'steps')}")
    kept = entry.facts.get("best_step")
    if kept is not None and first > kept:
        return _told(False, first, f"reached it at step {first}, and kept the model of step {kept}")
    what = "it" if fixed.is_file() else "answers to its prompt"
    return _told(True, first, f"learned from {what}, first at step {first}")


def _told(learned: bool | None, step: int | None, said: str) -> dict[str, Any]:
    return {"learned": learned, "step": step, "said": said}


def _since(folder: Path, entry: Manifest, now: str) -> tuple[bool | None, str]:
    """Whether the rows, and their tokens beside them, are no longer what the stage left; None: unknown."""
    # The rollouts of a train stage are none of its results, but files of it like any other.
    then = entry.outputs.get("data") or entry.files.get(ROWS)
    if then is None:
        return None, "of a stage that has not ended"
    if now != then:
        return True, f"CHANGED since, it was {then[:16]}"
    tokens = folder / Path(ROWS).with_suffix(SUFFIX)
    kept = entry.files.get(tokens.name)
    if kept is None or (tokens.is_file() and sha256_file(tokens) == kept):
        return False, "as it was written"
    return True, f"and its tokens in {tokens.name} have CHANGED since"


def _reads(run: Path, stages: set[str], entry: Manifest) -> bool:
    """Whether a stage read what any of these stages made, by itself or in a mixture."""
    read = {name.removeprefix("data:") for name in entry.inputs if name.startswith("data:")}
    return bool(read & stages.union(*(_led(run, stage) for stage in stages)))


def _led(run: Path, stage: str) -> Iterator[str]:
    """Data sets of the recipe that a stage's rows are part of."""
    path = run / "recipe.yaml"
    try:
        raw = load_yaml(path.read_text(encoding="utf-8")) if path.is_file() else None
    except yaml.YAMLError:
        return
    for name, spec in (raw or {}).get("data", {}).items():
        parts = spec.get("parts", []) if isinstance(spec, dict) else []
        paths = [spec.get("path")] if isinstance(spec, dict) else []
        if f"${stage}" in [*paths, *(p.get("path") for p in parts if isinstance(p, dict))]:
            yield name
