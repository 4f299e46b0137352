"""Whether the words above a verdict leave it to the judge.

A line such as `Answer B says:` makes a quotation of the next one. Only a line that announces the judge's own
verdict, such as `My verdict:`, may stand there. A line that announces nothing is a reason, unless it is a
sentence that takes back what comes next. Whoever is wronged is asked once more, for the verdict alone.
"""

from __future__ import annotations

import re

ANNOUNCES = re.compile(
    r"(?:[:：,;=\[{–—-]|->|→|\.\.\.|…|\b(?:e\.g|i\.e)\.?|^\W*#+\W.*[^.!?]"
    r"|\b(?:says?|said|writes?|wrote|reads?|repl(?:y|ies)|outputs?|prints?|puts?"
    r"|with|that|like|is|be|to|me))$",
    re.I,
)
"""How a line ends that the next one belongs to: a heading, an unfinished sentence, a colon."""

THEREFORE = "so|thus|hence|therefore|overall|finally|in conclusion|in summary|on balance"
NOUN = (
    "verdict|decision|conclusion|judge?ment|assessment|evaluation|result|grade|rating|score|choice|preference"
    "|answer|line|summary"
)
VERB = "conclude|decide|choose|prefer|pick|find|judge|grade|rate|end"
OWN = re.compile(
    rf"(?:and |here is |here['’]s |this is )?(?:(?:{THEREFORE}) )*"
    r"(?:(?:my|the|our) )?(?:(?:own|final|last|overall|better) )*"
    rf"(?:(?:{THEREFORE}|mine|(?:{NOUN}))(?: is| line| as follows| in the \w+ form(?:at)?)*"
    rf"|I (?:(?:{THEREFORE}) )?(?:would )?(?:{VERB})"
    r"(?: (?:on )?answer \w| to be| better| that| with| as follows)*"
    r"|(?:answer )?[A-Z] (?:is (?:the )?(?:better|best|preferred|right|correct|more \w+)(?: answer| one)?"
    r"|wins)(?: overall)?)",
    re.I,
)
"""The last clause of a line that announces the judge's own verdict."""
IMAGINED = re.compile(r"\b(?:if|suppos\w+|assum\w+|were|unless|had)\b", re.I)
"""What makes an example of it."""

TAKES_BACK = re.compile(
    r"^\W*(?:please )?(?:(?:ignore|disregard|skip|discard|do not|don['’]t|never)\b"
    r"(?=.*\b(?:this|that|it|next|follow\w*|below|line|verdict)\b)|what follows\b"
    r"|the (?:following|next|last|coming)(?: line| verdict| text| words?| sentence| one)?"
    r" (?:is|was|are|were)\b"
    r"|the (?:line|verdict|text) (?:below|that follows)\b)",
    re.I,
)
"""How a sentence about what comes next begins."""
LEAVES = re.compile(r"\b(?:is|are) (?:my|our)\b", re.I)

PAIRS = tuple(
    (re.compile(opens, re.I | re.M), re.compile(closes, re.I | re.M))
    for opens, closes in (
        (r"\[quote\b[^\]\n]*\]", r"\[/quote\]"),
        (r"\\begin\{", r"\\end\{"),
        (r"^[ \t]*#\+begin_", r"^[ \t]*#\+end_"),
        (r"/\*", r"\*/"),
        (r"\(", r"\)"),
        # A quotation of several paragraphs. After a digit the sign is an inch.
        (r"(?:^|\w[:,]?[ \t])\"(?=\w)", r"(?<=\S)\""),
    )
)
"""What opens and closes a quotation in other notations than those that are left out; or an aside."""
LONGEST = 500
"""Characters of a line that are read, from its end."""
ALIKE = re.compile(r"'''|\"\"\"")


def own(above: str) -> bool:
    """Whether a verdict below these words is the judge's own."""
    if len(ALIKE.findall(above)) % 2 or any(_open(above, *pair) for pair in PAIRS):
        return False
    # A rule between the two is no word.
    lines = (words for words in reversed(above.splitlines()) if re.search(r"\w", words))
    line = next(lines, "").strip(" \t>*_")[-LONGEST:]
    sentence = re.split(r"[.!?] +(?=\W*[A-Z])", line)[-1]
    if ANNOUNCES.search(line) is None:
        return TAKES_BACK.search(sentence) is None or LEAVES.search(sentence) is not None
    # Reasons may stand before it: `Based on the above, my verdict is:`
    before, _, clause = sentence.strip(" \t#:：,;*_-–—").rpartition(", ")
    return IMAGINED.search(before) is None and OWN.fullmatch(clause) is not None


def _open(text: str, opens: re.Pattern[str], closes: re.Pattern[str]) -> bool:
    """Whether the last one that is opened is not closed."""
    begun = list(opens.finditer(text))
    return bool(begun) and closes.search(text, begun[-1].end()) is None
