"""A GPU that is none: tensors on "cuda:0" whose numbers lie on the CPU.

What meets a tensor on the wrong device fails here as it does on a GPU. Speed, graphs, compiled kernels and
autocast are left to a real one. `KILTER_PRETEND_GPU=1 python -m pytest tests/test_online.py` runs any test so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU = torch.device("cuda:0")
ACROSS = ("aten::copy_", "aten::_to_copy")
"""What moves numbers between devices."""

INDEXED = (
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
)
"""A GPU reads the places of these from the CPU as well."""


class Card(torch.Tensor):
    """A tensor on the GPU that is none. To the parts of torch in C++ it is a meta tensor."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Card:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    def __init__(self, inner: torch.Tensor) -> None: ...

    @property
    def device(self) -> torch.device:
        return GPU

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_meta(self) -> bool:
        return False

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self) -> str:
        return f"Card({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Pretend(TorchDispatchMode):
    """Sees operations without a Card too: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operation on the CPU, and says where its results would lie."""
    name = func.name().split(".")[0]
    if name == "prim::device":
        return GPU if isinstance(args[0], Card) else torch.device("cpu")
    flat, spec = tree_flatten((args, kwargs))
    cards = {id(x.inner): x for x in flat if isinstance(x, Card)}
    plain = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, Card) and x.dim()]
    mixed = cards and plain and name not in ACROSS
    if mixed and not (name in INDEXED and isinstance(args[0], Card)):
        raise RuntimeError(f"{func}: tensors on cuda:0, and on the CPU {[tuple(x.shape) for x in plain]}")

    device = next((x for x in flat if isinstance(x, torch.device)), None)
    on_card = bool(cards) if device is None else device.type in ("cuda", "meta")
    if name == "aten::copy_":
        on_card = isinstance(args[0], Card)
    cpu = torch.device("cpu")
    flat = [x.inner if isinstance(x, Card) else cpu if isinstance(x, torch.device) else x for x in flat]
    args, kwargs = tree_unflatten(flat, spec)
    found = func(*args, **kwargs)
    if not on_card:
        return found
    return tree_map(lambda x: cards.get(id(x), Card(x)) if isinstance(x, torch.Tensor) else x, found)


STUBS: dict[str, Any] = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "is_bf16_supported": lambda including_emulation=True: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "get_device_name": lambda device=None: "none",
    "get_rng_state": lambda device=0: torch.get_rng_state(),
    "set_rng_state": lambda state, device=0: None,
    "get_rng_state_all": list,
    "set_rng_state_all": lambda states: None,
    "synchronize": lambda device=None: None,
    "empty_cache": lambda: None,
    "max_memory_allocated": lambda device=None: 0,
    "mem_get_info": lambda device=None: (2**33, 2**33),
}
"""What torch.cuda says where there is a GPU."""


@contextlib.contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever asks for a GPU finds one."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from kilter.sampling.engine import SharedEngine

    for name, value in STUBS.items():
        monkeypatch.setattr(torch.cuda, name, value)
    # It asks in C++, which sees a meta tensor.
    monkeypatch.setattr(torch.nn.utils.clip_grad, "_device_has_foreach_support", lambda device: True)

    def eager(self: Any, ids: Any, positions: Any, plan: Any) -> Any:
        self.cache.plan(plan)
        return self._forward(ids, positions, None)

    # A graph is kernels of a GPU.
    monkeypatch.setattr(SharedEngine, "_replay", eager)
    torch._C._set_only_lift_cpu_tensors(True)
    # A tied weight stays one weight when it moves.
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with Pretend(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
        torch._C._set_only_lift_cpu_tensors(False)
