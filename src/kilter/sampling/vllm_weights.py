"""The policy's weights as vLLM reads them: plain, whole, in one file, adapters added in."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from kilter.artifacts import writing
from kilter.errors import UserError
from kilter.hashes import tensor_hashes
from kilter.models import adapters
from kilter.runtime import Guard
from kilter.sampling import vllm_ends
from kilter.sampling.vllm_ends import end

SHARED_MEMORY = Path("/dev/shm")
"""Where weights are handed over without touching a disk."""

PREFIX = "kilter-vllm-"

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Modules that vLLM makes of several, their rows one after the other."""


def merged_state(model: Any, dtype: torch.dtype) -> tuple[Any, dict[str, torch.Tensor]]:
    """The plain transformers model, and its weights with any LoRA added in.

    The trained model is left exactly as it is: merging in place and back would round its weights.
    """
    return plain(model), dict(merged(model, dtype))


def plain(model: Any) -> Any:
    """The transformers model, without the adapters that may be around it."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


@torch.no_grad()
def merged(model: Any, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of every weight, LoRA added in: one after the other, for all need the memory of two."""
    base, layers = plain(model), {}
    if base is not model:
        from peft.tuners.lora import LoraLayer

        named = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
        layers = {f"{name}.weight": module for name, module in named.items()}
        ends_of = base.get_input_embeddings(), base.get_output_embeddings()
        if tied(base) and any(end in named.values() for end in ends_of):
            raise UserError(
                "sampler.name",
                "vllm",
                "has one matrix for both ends of this model, and the adapter changes one of them",
                "use sampler.name: local, or leave lm_head and embed_tokens out of adapter.target",
            )

    # peft keeps the weights that it wraps one level further down.
    for name, value in base.state_dict().items():
        if "lora_" in name:
            continue
        name, value = name.replace(".base_layer.", "."), value.detach()
        if (layer := layers.get(name)) is not None:
            # Rounded once, at the end, in whatever precision the base is held.
            value = adapters.with_lora(layer, value.float())
        yield name, value.to(dtype)


def tied(model: Any) -> bool:
    """Whether input embedding and output projection share one matrix."""
    return bool(model.config.get_text_config().tie_word_embeddings)


