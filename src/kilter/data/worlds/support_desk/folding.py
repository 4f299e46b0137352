"""Letters in disguise: look-alikes of other alphabets, digits for letters, letters apart, words backwards."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_PAIRS = """
    АA ВB ЕE ЅS ІI ЈJ КK МM НH ОO РP СC ТT УY ХX ҮY ԚQ ԜW ΑA ΒB ΕE ΖZ ΗH ΙI ΚK ΜM
    ΝN ΟO ΡP ΤT ΥY ΧX аa вb сc ԁd еe ѕs һh іi јj кk ӏl мm пn оo рp ԛq гr тt уy ѵv
    ԝw хx нh αa βb εe ηn ιi κk μm νv οo ρp τt υu χx ωw ϲc ϳj օo հh ոn սu ցg ɑa ɡg
    ıi łl øo đd ʟl ᴀa ʙb ᴄc ᴅd ᴇe ɢg ʜh ɪi ᴊj ᴋk ᴍm ɴn ᴏo ᴘp ʀr ᴛt ᴜu ᴠv ᴡw ʏy ᴢz
"""
_LOOK_ALIKES = {ord(pair[0]): pair[1] for pair in _PAIRS.split()}
"""Capitals by themselves: a small Greek nu looks like a v, its capital like an N."""

_SKELETON = str.maketrans("oilesatbg@$!|+", "0113547864" + "5117")


def folded(text: str) -> str:
    """A text with letters of other alphabets that look like Latin ones as these, and nothing invisible."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKD", text).translate(_LOOK_ALIKES)
    return "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Mn"))


def skeleton(word: str) -> str:
    """A lower-case word by shapes: letters and the digits that stand for them are the same."""
    return word.translate(_SKELETON)


def disguises(text: str, word: str, seen: str) -> bool:
    """Whether a lower-case text holds a word letter by letter, backwards or with digits for letters.

    Args:
        text: with look-alikes folded.
        word: of lower-case letters.
        seen: the text as it was written, in lower case: a word that folding alone shows was disguised.
    """
    if re.search(rf"\b{word}\b", text) and not re.search(rf"\b{word}\b", seen):
        return True
    shapes = skeleton(text)
    return any(
        text[found.start() : found.end()] != word
        for order in (word, word[::-1])
        for found in _spread(skeleton(order)).finditer(shapes)
    )


@lru_cache(64)
def _spread(word: str) -> re.Pattern[str]:
    """A word whose letters may stand apart."""
    return re.compile(r"(?<![a-z0-9])" + r"[^a-z0-9]{0,3}".join(word) + r"(?![a-z0-9])")


@lru_cache(4096)
def compact(text: str) -> str:
    """The shapes of the letters and digits of a lower-case text alone, without anything between them."""
    return skeleton(re.sub(r"[^a-z0-9@$!|+]", "", text))
