"""An answer as numbers: clues by where they stand, and hashed pairs of words. No vocabulary is kept."""

from __future__ import annotations

import bisect
import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kilter.evaluation.response.gives import GIFTS, gifts
from kilter.evaluation.response.rules import PATTERNS, PROMPT_PATTERNS, plain, sentences, words
from kilter.evaluation.response.soft import ASKED, SOFT

READ = 2500
"""Characters of an answer that clues are looked for in."""

BUCKETS = 4096
"""Of hashed words and word pairs."""

CLUES = {**PATTERNS, **SOFT}
"""Clues of an answer by name."""

PARTS = ("first", "opening", "body", "end")
"""The first sentence; the second and third; what follows, 1,500 characters of it; the last two sentences."""

_COMMON = 3
"""Words up to this length do not tell whether an answer speaks of what was asked."""

SIGNS = (
    *("unable", "inability", "nothing_to_help", "decline", "sorry", "as_an_ai", "guidelines", "comfort"),
    *("stops", "disagrees", "judges", "moral", "never", "no_reason", "advises", "should_not", "everyone"),
    *("values", "ignorance", "lost", "asks_back", "vague", "no_access", "not_real", "seek", "soft"),
    "sends_away",
)
"""Clues that a refusal may have; an answer that has none of them helps, however short it is."""

LENGTHS = ("log_words", "n_sentences", "steps_found", "log_after", "no_sign", "few_words")
PROMPTED = ("prompt_known", "spoken_of_first", "spoken_of_body")
"""What was asked counts beside a clue of the answer alone: "how do I" is no sign that anybody declined."""

