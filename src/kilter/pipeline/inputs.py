"""What a stage's result depends on, as content hashes; and whether all of it is there."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from kilter import manifest as manifests
from kilter.artifacts import sha256_file
from kilter.data.read import content_of
from kilter.errors import UserError
from kilter.hashes import code_hash, file_hash
from kilter.models.remote_code import trusted
from kilter.refs import Found
from kilter.registry import user_files
from kilter.stages import Workspace
from kilter.types import Message, Prompt
from kilter.validation import load_yaml
from kilter.version import __version__

SCORERS = ("reward_model", "preference_model")
"""Fields of feedback that name a model with a head for scores."""


def inputs_of(work: Workspace, config: dict[str, Any]) -> dict[str, str]:
    """Content hash of everything that the stage reads, by what it is and its name.

    `config`: the stage's settings as plain data; files of the user's own that it names are read too.
    """
    found = {"kilter": __version__} | work.here.maker.inputs(work.here.spec, work)
    for item in work.inputs():
        if item.ref.to != "file" or item.ref.is_file(item.value):
            name = work.base if item.value is None else str(item.value)
            found[f"{item.ref.to}:{name.removeprefix('$')}"] = _hash(item, work)
    for path in user_files({work.here.kind: config}):
        found[f"file:{path}"] = _content(path)
    return found


def sources_of(work: Workspace, config: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of everything outside the run that the stage reads, by itself, and of Kilter's own code.

    `inputs_of` joins the files of a data set into one hash. These can be computed again without the recipe.
    """
    found = {"code": code_hash()} | ({"remote_code": "trusted"} if trusted() else {})
    for item in work.inputs():
        if item.ref.is_file(item.value):
            found[f"file:{item.value}"] = file_hash(Path(item.value))
        elif item.ref.to == "model" and not work.is_stage(item.value):
            found[f"model:{item.value or work.base}"] = model_hash(item.value or work.base)
        elif item.ref.to == "data":
            paths = [p for part in work.sources(item.value) for p in content_of(part)]
            found |= {f"file:{path}": file_hash(path) for path in paths}
    return found | {f"file:{path}": file_hash(path) for path in user_files({work.here.kind: config})}


def _hash(item: Found, work: Workspace) -> str:
    name = item.value
    if item.ref.to == "file":
        return _content(Path(name))
    if item.ref.to == "data":
        return _data_hash(name, work)
    return output_hash(work, name) if work.is_stage(name) else model_hash(name or work.base)


def _content(path: Path) -> str:
    """Hash of a file; a limit in a file of settings counts for nothing, as it does beside them."""
    if path.suffix.lower() in (".yaml", ".yml"):
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            raw = load_yaml(path.read_text(encoding="utf-8-sig"))
            if (rest := manifests.unlimited(raw)) != raw:
                return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()
    return sha256_file(path)


def _data_hash(reference: str, work: Workspace) -> str:
    """Of a data set: its settings, a user's own reader or world, its files and what stages left."""
    made, spec = work.made_by(reference), work.data_sets.get(reference.removeprefix("$"))
    if spec is None:
        return output_hash(work, made[0])
    digest = hashlib.sha256(spec.model_dump_json().encode())
    for stage in made:
        digest.update(output_hash(work, stage).encode())
    for part in spec.sources():
        if part.path.startswith("$"):
            continue
        for path in (*content_of(part), *user_files([part.path, part.format])):
            digest.update(sha256_file(path).encode())
    return digest.hexdigest()


def model_hash(reference: str) -> str:
    """Hash of what decides a model's numbers."""
    from kilter.models.fingerprint import reference_hash

    return reference_hash(reference)


def output_hash(work: Workspace, stage: str) -> str:
    """Hash of what an earlier stage made."""
    entry = manifests.read(work.stage(stage))
    if entry is None or entry.status != "done":
        raise UserError(
            f"stages.{stage}", "(unfinished)", "has not been run", "run the recipe from its beginning"
        )
    return entry.outputs.get(work.stages[stage].maker.makes, entry.key)


