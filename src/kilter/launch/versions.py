"""Versions that machines must have alike to run one training."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping
from importlib import metadata

from kilter.errors import UserError
from kilter.version import __version__


def versions() -> dict[str, str]:
    """Of Kilter, Python and the libraries, as far as they are installed here."""
    found = {"kilter": __version__, "python": ".".join(platform.python_version_tuple()[:2])}
    for name in ("torch", "ray", "vllm"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            # 2.8.0+cpu here and 2.8.0+cu128 there are one version.
            found[name] = metadata.version(name).partition("+")[0]
    return found


def differing(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """What both have, in different versions."""
    return [name for name, version in here.items() if there.get(name, version) != version]


def require_same_versions(here: Mapping[str, str], there: Mapping[str, str], node: str) -> None:
    """Raises UserError where a node has another version of anything that both have."""
    wrong = [f"{n} {there[n]} where this machine has {here[n]}" for n in differing(here, there)]
    if wrong:
        raise UserError(
            "cluster.address",
            "(given)",
            f"leads to node {node}, which has {' and '.join(wrong)}",
            "install the same versions on all machines",
        )
