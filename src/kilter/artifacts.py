"""manifest.json of a stage: what went in, what came out, when, with what. The chain from data to verdict can be checked."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kilter.errors import UserError
from kilter.version import __version__

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "scipy",
    "statsmodels",
    "scikit-learn",
)


@dataclass
class Manifest:
    """`key` is the hash of kind, config and inputs: an unchanged key means the artifact is still right."""

    stage: str
    kind: str
    key: str
    config: dict[str, Any]
    inputs: dict[str, str]
    status: Literal["running", "done", "failed"] = "running"
    outputs: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    schema: int = 1

    def write(self, folder: Path) -> None:
        """Atomically writes folder/manifest.json."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / ".manifest.json"
        partial.write_text(json.dumps(asdict(self), indent=1, default=str))
        os.replace(partial, folder / "manifest.json")


def read(folder: Path) -> Manifest | None:
    """The manifest of a stage folder, or None when there is none that can be read."""
    try:
        return Manifest(**json.loads((folder / "manifest.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def stage_key(kind: str, config: dict[str, Any], inputs: dict[str, str]) -> str:
    """Hash of everything that determines the artifact."""
    text = json.dumps([kind, config, inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Kilter, Python and the libraries that numbers depend on."""
    found = {"kilter": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Processor, cores and system in one line."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}"


def require_writable(out: Path, field: str = "out") -> None:
    """Raises UserError when files cannot be created under `out`; called before any expensive work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable.{os.getpid()}"
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            field,
            str(out),
            f"cannot be written ({error.strerror or error})",
            "choose a folder you may write to",
        ) from error


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
