"""Reference log-probs: from a cache on disk for fixed data, from a live reference for fresh rollouts.

For fixed data they are computed once. The cache spares a second model in memory.

The key of a row is the hash of the reference's weights and tokenizer, the precision, the temperature, and the
row's own prompt and completion tokens and their mask. Any run or method over the same rows finds them again.
SQLite makes each write atomic, so a kill loses at most the micro-batch in flight.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kilter.batch import Batch
from kilter.errors import UserError
from kilter.hashes import ours
from kilter.models.forward import Scorer
from kilter.models.microbatch import split
from kilter.seams import LogProbs

FORWARD = 2
"""Counts up when a forward pass changes its numbers. 2: it is proven against the model itself."""


class ReferenceCache:
    """Row key -> float32 log-probs (nats) of its completion tokens."""

    def __init__(self, path: Path, reference_hash: str, precision: str, temperature: float = 1.0) -> None:
        if path.exists() and not ours(path):
            raise UserError(
                "KILTER_CACHE",
                str(path),
                "can be written by another user, so that its log-probs may be anybody's",
                "set KILTER_CACHE to a folder of your own, or remove this file",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o644)
            # Several ranks open and fill one file. IMMEDIATE waits for the write lock instead of failing.
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS sealed (key BLOB PRIMARY KEY, value BLOB, crc INTEGER) "
                "WITHOUT ROWID"
            )
            self._db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise _damaged(path, error) from error
        except OSError as error:
            raise UserError(
                "KILTER_CACHE",
                str(path),
                f"cannot be opened as the reference cache ({error})",
                "set KILTER_CACHE to a folder you may write to",
            ) from error
        self.path = path
        self._salt = f"{reference_hash}|{precision}|{temperature}|{FORWARD}".encode()

    def keys(self, batch: Batch) -> list[bytes]:
        """One key per row of the batch."""
        prompts = [p.numpy().astype(np.int32).tobytes() for p in batch.prompts_N]
        keys = []
        for row, (group, length) in enumerate(
            zip(batch.group_B.tolist(), batch.length_B.tolist(), strict=True)
        ):
            tokens = batch.tokens_BT[row, :length].numpy().astype(np.int32).tobytes()
            # Where the mask is 0 no log-prob is stored, so that rows with another mask need another key.
            mask = batch.mask_BT[row, :length].bool().numpy().tobytes()
            keys.append(hashlib.sha256(b"|".join((self._salt, prompts[group], b"", tokens, mask))).digest())
        return keys

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        """The stored log-probs of these keys; unknown keys are absent, and rows that have changed on disk."""
        found: dict[bytes, Tensor] = {}
        # SQLite limits the number of parameters of one statement.
        for start in range(0, len(keys), 500):
            part = list(keys[start : start + 500])
            query = f"SELECT key, value, crc FROM sealed WHERE key IN ({','.join('?' * len(part))})"
            try:
                rows = self._db.execute(query, part).fetchall()
            except sqlite3.DatabaseError as error:
                raise _damaged(self.path, error) from error
            for key, value, crc in rows:
                if zlib.crc32(key + value) == crc:
                    found[key] = torch.from_numpy(np.frombuffer(value, dtype=np.float32).copy())
        return found

    def put(self, keys: Sequence[bytes], logps_BT: Tensor, length_B: Tensor) -> None:
        """Stores rows; commits at once."""
        values = [
            logps_BT[i, : int(n)].detach().cpu().float().numpy().tobytes()
            for i, n in enumerate(length_B.tolist())
        ]
        rows = [(key, value, zlib.crc32(key + value)) for key, value in zip(keys, values, strict=True)]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO sealed VALUES (?, ?, ?)", rows)
            self._db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise _damaged(self.path, error) from error

    def lookup(self, batch: Batch) -> Tensor | None:
        """ref_logps_BT of the batch, or None when any row is missing."""
        keys = self.keys(batch)
        found = self.get(keys)
        if any(key not in found for key in keys):
            return None
        out = torch.zeros(batch.tokens_BT.shape)
        for i, key in enumerate(keys):
            out[i, : found[key].shape[0]] = found[key]
        return out

    def close(self) -> None:
        """Closes the database file."""
        self._db.close()


def _damaged(path: Path, error: sqlite3.Error) -> UserError:
    return UserError(
        "KILTER_CACHE",
        str(path),
        f"cannot be used as the reference cache ({error})",
        "remove this file, for all in it is computed again; where there is no room, set KILTER_CACHE",
    )


def logps_by_parts(batch: Batch, scorer: Scorer, temperature: float, amp: bool, budget: int) -> Tensor:
    """Log-probs of a whole batch under a model, [B, T], micro-batch by micro-batch.

    Args:
        budget: tokens of a micro-batch.
    """
    indexed = batch.with_(score_B=torch.arange(batch.rows()))
    found = torch.zeros(batch.tokens_BT.shape)
    for part in split(indexed, budget, scorer.shared):
        value = scorer(part, frozenset({"logps"}), temperature, amp).logps_BT.cpu()
        found[part.score_B, : value.shape[1]] = value
    return found


class LiveReference(LogProbs):
    """Reference log-probs of fresh rollouts.

    With adapters the reference is the policy with them switched off. Otherwise it is a frozen second model.

    Args:
        rows: the learner's forward over a whole batch, micro-batch by micro-batch.
    """

    def __init__(
        self,
        policy: Scorer,
        frozen: Scorer | None,
        amp: bool,
        temperature: float,
        rows: Callable[..., Tensor],
    ) -> None:
        self.policy, self.frozen, self.amp, self.temperature, self._rows = (
            policy,
            frozen,
            amp,
            temperature,
            rows,
        )

    def lookup(self, batch: Batch) -> Tensor:
        """ref_logps_BT of the batch."""
        scorer = self.frozen or self.policy
        off = self.policy.model.disable_adapter() if self.frozen is None else contextlib.nullcontext()
        # The adapters' dropout must be off: a reference is one function.
        training = scorer.training
        scorer.eval()
        try:
            with off, torch.no_grad():
                return self._rows(batch, scorer, self.temperature, self.amp)
        finally:
            scorer.train(training)

    def refresh(self) -> None:
        """The reference becomes the present policy (iterative DPO)."""
        assert self.frozen is not None
        with torch.no_grad():
            for own, new in zip(self.frozen.parameters(), self.policy.parameters(), strict=True):
                own.copy_(new.full_tensor() if hasattr(new, "full_tensor") else new)

    def state(self) -> dict[str, Tensor] | None:
        """Weights of a reference that has moved."""
        return (
            None if self.frozen is None else {k: v.detach().cpu() for k, v in self.frozen.named_parameters()}
        )

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        assert self.frozen is not None
        with torch.no_grad():
            for name, own in self.frozen.named_parameters():
                own.copy_(state[name])