def untie(base: Any, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Gives a tied output projection in `folder` weights of its own.

    On a CPU, vLLM 0.32 re-arranges the head's weights when it loads them, and misses them when it reloads.
    """
    if not tied(base):
        return
    embedding, head = ends(base)
    write_head(folder, head, state[embedding])
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": False}))


def ends(base: Any) -> tuple[str, str]:
    """Names of the weights of input embedding and output projection."""
    names = {id(module): name for name, module in base.named_modules()}
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    return f"{names[id(embedding)]}.weight", f"{names[id(head)]}.weight"


def write_head(folder: Path, name: str, value: torch.Tensor) -> None:
    """A file beside the model's own: vLLM reads every *.safetensors of the folder."""
    with given(folder):
        save_file({name: value.contiguous()}, str(folder / "head.safetensors"), metadata={"format": "pt"})


def given(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Around a write: containers often have little shared memory, and a full one should be named."""
    fix = "free memory in /dev/shm (a container gets more by --shm-size), or use sampler.name: local"
    return writing(folder, "weights for vLLM", fix)


class MergedWeights:
    """The weights as they travel: merged, whole, a head that is the embedding left out.

    It has the two methods of vLLM's WeightSource, which moves them between GPUs.

    Args:
        model: transformers or peft; its shards are gathered, so that every rank must read them all together.
        dtype: of the engine.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        self.embedding, head = ends(plain(model))
        self._left_out = head if tied(plain(model)) else ""

    def metadata(self) -> list[Any]:
        """Name, kind and shape of each, as vLLM has them. Nothing is gathered."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [
            ParamMeta(plain_name, self.dtype, tuple(value.shape))
            for name, value in plain(self.model).state_dict().items()
            if "lora_" not in name and (plain_name := name.replace(".base_layer.", ".")) != self._left_out
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in merged(self.model, self.dtype):
            if name != self._left_out:
                yield name, value.full_tensor() if hasattr(value, "full_tensor") else value

    def on_cpu(self, wanted: bool = True) -> dict[str, torch.Tensor]:
        """All of them, on the rank that wants them; the others get none."""
        return {name: value.cpu() for name, value in self if wanted}


def shared_folder(cleanup: contextlib.ExitStack) -> Path:
    """An empty folder in shared memory for an engine, until `cleanup` ends or this process.

    What was started for it ends with it. What killed processes have left is removed first.
    """
    writable = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)
    parent = SHARED_MEMORY if writable else Path(tempfile.gettempdir())
    for old in parent.glob(f"{PREFIX}*"):
        # Whoever lives holds a lock, which the system takes back from the dead.
        with contextlib.suppress(OSError):
            handle = _lock(old)
            end(old, os.getpid())
            os.close(handle)
    folder, handle = _fresh(parent)
    # The functions themselves: at the end of an interpreter, modules are gone before objects.
    cleanup.callback(os.close, handle)
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    here = shlex.quote(str(folder))
    ends = f"{shlex.quote(sys.executable)} -I -S {shlex.quote(vllm_ends.__file__)} {here} {os.getpid()}"
    cleanup.callback(Guard(f"{ends}; rm -rf {here}").fire)
    return folder


def _fresh(parent: Path) -> tuple[Path, int]:
    """A folder and the lock on it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Before it is locked, another one that begins now may take it for a dead one's.
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            handle = _lock(folder)
            if folder.exists():
                return folder, handle
            os.close(handle)


def _lock(folder: Path) -> int:
    """Raises OSError where another process has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


class Holdings:
    """Which tensors an engine holds byte for byte as they were sent.

    Engines fuse some tensors, and on some devices re-arrange them. What is comparable shows in the weights
    that the engine was started with.

    Args:
        started: the tensors that it was started with.
        digests: SHA-256 of what it then held, by its own names.
        embedding: name of the input embedding.
    """

    def __init__(
        self, started: Mapping[str, torch.Tensor], digests: Mapping[str, str], embedding: str
    ) -> None:
        self._embedding = embedding
        self._parts = {name: parts for name in digests if (parts := self._of(name, started))}
        same = self.expected(started)
        self._parts = {name: parts for name, parts in self._parts.items() if same[name] == digests[name]}
        self.compared = len({part for parts in self._parts.values() for part in parts}), len(started)
        """Tensors that can be compared, and all that are sent."""

    def _of(self, name: str, known: Mapping[str, torch.Tensor]) -> Sequence[str]:
        """The sent tensors that one of the engine's is made of; none where nobody knows."""
        if name in known:
            return (name,)
        for fused, parts in FUSED.items():
            found = [name.replace(f".{fused}.", f".{part}.") for part in parts]
            if f".{fused}." in name and all(part in known for part in found):
                return found
        # A head that was the embedding has weights of its own in the engine alone.
        return (self._embedding,) if name.endswith("lm_head.weight") else ()

    def expected(self, sent: Mapping[str, torch.Tensor]) -> dict[str, str]:
        """SHA-256 of what the engine must hold of these tensors, by its own names."""
        return tensor_hashes({name: [sent[p] for p in parts] for name, parts in self._parts.items()})

    def differing(self, sent: Mapping[str, torch.Tensor], digests: Mapping[str, str]) -> list[str]:
        """Names of sent tensors of which the engine holds something else."""
        wrong = [name for name, value in self.expected(sent).items() if digests.get(name) != value]
        return sorted(part for name in wrong for part in self._parts[name])


class EngineFolder:
    """A model folder that an engine reads: first the policy as it was opened, then whatever is put there.

    Args:
        path: an empty folder.
        model: the policy; its structure alone where `files` hold its weights.
        dtype: of the engine.
        own_head: a tied head gets weights of its own; see `untie`.
        files: a model's own, which hold just these weights. Links lead to them, and nothing is copied.
    """

    def __init__(
        self, path: Path, model: Any, dtype: torch.dtype, own_head: bool, files: Sequence[Path] = ()
    ) -> None:
        self.path, base, state = path, plain(model), dict[str, torch.Tensor]()
        if files:
            for name in ("config.json", "generation_config.json"):
                if (files[0].parent / name).is_file():
                    shutil.copyfile(files[0].parent / name, path / name)
            for number, file in enumerate(files):
                # No index and names of their own: what a link leads to must never be written to.
                (path / f"linked-{number}.safetensors").symlink_to(file.resolve())
        else:
            base, state = merged_state(model, dtype)
            # One file and no index: vLLM reads what an index names, and would miss a head of its own.
            with given(path):
                base.save_pretrained(str(path), state_dict=state, max_shard_size="1000GB")
        # From here on they lie in files, and in memory only while somebody reads them.
        for file in path.glob("*.safetensors"):
            found = load_file(str(file))
            state |= found if files else {n: v for n, v in found.items() if n in state}
        self.embedding, self._head = ends(base)
        self._own_head = own_head and tied(base)
        if self._own_head:
            untie(base, state, path)
        # A head that is the embedding never travels, as in MergedWeights.
        self.started = {n: v for n, v in state.items() if not (tied(base) and n == self._head)}

    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replaces the weights."""
        self.empty()
        with given(self.path):
            save_file(
                {n: t.contiguous() for n, t in tensors.items()},
                str(self.path / "model.safetensors"),
                metadata={"format": "pt"},
            )
        if self._own_head:
            write_head(self.path, self._head, tensors[self.embedding])

    def empty(self) -> None:
        """Removes the weights: an engine that has read them needs them no more."""
        self.started = {}
        for file in self.path.glob("*.safetensors"):
            file.unlink()
