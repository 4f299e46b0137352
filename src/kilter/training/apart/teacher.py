"""A teacher in workers. They send the states that predict each token, which are all that a forward gives.

    p_T = softmax(head(states) / temperature)

So its distribution over the whole vocabulary is made where the student's is, a chunk of tokens at a time,
from the numbers that a teacher beside the student would give. The learner keeps the teacher's head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kilter.batch import Batch
from kilter.cluster.pool import Pool, Request
from kilter.hashes import flat, unflat
from kilter.models.logprobs import Head
from kilter.roles.open import OpenSpec, open_model
from kilter.training.apart.reference import bare
from kilter.training.apart.worker import Worker


class TeacherWorker(Worker):
    """Reads answers with a model that does not change.

    Args:
        opening: the model.
    """

    def __init__(self, opening: OpenSpec) -> None:
        super().__init__()
        self.scorer = open_model(opening).scorer

    def head(self) -> tuple[Head, list[Any]]:
        """The output projection without its tensors, and these: weight and bias."""
        head = self.scorer.head()
        tensors = [None if t is None else flat(t) for t in (head.weight, head.bias)]
        return replace(head, weight=None, bias=None), tensors

    def states(self, batch: Batch, amp: bool) -> Any:
        """What predicts the trained tokens of a micro-batch."""
        self.progress.count += 1
        with torch.no_grad():
            return flat(self.scorer.predicting(batch, amp))


class PooledTeacher(nn.Module):
    """A Teacher in workers. Micro-batches go to them one by one, some ahead of the learner.

    Args:
        pool: of TeacherWorkers.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self._bare: Head
        self._bare, tensors = pool.result(pool.submit("head"))
        for name, found in zip(("weight", "bias"), tensors, strict=True):
            # A copy: who shares a worker's memory would keep it.
            self.register_buffer(name, None if found is None else unflat(found).clone())
        self._begun: dict[int, tuple[Batch, Request]] = {}

    def head(self) -> Head:
        """What makes logits of the states."""
        return Head(self.weight, self.bias, self._bare.scale, self._bare.softcap)

    def begin(self, batches: Sequence[Batch], amp: bool = False) -> None:
        """Sends off the first of them: one more than there are workers, so that none of these waits."""
        for batch in batches[: self.pool.size + 1]:
            if id(batch) not in self._begun:
                self._begun[id(batch)] = batch, self.pool.submit("states", bare(batch), amp)

    def predicting(self, batch: Batch, amp: bool = False) -> Tensor:
        """The states that predict the trained tokens, [S, E]; a model's own logits [S, V]."""
        self.begin([batch], amp)
        _, call = self._begun.pop(id(batch))
        found: Tensor = unflat(self.pool.result(call))
        return found
