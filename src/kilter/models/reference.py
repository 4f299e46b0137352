"""Reference log-probs, computed once per (model, tokens) and kept on disk; no second model stays in memory.

The key of a row is the hash of the reference's weights and tokenizer, the precision, the temperature, and the row's
own prompt and completion tokens: any run or method over the same rows finds them again. SQLite makes each write
atomic, so a kill loses at most the micro-batch in flight.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kilter.errors import UserError
from kilter.types import Batch


class ReferenceCache:
    """Row key -> float32 log-probs (nats) of its completion tokens."""

    def __init__(self, path: Path, reference_hash: str, precision: str, temperature: float = 1.0) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Several ranks open and fill one file: IMMEDIATE takes the write lock first, and waits for it instead of failing.
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("CREATE TABLE IF NOT EXISTS logps (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
            self._db.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                "KILTER_CACHE", str(path), f"the reference cache cannot be opened ({error})", "set KILTER_CACHE to a folder you may write to"
            ) from error
        self._salt = f"{reference_hash}|{precision}|{temperature}".encode()

    def keys(self, batch: Batch) -> list[bytes]:
        """One key per row of the batch."""
        prompts = [p.numpy().astype(np.int32).tobytes() for p in batch.prompts_N]
        keys = []
        for row, (group, length) in enumerate(zip(batch.group_B.tolist(), batch.length_B.tolist(), strict=True)):
            own = batch.tokens_BT[row, :length].numpy().astype(np.int32).tobytes()
            keys.append(hashlib.sha256(b"|".join((self._salt, prompts[group], b"", own))).digest())
        return keys

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        """The rows already known."""
        found: dict[bytes, Tensor] = {}
        for start in range(0, len(keys), 500):
            part = list(keys[start : start + 500])
            query = f"SELECT key, value FROM logps WHERE key IN ({','.join('?' * len(part))})"
            for key, value in self._db.execute(query, part):
                found[key] = torch.from_numpy(np.frombuffer(value, dtype=np.float32).copy())
        return found

    def put(self, keys: Sequence[bytes], logps_BT: Tensor, length_B: Tensor) -> None:
        """Stores rows; commits at once."""
        rows = [
            (key, logps_BT[i, : int(n)].detach().cpu().float().numpy().tobytes())
            for i, (key, n) in enumerate(zip(keys, length_B.tolist(), strict=True))
        ]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT OR REPLACE INTO logps VALUES (?, ?)", rows)
        self._db.execute("COMMIT")

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
        """Closes the file."""
        self._db.close()
