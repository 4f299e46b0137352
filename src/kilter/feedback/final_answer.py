r"""The final answer of a text, in the form that math-verify reads.

math-verify collects every box of a text into a set, reads ASCII alone, and rounds to six decimals. Here the
last box counts, signs of other scripts are spelt as ASCII, and numbers are equal only if they are the same.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
"""Full-width letters, digits and signs, as East Asian texts write them."""

SIGNS = WIDE | {0x2212: "-", 0x2013: "-", 0x00A0: " ", 0x202F: " ", 0x2009: " ", 0x3002: ". ", 0x3000: " "}

UNIT = re.compile(r"(-?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?)\s+[^\W\d_]+(?:\s+[^\W\d_]+)*\.?")
"""A number with its unit in words, such as "18 dollars" or "2/3 cup"."""

CHOICE = re.compile(r"[A-J]")
"""A reference that names one of several choices."""

RELATIVE = Decimal("1e-9")
"""Two numbers are equal if they differ by less than this part of the larger one."""


def boxed(text: str) -> str:
    """What stands in the last \\boxed{...} of a solution, "" where there is none."""
    start = text.rfind("\\boxed{")
    depth = 0
    for place in range(start + 6, len(text)) if start >= 0 else ():
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[start + 7 : place].strip()
    return ""


def spelt(text: str) -> str:
    """The same mathematics in ASCII and in LaTeX that math-verify knows."""
    text = text.translate(SIGNS).replace("\\fbox{", "\\boxed{").replace("\\mathrm{e}", "e")
    # Quotes, a colon, or brackets around one number: math-verify wants a space before what it reads.
    text = re.sub(r"[`\"\u201c\u201d]|(?<=[^\W\d]):(?=[-\d])", " ", text.replace("\\$", "$"))
    text = re.sub(r"(?<![\w)\]}^/*])\((-?\d+(?:\.\d+)?)\)(?![\w(^/*])", r" \1 ", text)
    # Digits that are grouped by thin spaces, and numbers in scientific notation.
    text = re.sub(r"(?<=\d)(?:\\[,!;:]|\{,\})(?=\d{3})", "", text)
    text = re.sub(r"(?<![\w.])\d+(?:\.\d+)?[eE][+-]?\d{1,2}(?!\w)", lambda m: f"{Decimal(m[0]):f}", text)
    text = re.sub(
        r"(?<![\\\w$])(\d*\s*pi(?:/\d+)?)(?![\w$])",
        lambda m: f"${m[1].replace('pi', chr(92) + 'pi ')}$",
        text,
    )
    # Scripts without spaces between words: a number ends where they begin.
    return re.sub(r"(?<=[\u3040-\u9fff])(?=[-\d])|(?<=\d)(?=[\u3040-\u9fff])", " ", text)


def untagged(text: str) -> str:
    """What stands in the last answer tag, else the text."""
    tagged = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return tagged[-1].strip() if tagged else text


def reference(text: str) -> str:
    """A reference without its dollars, brackets and unit."""
    text = spelt(text).strip()
    text = untagged(text)
    for opening, closing in (("\\[", "\\]"), ("\\(", "\\)"), ("$$", "$$"), ("$", "$")):
        if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
    unit = UNIT.fullmatch(text)
    return unit[1].strip("$") if unit else text


def last_part(text: str) -> str:
    """What of an answer is compared: its last box or answer tag, else all of it."""
    text = untagged(spelt(text))
    inside = boxed(text)
    if inside:
        return f"\\boxed{{{inside}}}"
    unit = UNIT.fullmatch(text.strip())
    return unit[1] if unit else text


def names_choice(choice: str, text: str) -> bool:
    """Whether the last capital letter that stands alone is this choice."""
    found = re.findall(r"(?<![A-Za-z])([A-J])(?![A-Za-z'])", last_part(text).replace("\\text", " "))
    return bool(found) and found[-1] == choice


def differ(first: list[Any], second: list[Any]) -> bool:
    """Whether two parsed numbers differ beyond rounding; False where either is no number."""
    import sympy

    values = [next((e for e in side if isinstance(e, sympy.Expr)), None) for side in (first, second)]
    if any(v is None or not v.is_number for v in values):
        return False
    a, b = (v.evalf(40) for v in values)  # type: ignore[union-attr]
    # A percentage stays a product with a sign of its own, which math-verify compares in its own way.
    if not (a.is_Number and b.is_Number):
        return False
    # Infinities have no difference.
    if not (a.is_finite and b.is_finite):
        return bool(a != b)
    return bool(abs(a - b) > sympy.Float(str(RELATIVE)) * max(abs(a), abs(b)))
