"""Weights straight from the learner's GPUs into engines, by vLLM's own transfer: nccl apart, ipc beside.

An engine that is lost ends the run: its group cannot be joined again, nor its memory be had.
"""

from __future__ import annotations

from collections.abc import Mapping

from kilter.cluster.pool import Pool
from kilter.cluster.weights import Package, WeightStream
from kilter.sampling import vllm_transfer
from kilter.sampling.vllm_weights import Holdings, MergedWeights


class DirectTransport:
    """vLLM's own transfer. A package says only that the tensors are there.

    Args:
        pool: of VllmWorkers; none in a rank that only takes part in reading its shards.
        weights: of the policy; each rank of the learner sends its shards of them.
        way: "nccl" or "ipc".
        reach: where the engines are.
        holds: engines are told to answer nothing meanwhile; those that sleep need not be.
    """

    def __init__(
        self, pool: Pool, weights: MergedWeights, way: str, reach: vllm_transfer.Reach, holds: bool = True
    ) -> None:
        self.pool, self.weights, self.way, self.holds = pool, weights, way, holds
        self._last, self._leads = -1, bool(pool.size)
        # What an engine has now is what the policy began with: it shows which tensors can be compared.
        digests = pool.ask_all("digests")[0] if self._leads else {}
        self._holdings = Holdings(weights.on_cpu(self._leads), digests, weights.embedding)
        self.compared: tuple[int, int] | None = self._holdings.compared
        ask = lambda step, info: pool.ask_all("transfer", lambda number: (step, info(number)))
        self._transfer = vllm_transfer.connect(way, weights, ask, reach)

    def send(self, weights: WeightStream) -> Package:
        """Every rank of the learner must call it: it gathers shards."""
        if self.holds:
            # Not before the last weights are committed, which would let the engines go on.
            last, self._last = self._last, weights.version
            self.pool.ask_all("hold", lambda number: (last,))
        self._transfer.send_weights()
        return Package(weights.version, self.way, None, {}, 0)

    def checksums(self, weights: WeightStream) -> Mapping[str, str]:
        """By the engine's own names, of what it holds byte for byte."""
        return self._holdings.expected(self.weights.on_cpu(self._leads))
