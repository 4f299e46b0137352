"""The words of a text in any script."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# Thai and Lao, Burmese, Khmer, kana, and Han characters.
_SPACELESS = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff])"
)
_ASCII = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
APOSTROPHES = "'\u2019"


def words(text: str) -> list[str]:
    """Words in small letters, without marks; of a script without spaces, its characters."""
    text = text.lower()
    if text.isascii():
        return _ASCII.findall(text)
    # Vowels and accents of many scripts are marks of their own, and part of the word.
    kept = (c if c in APOSTROPHES or unicodedata.category(c)[0] in "LMN" else " " for c in text)
    spaced = _SPACELESS.sub(r" \1 ", "".join(kept))
    return [word for piece in spaced.split() if (word := piece.strip(APOSTROPHES))]


def joined(found: Iterable[str]) -> str:
    """Words as a text again: spaces between them, and none between characters."""
    return "".join(word if is_character(word) else f" {word} " for word in found).replace("  ", " ").strip()


def is_character(word: str) -> bool:
    """Whether it is a single character of a script without spaces."""
    return _SPACELESS.fullmatch(word) is not None
