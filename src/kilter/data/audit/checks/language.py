"""In which scripts and languages the rows are, and whether answers keep to the language of their prompt."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator

from kilter.data.audit import extras
from kilter.data.audit.check import Check, Context, families, share_of, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row

BLOCKS = (
    *((0x41, "Latin"), (0x370, "Greek"), (0x400, "Cyrillic"), (0x530, "Armenian"), (0x590, "Hebrew")),
    *((0x600, "Arabic"), (0x900, "Devanagari"), (0x980, "other Indic"), (0xE00, "Thai"), (0xE80, "other")),
    *((0x10A0, "Georgian"), (0x1100, "Hangul"), (0x1200, "other"), (0x1E00, "Latin"), (0x2000, "other")),
    *((0x3040, "Japanese"), (0x3100, "Han"), (0xA000, "other"), (0xAC00, "Hangul"), (0xD7B0, "other")),
    *((0xF900, "Han"), (0xFB00, "other"), (0xFF21, "Latin"), (0xFF66, "Japanese"), (0xFFA0, "other")),
    *((0x20000, "Han"), (0x30000, "other")),
)
"""Where the letters of a script begin."""

STARTS = [start for start, _ in BLOCKS]
LOOKED_AT = 400
"""Characters of a text that say what it is written in."""

FEWEST = 20
"""Letters from which a text says what it is written in."""


def script(text: str) -> str | None:
    """The script of most of its letters; None of a text with few letters."""
    begin = text[:LOOKED_AT]
    if begin.isascii():
        return "Latin" if sum(map(str.isalpha, begin)) >= FEWEST else None
    letters = [c for c in begin if c.isalpha()]
    if len(letters) < FEWEST // 2:
        return None
    counts = Counter(BLOCKS[bisect_right(STARTS, ord(c)) - 1][1] for c in letters)
    # Japanese is written with Han characters too.
    if counts["Japanese"]:
        counts["Japanese"] += counts.pop("Han", 0)
    return counts.most_common(1)[0][0]


@families.register("language")
class Language(Check):
    """Scripts of all rows; languages where a person asks for them."""

    rules = (
        Rule(
            "language",
            "Languages",
            "a few rows in another language are learned badly, and pull at the others",
            "keep one language per data set, or weigh each: kilter data filter --drop language",
        ),
        Rule(
            "language_match",
            "Answers in the language of their prompt",
            "the policy learns to switch languages",
            "leave these rows out, unless they are translations: kilter data filter --drop language_match",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.tell: Callable[[str], str | None] | None = (
            extras.language() if "language" in context.look_for else None
        )
        self.scripts: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.at: dict[str, array[int]] = {}
        self.unlike = array("q")

    def see(self, row: Row) -> None:
        """The prompt against each of its answers; without a prompt, the first answer says what it is."""
        asked, said = script(row.prompt), [script(text) for text in row.texts]
        found = asked or next(iter(said), None)
        if found is not None:
            self.scripts[found] += 1
        if self.tell is not None:
            asked = self._language(row.prompt, asked)
            said = [self._language(text, written) for text, written in zip(row.texts, said, strict=True)]
            found = asked or next(iter(said), None)
            if found is not None:
                self.languages[found] += 1
        if found is not None:
            self.at.setdefault(found, array("q")).append(row.index)
        if asked is not None and any(one is not None and one != asked for one in said):
            self.unlike.append(row.index)

    def _language(self, text: str, written: str | None) -> str | None:
        """Its language, of a text long enough to tell."""
        return None if self.tell is None or written is None else self.tell(text[:LOOKED_AT])

    def findings(self) -> Iterator[Finding]:
        """The rows outside the main language, and those that switch."""
        counts = self.languages or self.scripts
        n = sum(counts.values())
        what = "language" if self.languages else "script"
        if not n:
            yield from (self.unchecked(r.name, "no text is long enough to tell") for r in self.rules)
            return
        main, most = counts.most_common(1)[0]
        rest = [i for name, rows in self.at.items() if name != main for i in rows]
        share = 1 - most / n
        value = f"{what} {main} in {most / n:.1%} of {n} rows"
        if self.tell is None:
            value += "; languages of one script: not checked, nobody asked (--look-for language)"
        table = [(name, str(count), f"{count / n:.1%}") for name, count in counts.most_common(20)]
        level = warn_if(share > 0.005)
        yield self.found("language", level, value, rest, (what, "rows", "share"), table, share=share)
        value = f"{share_of(len(self.unlike), n)} rows have an answer in another {what} than their prompt"
        share = len(self.unlike) / n
        level = warn_if(share > 0.01)
        yield self.found("language_match", level, value, self.unlike, share=share)
