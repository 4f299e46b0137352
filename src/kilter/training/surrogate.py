"""Exact losses of unit "batch" in micro-batches, without the whole step's graph in memory.

    delta = dL / d(outputs)   on the small tensors of all rows of all ranks
    L'    = sum over micro-batches of sum(delta * outputs)

L' has the gradient of L, for L depends on the parameters only through these outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kilter.batch import Batch, Loss, Objective, Outputs
from kilter.training.join import in_order_of, join_batches, join_leaves, join_outputs
from kilter.training.parallel.engine import Engine


class Surrogate:
    """`whole` is the loss over the rows of all ranks; a call gives the surrogate of one micro-batch.

    Args:
        outs: outputs of this rank's micro-batches, without graphs.
        parts: the micro-batches.
        batch: the batch that they are parts of.
    """

    def __init__(
        self,
        outs: Sequence[Outputs],
        parts: Sequence[Batch],
        batch: Batch,
        objective: Objective,
        engine: Engine,
    ) -> None:
        # Batches hold tensors of the same fields on every rank; they are small: token ids and one number per
        # token. A rank without rows has nothing to add.
        share = (join_outputs(outs), in_order_of(parts, batch)) if outs else None
        shares = engine.gather(share)
        joined, leaves = join_leaves([s[0] for s in shares if s is not None])
        self.whole: Loss = objective.loss(joined, join_batches([s[1] for s in shares if s is not None]))
        grads = torch.autograd.grad(self.whole.value, list(leaves.values()), allow_unused=True)

        # Of the gradient of all ranks' rows each keeps its own.
        before = sum(s[1].rows() for s in shares[: engine.rank] if s is not None)
        mine = slice(before, before + batch.rows())
        self._deltas = {name: g[mine] for name, g in zip(leaves, grads, strict=True) if g is not None}
        self._first = [sum(p.rows() for p in parts[:i]) for i in range(len(parts))]

    def __call__(self, out: Outputs, index: int) -> Tensor:
        """sum(delta * output) over the rows of the micro-batch with this index."""
        first = self._first[index]
        total = torch.zeros(())
        for name, delta in self._deltas.items():
            own = getattr(out, name)
            part = delta[first : first + own.shape[0]]
            part = part[:, : own.shape[1]] if own.ndim == 2 else part
            total = total + (part * own).sum()
        return total
