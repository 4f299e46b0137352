"""Texts that were damaged on their way: wrong encodings, loops, echoes, answers without an end."""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Iterator

from kilter.data.audit.check import Check, Context, families, share_of, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row

BROKEN = re.compile(
    "\ufffd|Ã[\u0080-\u00bf©¨¤¶¼±³¡ª]|â€[\u0090-\u00bf™œ“”˜¦]|Â[\u00a0-\u00bf]"
    "|[\ud800-\udfff]|[\x00-\x08\x0b\x0e-\x1f\x7f]|[\u202a-\u202e\u2066-\u2069]"
)
"""Replacement characters, UTF-8 read as Latin-1, lone surrogates, controls, and overrides of direction."""

HTML = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#\d{2,5});|</?(?:div|span|br|p)\b[^<>]{0,80}>")

LOOPED = 0.12
"""Compressed size of a text over its own, below which it repeats itself."""

LOOKED_AT, LONG, ECHO = 4000, 400, 40
CUT = re.compile(r"[\w,;(]\Z")


@families.register("encoding")
class Damage(Check):
    """Each flags rows; each warns from one row in a hundred."""

    rules = (
        Rule(
            "encoding",
            "Characters as they were written",
            "the policy learns to write the damage",
            "read the source as UTF-8 again, or drop these rows: kilter data filter --drop encoding",
        ),
        Rule(
            "markup",
            "Text without remains of HTML",
            "the policy learns to write the markup",
            "strip the markup, unless the data is about it",
        ),
        Rule(
            "loops",
            "Answers that do not loop",
            "a preferred answer that repeats itself teaches a loop",
            "leave these rows out: kilter data filter --drop loops",
        ),
        Rule(
            "echo",
            "Answers that do not repeat their prompt",
            "the prompt was probably not taken off the completion",
            "take the prompt off the answers",
        ),
        Rule(
            "cut_off",
            "Better answers that come to an end",
            "a policy that learns answers without an end never stops by itself",
            "sample longer answers, or leave these rows out: kilter data filter --drop cut_off",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rows = {rule.name: array("q") for rule in self.rules}
        self.long = 0

    def see(self, row: Row) -> None:
        """Looks at the texts of a row, the better answer above all."""
        texts = (row.prompt, *row.texts)
        if any(not t.isascii() and BROKEN.search(t) for t in texts) or any(map(_controls, texts)):
            self.rows["encoding"].append(row.index)
        if any(("&" in t or "<" in t) and HTML.search(t) for t in texts):
            self.rows["markup"].append(row.index)
        if any(map(loops, row.texts)):
            self.rows["loops"].append(row.index)
        asked = " ".join(row.prompt.split())[:LOOKED_AT]
        if len(asked) >= ECHO and any(t.startswith(asked) for t in row.plain):
            self.rows["echo"].append(row.index)
        better = row.plain[row.pair[0]] if row.pair else row.plain[0] if row.plain else ""
        if len(better) >= LONG:
            self.long += 1
            if CUT.search(better):
                self.rows["cut_off"].append(row.index)

    def findings(self) -> Iterator[Finding]:
        """One for each rule."""
        n = len(self.context.groups)
        words = {
            "encoding": "rows hold characters of a wrong encoding, controls or overrides",
            "markup": "rows hold remains of HTML",
            "loops": "rows hold an answer that repeats itself",
            "echo": "rows hold an answer that begins with its whole prompt",
        }
        for name, what in words.items():
            yield self._finding(name, n, what, 0.01)
        yield self._finding("cut_off", self.long, "long better answers stop in the middle", 0.1)

    def _finding(self, name: str, n: int, what: str, limit: float) -> Finding:
        rows = self.rows[name]
        share = len(rows) / max(1, n)
        level = warn_if(share > limit)
        return self.found(name, level, f"{share_of(len(rows), n)} {what}", rows, share=share, count=len(rows))


_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def _controls(text: str) -> bool:
    return text.isascii() and _CONTROLS.search(text) is not None


def loops(text: str) -> bool:
    """Whether a long text is little more than one piece of it again and again."""
    if len(text) < LONG:
        return False
    data = text[:LOOKED_AT].encode("utf-8", "replace")
    return len(zlib.compress(data, 1)) < LOOPED * len(data)
