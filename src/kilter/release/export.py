"""A folder that transformers, vLLM and TRL load as it is, with model card and the gate's verdict."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kilter.artifacts import read_json, whole_folder, write_json, write_text
from kilter.errors import UserError, nearest
from kilter.models.adapters import is_adapter
from kilter.models.fingerprint import model_hash
from kilter.models.merge import check_merge, rewrite
from kilter.models.noted import NOTES, note
from kilter.release.card import card
from kilter.release.exported import EVIDENCE, seal
from kilter.release.source import HUB_ID, Source
from kilter.version import __version__

Dtype = Literal["float32", "bfloat16", "float16"]
KEPT = (".safetensors", ".json", ".jinja", ".model", ".txt")
"""Endings of files that a model consists of. Pickles and code are never among them."""


@dataclass(frozen=True)
class Options:
    """What is done to the weights on the way, and where they go.

    Args:
        merge: folds an adapter into its base.
        untie: gives the output head weights of its own.
        dtype: precision of the saved weights; None: as they are.
        push: OWNER/NAME on the Hub.
    """

    merge: bool = False
    untie: bool = False
    dtype: Dtype | None = None
    push: str | None = None


@dataclass(frozen=True)
class Exported:
    """What an export left: its folder, where it came from, and its address on the Hub, if any."""

    folder: Path
    source: Source
    options: Options
    address: str = ""


def known_dtype(name: str | None) -> Dtype | None:
    """A precision by its name. Raises UserError for another word."""
    found = next((known for known in get_args(Dtype) if known == name), None)
    if name is not None and found is None:
        raise UserError("--dtype", name, "is not a precision of weights", nearest(name, get_args(Dtype)))
    return found


def describe(made: Exported) -> list[str]:
    """What a person should know about an export, line by line."""
    source, lines = made.source, []
    if source.run is not None and source.stage is not None:
        lines.append(f"model of stage {source.stage.name} of {source.run.run}")
    if source.verdict is not None:
        lines.append(f"gate verdict: {source.verdict['verdict']} (evidence/gate.json)")
    else:
        lines.append("no gate has judged these weights; the card says so")
    if is_adapter(made.folder):
        base = read_json(made.folder / "adapter_config.json").get("base_model_name_or_path")
        lines.append(f"it is an adapter and needs its base, {base}; for vLLM and others alone, add --merge")
    return lines


def check(source: Source, target: Path, options: Options) -> None:
    """Raises UserError for what cannot be exported, before any work."""
    if target.exists():
        raise UserError("--to", str(target), "exists already", "choose another folder, or remove it")
    if source.verdict is not None and source.broken:
        fix = "put the file back, or run the recipe again; `kilter verify` names every broken link"
        problem = f"is not what its stages wrote, so that its verdict proves nothing: {source.broken[0]}"
        raise UserError("RUN", source.reference, problem, fix)
    if options.merge or options.untie:
        check_merge(source.folder, options.untie, "--untie" if options.untie else "--merge")
    elif is_adapter(source.folder) and options.dtype:
        raise UserError("--dtype", options.dtype, "is of full weights, and this is an adapter", "add --merge")
    if options.push is not None:
        _check_push(source, options, options.push)


def _check_push(source: Source, options: Options, repo: str) -> None:
    """What should not be published: what works on one machine only, and what its gate refuses."""
    if not HUB_ID.fullmatch(repo):
        raise UserError("--push", repo, "is not OWNER/NAME", "give the repository as OWNER/NAME")
    if is_adapter(source.folder) and not (options.merge or options.untie):
        base = read_json(source.folder / "adapter_config.json").get("base_model_name_or_path", "")
        if Path(str(base)).is_dir():
            raise UserError(
                "--push", repo, f"would publish an adapter of a local folder, {base}", "add --merge"
            )
    if source.verdict is not None and source.verdict["verdict"] != "pass":
        word = source.verdict["verdict"]
        raise UserError("--push", repo, f"would publish a model whose gate says {word}", "leave --push out")

    # A folder of many gigabytes is not written first to find that nobody may upload it.
    from huggingface_hub import get_token

    if get_token() is None:
        fix = "run `hf auth login`, or give the token by the environment variable HF_TOKEN"
        raise UserError("--push", repo, "needs a token of the Hub, and there is none", fix)


def write(source: Source, target: Path, options: Options) -> None:
    """Writes the folder. It appears whole, or not at all.

    Args:
        source: what `find` found; `check` has passed.
        target: does not exist.
        options: what is done to the weights.
    """
    folder, change = source.folder, options.merge or options.untie or options.dtype
    with whole_folder(target, what="the exported model", fix="free disk space, then run again") as partial:
        if change or not list(folder.glob("*.safetensors")):
            rewrite(folder, partial, options.untie, options.dtype)
        else:
            _copy(folder, partial)

        # What the model learned from goes with it: a later evaluation must not ask the same prompts.
        note(partial, {}, [folder])
        evidence = partial / EVIDENCE
        evidence.mkdir()
        if source.verdict is not None:
            write_json(evidence / "gate.json", source.verdict, indent=1)
        write_text(partial / "README.md", str(card(source, partial)))
        seal(partial, _record(source, partial, options))


def _copy(folder: Path, target: Path) -> None:
    """The model's own files, byte for byte; nothing that could be code."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in KEPT and path.name not in NOTES:
            shutil.copyfile(path, target / path.name)


def _record(source: Source, made: Path, options: Options) -> dict[str, Any]:
    """Where the weights come from, and what was done to them on the way."""
    before, after = model_hash(source.folder), model_hash(made)
    return {
        "schema": 1,
        "kilter": __version__,
        "made": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "run": None if source.run is None else source.run.name,
        "stage": None if source.stage is None else source.stage.name,
        "stage_key": None if source.stage is None else source.stage.entry.key,
        "source_hash": before,
        "model_hash": after,
        "changed": before != after,
        "merged": is_adapter(source.folder) and not is_adapter(made),
        "untied": options.untie,
        "dtype": options.dtype,
        "verdict": None if source.verdict is None else source.verdict["verdict"],
    }


def push(folder: Path, repo: str, public: bool = False) -> str:
    """Uploads an exported folder to the Hub, and returns its address.

    Args:
        folder: what `write` wrote.
        repo: OWNER/NAME; it is made where there is none.
        public: whether a new repository can be read by everybody.

    Raises:
        UserError: the Hub refused the card or the upload, or cannot be reached.
    """
    from huggingface_hub import HfApi, ModelCard
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        ModelCard.load(folder / "README.md").validate()
        hub = HfApi()
        address = str(hub.create_repo(repo, private=not public, exist_ok=True))
        hub.upload_folder(folder_path=folder, repo_id=repo, commit_message="Upload a model made by Kilter")
    except (OSError, ValueError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled) as error:
        reason = " ".join(str(error).split())[:200]
        fix = f"run `hf auth login`, and check the network. The folder {folder} is whole"
        raise UserError("--push", repo, f"could not be uploaded ({reason})", fix) from error
    return address