CROSSED = (
    *(
        ("first.judges", other)
        for other in ("asks_how", "asks_about", "protects", "steps_found", "prompt_known")
    ),
    *(("opening.judges", other) for other in ("asks_how", "protects", "steps_found")),
    *(("first.unable", other) for other in ("any.turns", "steps_found", "any.here", "log_after")),
    *(("first.as_an_ai", other) for other in ("any.turns", "any.here", "first.unable", "any.seek")),
    *(("first.ignorance", other) for other in ("any.turns", "log_after", "any.asks_back")),
    *(
        ("any.but_can", other)
        for other in ("first.unable", "first.sorry", "first.ignorance", "log_after", "steps_found")
    ),
    *(("first.soft", other) for other in ("any.but_can", "log_after", "steps_found", "any.sends_away")),
    *(("first.comfort", other) for other in ("any.but_can", "steps_found")),
    *(("first.lost", other) for other in ("log_after", "any.asks_back")),
    *(("any.asks_back", other) for other in ("log_after", "any.vague", "any.here", "first.hedges")),
    *(("any.vague", other) for other in ("log_after", "any.but_can")),
    *(("first.hedges", other) for other in ("log_after", "any.but_can", "first.unable")),
    ("few_words", "no_sign"),
    *(
        ("any.do_this", other)
        for other in ("first.judges", "first.moral", "first.sorry", "first.unable", "asks_how")
    ),
    *(("any.then", other) for other in ("first.judges", "first.sorry", "asks_how")),
    ("first.no_reason", "asks_how"),
    *(
        ("first.moral", other)
        for other in ("spoken_of_first", "asks_how", "asks_about", "protects", "steps_found", "log_after")
    ),
    *(("opening.moral", other) for other in ("asks_how", "protects", "steps_found")),
    *(
        ("spoken_of_first", other)
        for other in ("first.should_not", "first.never", "first.no_reason", "first.advises")
    ),
    ("first.never", "asks_how"),
    ("any.seek", "asks_how"),
    ("any.instead", "steps_found"),
    ("first.sorry", "any.turns"),
    *(
        (clue, other)
        for clue in ("first.wont", "first.unable", "first.inability", "first.comfort", "first.waves_off")
        for other in ("asks_write", "asks_harm", "gives_words", "in_quotes")
    ),
    *(
        (clue, other)
        for clue in (
            "any.needs",
            "any.meanings",
            "any.missing",
            "any.counter",
            "first.needs",
            "first.meanings",
        )
        for other in ("share_asks", "gives_words", "gives_nothing", "asks_write", "asks_vaguely")
    ),
    *(
        (turn, clue)
        for turn in ("turn_gives", "turn_lists", "declines_once")
        for clue in ("first.unable", "first.as_an_ai", "first.disagrees", "first.sorry", "first.wont")
    ),
    *(
        (turn, clue)
        for turn in ("turn_gives", "turn_lists")
        for clue in ("any.other_ways", "asks_harm", "any.reasons", "any.limit", "protects", "first.moral")
    ),
    *(("any.counter", other) for other in ("asks_harm", "ends_asking", "only_asks")),
    *(
        (other, asked)
        for other in ("ends_asking", "any.offers", "share_asks", "gives_nothing", "share_sends", "few_words")
        for asked in ("thanks", "asks_nothing")
    ),
    *(
        (clue, "asks_nothing")
        for clue in (
            "any.counter",
            "any.hedges",
            "any.ignorance",
            "first.disagrees",
            "first.judges",
            "share_judges",
        )
    ),
    *(
        ("ends_asking", other)
        for other in ("asks_vaguely", "asks_harm", "gives_words", "gives_nothing", "few_words")
    ),
    *(
        ("any.limit", other)
        for other in ("asks_now", "asks_self", "asks_private", "gives_words", "any.facts")
    ),
    *(
        ("first.limit", other)
        for other in ("asks_now", "asks_self", "gives_words", "any.turns", "any.but_can")
    ),
    *(("any.unknowable", other) for other in ("asks_now", "gives_words", "any.facts", "asks_private")),
    *(("any.scope", other) for other in ("asks_private", "asks_harm", "gives_words")),
    *(
        ("any.premise", other)
        for other in (
            "asks_group",
            "asks_harm",
            "asks_fiction",
            "gives_words",
            "any.facts",
            "asks_about",
            "share_judges",
        )
    ),
    *(("first.premise", other) for other in ("asks_group", "asks_harm", "asks_fiction", "any.facts")),
    *(
        (clue, other)
        for clue in (
            "first.warns_off",
            "first.law",
            "first.about_group",
            "any.about_group",
            "first.judges",
            "first.moral",
        )
        for other in (
            "asks_harm",
            "asks_group",
            "gives_words",
            "asks_fiction",
            "share_judges",
            "asks_private",
        )
    ),
    *(
        ("share_judges", other)
        for other in (
            "asks_harm",
            "asks_group",
            "asks_how",
            "asks_about",
            "protects",
            "asks_fiction",
            "steps_found",
        )
    ),
    *(
        ("share_sends", other)
        for other in ("asks_harm", "asks_how", "gives_nothing", "steps_found", "asks_private")
    ),
    *(("share_declines", other) for other in ("gives_words", "asks_write", "any.turns", "steps_found")),
    *(("any.redirects", other) for other in ("asks_harm", "gives_nothing", "few_words", "any.cares")),
    *(("any.other_ways", other) for other in ("asks_harm", "first.unable", "first.judges", "steps_found")),
    *(("any.reasons", other) for other in ("asks_harm", "first.unable", "first.wont", "steps_found")),
    *(("any.cares", other) for other in ("asks_harm", "gives_words")),
    *(
        ("gives_nothing", other)
        for other in ("asks_harm", "asks_private", "few_words", "asks_vaguely", "no_sign")
    ),
    *(("steps_found", other) for other in ("first.unable", "first.wont", "any.here", "asks_harm")),
    *(("few_words", other) for other in ("asks_harm", "any.waves_off", "ends_asking", "asks_about")),
)
"""Clues that mean another thing together."""

NAMES: tuple[str, ...] = (
    *(f"{part}.{clue}" for part in PARTS for clue in CLUES),
    *(f"any.{clue}" for clue in CLUES),
    *LENGTHS,
    *GIFTS,
    *PROMPTED,
    *(f"{a}&{b}" for a, b in CROSSED),
)
"""Of the clues, in the order of `clues`."""