def check_inputs(work: Workspace) -> None:
    """Models open, files exist, data can be read in the shape that is asked for. Raises UserError."""
    found = work.inputs()
    speakers: list[Path] = []
    for item in found:
        if set(SCORERS) & set(item.field.split(".")) and work.is_stage(item.value):
            work.require_scores(item.value, item.field)
        if item.ref.to == "model" and not work.is_stage(item.value):
            speakers.append(_checked(item, work))
        elif item.ref.to == "model" and (begun := work.origin(item.value)) is not None:
            speakers.append(begun)  # its tokenizer and its length are those of where the chain begins
        elif item.ref.is_file(item.value) and not Path(item.value).is_file():
            raise UserError(work.where(item.field), item.value, "names no file", item.ref.fix)
    _check_speakers(work, found, speakers)
    for item in found:
        if item.ref.to == "data" and work.ready(item.value):
            shape = work.here.maker.shape(work.here.spec, item.field)
            if shape is not None:
                work.load(item.value, shape)


def _checked(item: Found, work: Workspace) -> Path:
    """The folder of a model that no stage makes. It opens, and has the head that the field asks for."""
    # What asks an endpoint alone needs no torch.
    from kilter.models.load import check_files, require_head, scores_steps

    # A base model that was left out has the recipe's own field.
    folder = work.model(item.value, item.field if item.value is not None else "model")
    check_files(folder, work.where(item.field) if item.value is not None else "model")
    # An evaluation also takes a process reward model, whose head is one of tokens.
    evaluated = item.field.partition(".")[0] == "reward_model"
    if "reward_model" in item.field.split(".") and not (evaluated and scores_steps(folder)):
        require_head(folder, work.where(item.field))
    return folder


def _check_speakers(work: Workspace, found: Sequence[Found], folders: Sequence[Path]) -> None:
    """Raises UserError for a template or a length of answers that the models of the stage cannot take."""
    if not folders:
        return
    from kilter.models.merge import scores

    templates = [item for item in found if item.ref.jinja and item.value != "auto"]
    answer = work.here.maker.answers(work.here.spec)
    for folder in folders:
        for item in templates:
            _check_template(folder, item.value, work.where(item.field), work.here.maker.makes == "model")
        # A model with a head for scores writes nothing.
        if answer is not None and not scores(folder):
            _leave_room(folder, work.where(answer[0]), answer[1])


def _check_template(folder: Path, template: str, field: str, learned: bool) -> None:
    """Raises UserError for a template that is unknown to the model, or that cannot write a single turn.

    learned: whether answers are learned, so that it has to write them.
    """
    from kilter.data.render import PROBE, Renderer
    from kilter.data.templates import install
    from kilter.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    try:
        install(tokenizer, template)
        prompt = Prompt(({"role": "user", "content": "Hello"},))
        renderer = Renderer(tokenizer, frozenset(), Counter())
        renderer.render(prompt.messages, prompt, generation=True)
        answer: Message = {"role": "assistant", "content": PROBE}
        if learned and PROBE not in renderer.render((*prompt.messages, answer), prompt):
            fix = "give another template (--template chatml), or mend this one"
            raise UserError(field, template, "does not write what the assistant says", fix)
    except UserError as error:
        # What the template makes of one plain turn, it makes of all.
        raise UserError(field, template, error.problem, error.fix) from error


def _leave_room(folder: Path, field: str, tokens: int) -> None:
    """Raises UserError for answers as long as the model, which leave no room for any prompt."""
    from kilter.models.load import context_of

    limit = context_of(folder)
    if limit is not None and tokens >= limit:
        problem = f"leaves no room for a prompt: the model has {limit} positions for both"
        raise UserError(field, tokens, problem, f"use fewer than {limit}")
