"""A signature of a run's chain: with it, nobody without the key can rewrite a run and its chain together.

Ed25519 by the library cryptography; keys are PEM files, as openssl writes them:

    openssl genpkey -algorithm ed25519 -out release.key
    openssl pkey -in release.key -pubout -out release.pub
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilter import chain
from kilter.artifacts import read_json, write_json
from kilter.chain import SIGNATURE, Break
from kilter.errors import UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

INSTALL = "run: pip install 'kilter[sign]'"
MAKE = "make one with: openssl genpkey -algorithm ed25519 -out release.key"


def sign(run: Path, key: Path) -> str:
    """Writes RUN/chain.sig.json over the recipe and all stages, the verdict included.

    Args:
        run: a run whose chain holds; the caller has verified it.
        key: a private key, PEM.

    Returns:
        The fingerprint of the public key.
    """
    private: Ed25519PrivateKey = _load(key, "--key", private=True)
    public = private.public_key()
    value = {
        "schema": 1,
        "algorithm": "ed25519",
        "public_key": base64.b64encode(public.public_bytes_raw()).decode(),
        "signature": base64.b64encode(private.sign(chain.payload(run))).decode(),
    }
    write_json(run / SIGNATURE, value, indent=1)
    return fingerprint(public.public_bytes_raw())


def check(run: Path, key: Path | None) -> tuple[list[str], list[Break]]:
    """What there is to say of a run's signature, and what is wrong with it.

    Args:
        run: the run's folder.
        key: the public key that must have signed it; None takes the signature's own word for whose it is.
    """
    path = run / SIGNATURE
    wanted: Ed25519PublicKey | None = None if key is None else _load(key, "--key", private=False)
    if not path.is_file():
        return [], [Break(path, "is missing: nobody has signed this run")] if key is not None else []
    try:
        held = read_json(path, keys=("algorithm", "public_key", "signature"))
        raw, text = (base64.b64decode(str(held[n]), validate=True) for n in ("public_key", "signature"))
        canonical = {n: held.get(n) for n in ("schema", "algorithm", "public_key", "signature")}
        if held["algorithm"] != "ed25519" or held != canonical or not _same_text(path, held):
            raise ValueError("it is not as it was written")
        holds = _holds(raw, text, chain.payload(run))
    except (UserError, ValueError) as error:
        if getattr(error, "fix", "") == INSTALL:
            raise
        return [], [Break(path, "was changed since, so that it is no signature")]
    if not holds:
        return [], [Break(path, "is not a signature of this run as it is now")]
    if wanted is not None and wanted.public_bytes_raw() != raw:
        return [], [Break(path, f"is of another key, {fingerprint(raw)}, than {key}")]
    whose = "" if wanted is not None else "; whose it is, --key PUBLIC.pem would tell"
    return [f"signed by key {fingerprint(raw)}{whose}"], []


def _same_text(path: Path, held: dict[str, Any]) -> bool:
    """Whether not one byte is another: a text may be written in many ways."""
    return path.read_text(encoding="utf-8") == json.dumps(held, indent=1)


def _holds(public: bytes, signature: bytes, payload: bytes) -> bool:
    _require()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    with contextlib.suppress(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(public).verify(signature, payload)
        return True
    return False


def fingerprint(public: bytes) -> str:
    """Sixteen digits that stand for a public key."""
    return hashlib.sha256(public).hexdigest()[:16]


def _require() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise UserError("signature", "(absent)", "needs the library cryptography", INSTALL) from error


def _load(path: Path, field: str, private: bool) -> Any:
    """An Ed25519 key of a PEM file. Raises UserError."""
    _require()
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    kind = ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey
    try:
        data = path.read_bytes()
        found = load_pem_private_key(data, None) if private else load_pem_public_key(data)
    except (OSError, ValueError, TypeError) as error:
        word = "private" if private else "public"
        raise UserError(field, str(path), f"cannot be read as a {word} key ({error})", MAKE) from error
    if not isinstance(found, kind):
        raise UserError(field, str(path), "is not an Ed25519 key", MAKE)
    return found
