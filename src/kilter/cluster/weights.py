"""The policy's weights on their way to those who sample: named tensors, how they travel, and their checksums.

A receiver is on a whole version or dead, never between: tensors are checked before the first one is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kilter.artifacts import write_by
from kilter.cluster.backend import Backend
from kilter.errors import RunFailed
from kilter.hashes import flat, tensor_hashes, unflat


@dataclass(frozen=True)
class WeightStream:
    """The weights of one version, one tensor after the other.

    Args:
        version: updates that they have seen.
        tensors: by name, whole and on the CPU.
    """

    version: int
    tensors: Mapping[str, Tensor]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.tensors.items())

    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    def checksums(self) -> dict[str, str]:
        """SHA-256 of each tensor's bytes."""
        return checksums(self.tensors)


@dataclass(frozen=True)
class Package:
    """What a control call carries: the version, and where its tensors are.

    Args:
        version: updates that the weights have seen.
        way: the name of the transport.
        place: what that transport's `fetch` reads.
        names: of all tensors, with their shapes; a receiver that lacks one of them refuses all.
        bytes: of all tensors.
        verify: whether the acknowledgement holds checksums.
    """

    version: int
    way: str
    place: Any
    names: Mapping[str, tuple[int, ...]]
    bytes: int
    verify: bool = False


@dataclass(frozen=True)
class Taken:
    """A receiver's acknowledgement.

    Args:
        version: that it has now.
        checksums: of the tensors as it holds them, where the package asked for them.
        compared: tensors that an engine inside it holds byte for byte, and all of them; None: none is inside.
    """

    version: int
    checksums: Mapping[str, str] = field(default_factory=dict)
    compared: tuple[int, int] | None = None


class Transport(Protocol):
    """A way for tensors from the learner to its receivers. compared: as in Taken, where it knows them."""

    compared: tuple[int, int] | None = None

    def send(self, weights: WeightStream) -> Package:
        """Puts the weights where receivers find them."""
        ...

    def checksums(self, weights: WeightStream) -> Mapping[str, str]:
        """What receivers acknowledge of these weights, where a package asks them to."""
        return weights.checksums()


class ObjectTransport(Transport):
    """Through the backend's own store: on one host its readers copy nothing."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def send(self, weights: WeightStream) -> Package:
        """Tensors as arrays of bytes with their kinds: numpy knows no bfloat16."""
        shared = self.backend.share({name: flat(t) for name, t in weights})
        return package_of(weights, "object", shared)


class FileTransport(Transport):
    """Through a folder that all receivers can read.

    Args:
        folder: of the files.
        kept: versions that a receiver may still have to read.
    """

    def __init__(self, folder: Path, kept: int = 2) -> None:
        self.folder, self.kept = folder, kept

    def send(self, weights: WeightStream) -> Package:
        """One safetensors file per version; older ones are removed."""
        path = self.folder / f"weights-{weights.version}.safetensors"
        whole = {name: t.contiguous() for name, t in weights}
        write_by(path, lambda hidden: save_file(whole, hidden), "weights for the samplers")
        files = sorted(self.folder.glob("weights-*.safetensors"), key=lambda p: p.stat().st_mtime)
        for old in files[: -self.kept]:
            old.unlink(missing_ok=True)
        return package_of(weights, "file", str(path))


def package_of(weights: WeightStream, way: str, place: Any) -> Package:
    """What tells receivers of weights that were sent."""
    names = {name: tuple(t.shape) for name, t in weights}
    return Package(weights.version, way, place, names, weights.bytes())


def fetch_object(place: Any) -> dict[str, Tensor]:
    """The tensors of an ObjectTransport; they share the store's memory and must not be written to."""
    return {name: unflat(found) for name, found in place().items()}


Tick = Callable[[], None]
"""Called as tensors come, so that others see that they do."""

FETCH: dict[str, Callable[[Any, Tick], dict[str, Tensor]]] = {
    "object": lambda place, tick: fetch_object(place),
    "file": lambda place, tick: load_file(place),
}
"""Name of a transport to what reads its place; a transport of another room adds its own."""


@torch.no_grad()
def receive(package: Package, owned: Mapping[str, Tensor], tick: Tick = lambda: None) -> None:
    """Copies a package's tensors into a receiver's own, with a tick for each part of them.

    Raises:
        RunFailed: the names or shapes differ; nothing was copied then.
    """
    found = FETCH[package.way](package.place, tick)
    shapes = [{name: tuple(t.shape) for name, t in tensors.items()} for tensors in (owned, found)]
    wrong = sorted(n for n, shape in package.names.items() if any(s.get(n) != shape for s in shapes))
    if wrong:
        raise RunFailed(
            f"The weights of version {package.version} do not fit the sampler's model "
            f"({len(wrong)} tensors, the first is {wrong[0]})",
            "use one version of Kilter and transformers on all machines",
        )
    for name, value in found.items():
        owned[name].copy_(value)


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor's bytes, by name."""
    return tensor_hashes({name: (t,) for name, t in tensors.items()})


def difference(package: Package, sent: Mapping[str, str], taken: Taken) -> str:
    """What a receiver holds else than was sent; "" where nothing differs.

    Args:
        package: that the receiver was sent.
        sent: checksums of the learner's tensors; none where they are not compared.
        taken: its acknowledgement.
    """
    if taken.version != package.version:
        return f"it has the weights of version {taken.version}, not {package.version}"
    wrong = sorted(name for name, value in sent.items() if taken.checksums.get(name) != value)
    if not wrong:
        return ""
    return (
        f"it holds other weights than the learner ({len(wrong)} tensors, the first is {wrong[0]}), after "
        f"{package.bytes} bytes of version {package.version} were sent by {package.way}"
    )