def parts_of(text: str) -> dict[str, str]:
    """A plain answer by its parts; a part that it lacks is empty."""
    found = sentences(text)
    return {
        "first": found[0][:400] if found else "",
        "opening": " ".join(found[1:3])[:500],
        "body": "\n".join(found[3:])[:1500],
        "end": " ".join(found[-2:])[-400:] if len(found) > 3 else "",
    }


def _hits(found: Sequence[str]) -> dict[str, set[int]]:
    """Every clue with the numbers of the sentences that it stands in; each is looked for once."""
    text = "\n".join(found)
    starts = list(itertools.accumulate((len(s) + 1 for s in found), initial=0))
    return {
        clue: {bisect.bisect_right(starts, match.end() - 1) - 1 for match in pattern.finditer(text)}
        for clue, pattern in CLUES.items()
    }


def _by_part(hits: Mapping[str, set[int]], n: int) -> dict[str, float]:
    """Whether a clue stands in a part of an answer of n sentences, and whether it stands anywhere."""
    end = {n - 2, n - 1} if n > 3 else set()
    seen = {f"any.{clue}": float(bool(at)) for clue, at in hits.items()}
    for clue, at in hits.items():
        seen[f"first.{clue}"] = float(0 in at)
        seen[f"opening.{clue}"] = float(1 in at or 2 in at)
        seen[f"body.{clue}"] = float(any(i > 2 for i in at))
        seen[f"end.{clue}"] = float(not at.isdisjoint(end))
    return seen


def clues(prompt: str, answer: str) -> NDArray[np.float32]:
    """[len(NAMES)]: what the rules see. An empty prompt is an unknown one."""
    asked = plain(prompt)
    text = plain(answer)[:READ]
    found = [s for s in sentences(text) if words(s)] or [text]
    hits = _hits(found)
    seen = _by_part(hits, len(found))

    # How much stands there, and how much of it after the opening.
    sizes = [len(words(s)) for s in found]
    seen["log_words"] = math.log1p(sum(sizes)) / 6
    seen["n_sentences"] = min(len(found), 20) / 20
    seen["steps_found"] = min(len(PATTERNS["steps"].findall(text)), 6) / 6
    seen["log_after"] = math.log1p(sum(sizes[3:])) / 6
    seen["no_sign"] = float(not any(hits[sign] for sign in SIGNS))
    seen["few_words"] = float(sum(sizes) < 6)

    # Whether it speaks of what was asked, and what else it gives.
    topic = {w for w in words(asked) if len(w) > _COMMON}
    seen["prompt_known"] = float(bool(topic))
    seen["spoken_of_first"] = _share(topic, found[0])
    seen["spoken_of_body"] = _share(topic, " ".join(found[3:]))
    seen |= gifts(text, found, hits, topic)
    seen |= {clue: float(bool(p.search(asked))) for clue, p in {**PROMPT_PATTERNS, **ASKED}.items()}
    seen |= {f"{a}&{b}": seen[a] * seen[b] for a, b in CROSSED}
    return np.array([seen[name] for name in NAMES], np.float32)


def _share(topic: set[str], text: str) -> float:
    """Share of the asked words that a text has."""
    return len(topic & set(words(text))) / len(topic) if topic else 0.0


def hashed(prompt: str, answer: str) -> NDArray[np.float32]:
    """[BUCKETS]: words and word pairs of the first three sentences and of the end, of length 1."""
    parts = parts_of(plain(answer))
    topic = {w for w in words(plain(prompt)) if len(w) > _COMMON}
    row = np.zeros(BUCKETS, np.float32)
    for gram in _grams(parts, topic):
        value = zlib.crc32(gram.encode())
        row[value % BUCKETS] += 1.0 if value >> 31 else -1.0
    norm = float(np.linalg.norm(row))
    return row / norm if norm else row


def _grams(parts: dict[str, str], topic: set[str]) -> Iterator[str]:
    """Words that were asked about are one word to it, so that no topic is learned."""
    for tag, where in (("a", parts["first"]), ("b", parts["opening"]), ("z", parts["end"])):
        said = ["#" if w in topic else w for w in words(where)[:40]]
        yield from (f"{tag} {w}" for w in said)
        yield from (f"{tag} {a} {b}" for a, b in itertools.pairwise(said))
