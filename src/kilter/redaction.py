"""Secrets are taken out of everything that is kept or shown: manifests, recipes, reports, errors and logs.

A secret is known by where it stands (the user part of an address, a query `?key=`, a header, a setting named
`api_key`), by its shape (the keys of well-known services), or because an environment variable such as
OPENAI_API_KEY holds it.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

HIDDEN = "***"

_WORDS = "api[_-]?key|access[_-]?key|secret|passw(?:or)?d|credentials?|authorization|signature|[a-z_-]*auth"
_TOKENS = "(?:access|api|auth|bearer|hf|id|refresh|session|github|wandb)[_-]?token"

NAMED = re.compile(rf"token|(?:[a-z0-9_-]*[_-])?(?:{_WORDS}|{_TOKENS})", re.IGNORECASE)
"""Settings whose value is a secret. `max_tokens` and `pad_token` are none."""

PLACES = (
    # scheme://user:password@host: the last @ before the path ends the user part.
    (re.compile(r"(?<=://)[^\s/?#'\"<>]+@"), f"{HIDDEN}@"),
    (
        re.compile(rf"([?&;](?:[\w.-]*(?:{_WORDS}|token|key|sig))=)[^&;#\s'\"<>]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(?:sk|pk|rk)-[\w-]{16,}|\bhf_\w{16,}|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}"), HIDDEN),
    (
        re.compile(
            r"\bxox[abeprs]-[\w-]{10,}|\bA(?:KIA|SIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\bglpat-[\w-]{16,}"
        ),
        HIDDEN,
    ),
    (re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"), HIDDEN),
)
"""What is taken out of a text, and what stands there instead."""

IN_QUERY = re.compile(rf"[\w.-]*(?:{_WORDS}|token|key|sig|code)", re.IGNORECASE)
"""Parameters of an address whose value is a secret."""

ENVIRONMENT = re.compile(r".*(?:_|^)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS)", re.IGNORECASE)
SHORTEST = 8
"""Characters of an environment variable below which it may be any word."""


def redact(text: str) -> str:
    """The text without secrets; a text without any comes back as it is."""
    for value in _held():
        text = text.replace(value, HIDDEN)
    for pattern, instead in PLACES:
        text = pattern.sub(instead, text)
    return text


def secrets_of(key: str, url: str) -> list[str]:
    """A key and the secrets of an address, in all forms in which a server sends them back; the longest first.

    Args:
        key: "" is none.
        url: may have a user and a password, or a query such as `?api_key=`.
    """
    parts = urlsplit(url)
    found = {key}
    for pair in parts.query.split("&"):
        name, _, raw = pair.partition("=")
        if raw and IN_QUERY.fullmatch(unquote_plus(name)):
            value = unquote_plus(raw)
            found |= {raw, value, quote(value, safe=""), quote_plus(value)}
    # A user without a password is a token.
    if parts.password or parts.username:
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        both = base64.b64encode(f"{user}:{password}".encode()).decode()
        found |= {both, *((password, parts.password) if parts.password else (user, parts.username or ""))}
    found |= {json.dumps(text)[1:-1] for text in found} | {repr(text)[1:-1] for text in found}
    return sorted(found - {""}, key=len, reverse=True)


class Pieces:
    """A text that comes in pieces, without secrets: one may begin in a piece and end in a later one.

    So may a character that JSON escapes in two halves: its first half waits for the second.

    Args:
        secrets: the longest first.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets, self._rest = tuple(secrets), ""

    def __call__(self, piece: str, last: bool = False) -> str:
        """What can be shown by now. What may be the beginning of a secret waits for the next piece.

        Args:
            piece: of the text.
            last: nothing comes after it.
        """
        rest, shown = self._rest + piece, ""
        while rest and (last or not self._waits(rest)):
            secret = next((s for s in self._secrets if rest.startswith(s)), "")
            shown += HIDDEN if secret else rest[0]
            rest = rest[len(secret) or 1 :]
        self._rest = rest
        return shown

    def _waits(self, rest: str) -> bool:
        half = len(rest) == 1 and "\ud800" <= rest <= "\udbff"
        return half or any(len(s) > len(rest) and s.startswith(rest) for s in self._secrets)


def _held() -> list[str]:
    """Values of the environment that are secrets, the longest first."""
    found = {v for n, v in os.environ.items() if ENVIRONMENT.fullmatch(n) and len(v) >= SHORTEST}
    return sorted(found, key=len, reverse=True)


def redacted(value: Any) -> Any:
    """Plain data without secrets, in texts and under the names that secrets have."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {k: _named(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(v) for v in value]
    return value


def shown(name: str, value: Any) -> str:
    """A setting's value for a message, as Python writes it."""
    plain = redacted({name: value})[name] if isinstance(value, str | Mapping) else value
    return redact(repr(plain))


def _named(name: str, value: Any) -> Any:
    secret = isinstance(value, str) and value and NAMED.fullmatch(name) is not None
    return HIDDEN if secret else redacted(value)
