"""vLLM's own ways for weights between GPUs, nccl and ipc: Kilter names the tensors, vLLM moves them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Ask = Callable[[str, Any], list[Any]]
"""Calls a method on every engine, its argument made from the number of the engine, and waits for all."""


@dataclass(frozen=True)
class Reach:
    """Where the engines are, for who moves weights to them.

    Args:
        engines: how many.
        gpus: of each.
        rank: of this learner; the first one speaks to the engines.
        address: of this learner's machine, where the engines can reach it.
    """

    engines: int
    gpus: int = 1
    rank: int = 0
    address: str = "127.0.0.1"


class EnginesClient:
    """vLLM's VLLMWeightSyncClient over several engines, which each count their GPUs from zero."""

    def __init__(self, ask: Ask, gpus: int) -> None:
        self._ask, self._gpus = ask, gpus

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        """Meets the engines. By nccl, each gets ranks of its own in the group."""

        def info(engine: int) -> dict[str, Any]:
            own = dict(init_info)
            if "rank_offset" in own:
                own["rank_offset"] += engine * self._gpus
            return own

        self._ask("init", info)

    def start_weight_update(self) -> None:
        """Begins."""
        self._ask("start", lambda engine: None)

    def update_weights(self, update_info: Any) -> None:
        """Tensors are on their way."""
        self._ask("update", lambda engine: update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """All of them have arrived. The version is committed later, with the acknowledgement."""
        self._ask("finish", lambda engine: None)


def _ipc(reach: Reach) -> Any:
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    # In chunks: whole, it would hold a second copy of the weights while the engine loads them.
    return IPCTrainerInitInfo(rank=reach.rank, packed=True)


def _nccl(reach: Reach) -> Any:
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    with socket.socket() as s:
        s.bind(("", 0))
        port = s.getsockname()[1]
    return NCCLTrainerInitInfo(reach.address, port, 1 + reach.engines * reach.gpus, rank=reach.rank)


WAYS: dict[str, Callable[[Reach], Any]] = {"ipc": _ipc, "nccl": _nccl}
"""`cluster.weights` to what vLLM's trainer side asks for."""


def connect(way: str, weights: Any, ask: Ask, reach: Reach) -> Any:
    """vLLM's trainer side, ready for `send_weights()`. Every rank of the learner calls this together.

    Args:
        way: a key of WAYS.
        weights: a MergedWeights.
        ask: calls all engines.
        reach: where they are.
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    client = EnginesClient(ask, reach.gpus)
    return WeightTransferTrainerFactory.trainer_init(WAYS[way](reach), client=client, source=weights)
