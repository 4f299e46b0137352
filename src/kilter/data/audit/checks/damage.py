"""Texts that were damaged on their way: wrong encodings, loops, echoes, answers without an end."""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Iterator

from kilter.data.audit.check import Check, Context, families, share_of, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row
from kilter.data.near import plain

BROKEN = re.compile(
    "\ufffd|Ã[\u0080-\u00bf©¨¤¶¼±³¡ª]|â€[\u0090-\u00bf™œ“”˜¦]|Â[\u00a0-\u00bf]"
    "|[\ud800-\udfff]|[\x00-\x08\x0b\x0e-\x1f\x7f]|[\u202a-\u202e\u2066-\u2069]"
)
"""Replacement characters, UTF-8 read as Latin-1, lone surrogates, controls, and overrides of direction."""

HTML = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#\d{2,5});|</?(?:div|span|br|p)\b[^<>]{0,80}>")

ESCAPED = re.compile(r"\\n\\n|\\u[0-9a-fA-F]{4}|(?:\\x[0-9a-fA-F]{2}){2}")
"""Escapes of JSON or Python that stand in the text as they are written."""

LOOPED = 0.12
"""Compressed size of a text over its own, below which it repeats itself."""

LOOKED_AT, LONG, TAIL, ECHO, QUOTED = 4000, 400, 300, 40, 60
"""Characters: of a beginning, of a long answer, of an end, of a prompt, and of words before an echo."""
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
        if any(map(_broken, texts)):
            self.rows["encoding"].append(row.index)
        if any(("&" in t or "<" in t) and HTML.search(t) for t in texts):
            self.rows["markup"].append(row.index)
        if any(map(loops, row.texts)):
            self.rows["loops"].append(row.index)
        asked = plain(_last_turn(row))[:LOOKED_AT]
        if len(asked) >= ECHO and any(t.find(asked, 0, len(asked) + QUOTED) >= 0 for t in row.plain):
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
            "echo": "rows hold an answer that begins with what was asked",
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


def _broken(text: str) -> bool:
    damage = _CONTROLS if text.isascii() else BROKEN
    return damage.search(text) is not None or ("\\" in text and ESCAPED.search(text) is not None)


def _last_turn(row: Row) -> str:
    """What was asked last: an answer echoes it, whatever was said before."""
    turns = [m["content"] for m in row.group.prompt.messages if m["role"] == "user"]
    return turns[-1] if turns else row.prompt


def loops(text: str) -> bool:
    """Whether a text, or the end of it, is little more than one piece again and again."""
    return (len(text) >= LONG and _one_piece(text[:LOOKED_AT])) or (
        len(text) >= TAIL and _one_piece(text[-TAIL:])
    )


def _one_piece(text: str) -> bool:
    data = text.encode("utf-8", "replace")
    return len(zlib.compress(data, 1)) < LOOPED * len(data)
