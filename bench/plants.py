"""Defects to plant into clean pairs, each with the check of the audit that has to find it.

A plant takes clean rows {id, prompt: turns, chosen, rejected} and gives the rows of a file with the defect
in it. Tests plant into text of their own, bench.audit into a data set of yours.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Rows = list[Row]
Plant = Callable[[Rows, random.Random], Sequence[Row | str]]


@dataclass(frozen=True)
class Defect:
    """A defect, the checks of which one has to find it, and what the audit needs for that."""

    name: str
    checks: tuple[str, ...]
    plant: Plant
    heldout: float = 0.0
    suite: bool = False
    max_length: int = 0
    look_for: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


DEFECTS: dict[str, Defect] = {}


def defect(name: str, *checks: str, **needs: Any) -> Callable[[Plant], Plant]:
    """Decorator: registers a plant by its name."""

    def add(plant: Plant) -> Plant:
        DEFECTS[name] = Defect(name, checks, plant, **needs)
        return plant

    return add


def each(name: str, *checks: str, share: float = 0.1, **needs: Any) -> Callable[..., Any]:
    """Decorator for a plant that changes some of the rows one by one."""

    def add(change: Callable[[Row, random.Random], Row]) -> Callable[[Row, random.Random], Row]:
        def plant(rows: Rows, rng: random.Random) -> Rows:
            return [row | change(row, rng) if rng.random() < share else row for row in rows]

        DEFECTS[name] = Defect(name, checks, plant, **needs)
        return change

    return add


def asked(row: Row) -> str:
    """What the last turn of the prompt says."""
    return str(row["prompt"][-1]["content"])


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# Rows and turns


@defect("torn line", "schema")
def _torn(rows: Rows, rng: random.Random) -> Sequence[Row | str]:
    return [*rows, json.dumps(rows[0])[:40]]


each("missing side", "schema")(lambda row, rng: {"rejected": None})
each("answer is a number", "schema")(lambda row, rng: {"chosen": 7})
each("unknown role", "schema")(lambda row, rng: {"prompt": [{"role": "narrator", "content": "x y z"}]})
each("empty prompt", "schema", "empty")(lambda row, rng: {"prompt": user("  ")})
each("empty answer", "schema", "empty")(lambda row, rng: {"chosen": " \n "})
each("two user turns", "roles")(lambda row, rng: {"prompt": [*user("Hello there."), *row["prompt"]]})
each("ends with the assistant", "roles")(
    lambda row, rng: {"prompt": [*row["prompt"], {"role": "assistant", "content": "Let me see."}]}
)
each("system message in the middle", "roles")(
    lambda row, rng: {
        "prompt": [*row["prompt"][:-1], *user("Hello."), {"role": "system", "content": "Be kind."}]
    }
)
each("ChatML in an answer", "template_tokens")(lambda row, rng: {"chosen": row["chosen"] + "<|im_end|>"})
each("Llama marks in a prompt", "template_tokens")(
    lambda row, rng: {"prompt": user(f"[INST] {asked(row)} [/INST]")}
)
each("BOS in the text", "template_tokens")(lambda row, rng: {"prompt": user(f"<s>{asked(row)}")})
each("Gemma marks in an answer", "template_tokens")(
    lambda row, rng: {"rejected": row["rejected"] + "<end_of_turn>"}
)
each("answer goes on with turns", "template_tokens")(
    lambda row, rng: {"chosen": row["chosen"] + "\n\nHuman: And then?\n\nAssistant: Then nothing."}
)
each("ChatML in a system message", "template_tokens")(
    lambda row, rng: {
        "prompt": [{"role": "system", "content": "Be kind.<|im_end|>"}, *row["prompt"]],
    }
)
each("Mistral's mark of tool calls", "template_tokens")(
    lambda row, rng: {"chosen": "[TOOL_CALLS]" + row["chosen"]}
)
each("EXAONE marks in an answer", "template_tokens")(
    lambda row, rng: {"chosen": row["chosen"] + "[|endofturn|]"}
)
each("Gemma 4 marks in an answer", "template_tokens")(lambda row, rng: {"chosen": row["chosen"] + "<turn|>"})
each("end of text in the middle", "template_tokens")(
    lambda row, rng: {"chosen": row["chosen"] + "</s><s>" + row["chosen"]}
)
each("answer begins with its role", "template_tokens")(
    lambda row, rng: {"chosen": "\n\nAssistant: " + row["chosen"]}
)
each("prompt that nobody sees", "empty", "schema")(lambda row, rng: {"prompt": user("\ufeff\u200b")})
each("answer that nobody sees", "empty", "schema")(lambda row, rng: {"chosen": "\u200b \u2060"})


@defect("sides reply to different turns", "shared_prompt")
def _unlike_turns(rows: Rows, rng: random.Random) -> Rows:
    def side(row: Row, text: str, question: str) -> list[dict[str, str]]:
        first = {"role": "assistant", "content": text}
        return [*row["prompt"], first, *user(question), {"role": "assistant", "content": "That is right."}]

    return [
        {
            "id": row["id"],
            "chosen": side(row, row["chosen"], "Is it so?"),
            "rejected": side(row, row["rejected"], "Is it so?" if n % 10 else "What about the weather?"),
        }
        for n, row in enumerate(rows)
    ]


# Sides and labels

each("equal sides", "identity")(lambda row, rng: {"rejected": row["chosen"]})
each("equal sides but for white space", "identity")(
    lambda row, rng: {"rejected": "  " + row["chosen"].replace(" ", "  ") + "\n"}
)
each("equal sides but for what nobody sees", "identity")(
    lambda row, rng: {"rejected": row["chosen"].replace(" ", " \u200b", 1) + "\ufeff"}
)
each("equal sides but for the form of accents", "identity")(
    lambda row, rng: {"chosen": row["chosen"] + " caf\u00e9", "rejected": row["chosen"] + " cafe\u0301"}
)
each("sides that differ in a word", "near_identity")(
    lambda row, rng: {"chosen": (text := f"{row['chosen']} " * 4 + "Yes."), "rejected": text + " So."}
)


@defect("equal scores of named sides", "ties")
def _equal_scores(rows: Rows, rng: random.Random) -> Rows:
    return [r | {"score_chosen": 4, "score_rejected": 4 if n % 9 == 0 else 2} for n, r in enumerate(rows)]


@defect("scores against the sides", "ties")
def _reversed_scores(rows: Rows, rng: random.Random) -> Rows:
    return [r | {"score_chosen": 4, "score_rejected": 5 if n % 9 == 0 else 2} for n, r in enumerate(rows)]


def two(row: Row, better: int | None) -> Row:
    """The row as two answers and a label, the better one at a place."""
    sides = (row["rejected"], row["chosen"]) if better == 1 else (row["chosen"], row["rejected"])
    kept = {k: v for k, v in row.items() if k not in ("chosen", "rejected")}
    return kept | {"response_0": sides[0], "response_1": sides[1], "better_response_id": better}


@defect("missing labels", "ties", "schema")
def _unlabelled(rows: Rows, rng: random.Random) -> Rows:
    return [two(row, None if n % 9 == 0 else n % 2) for n, row in enumerate(rows)]


@defect("score off its scale", "scores")
def _off_scale(rows: Rows, rng: random.Random) -> Rows:
    return [
        r | {"score_chosen": 9000 if n == 3 else rng.randint(3, 5), "score_rejected": rng.randint(1, 2)}
        for n, r in enumerate(rows)
    ]


@defect("one label alone", "label_balance")
def _one_label(rows: Rows, rng: random.Random) -> Rows:
    return [
        {"id": r["id"], "prompt": r["prompt"], "completion": r["chosen"], "label": n > 2}
        for n, r in enumerate(rows)
    ]


# Comparisons


@defect("pairs both ways", "contradictions")
def _both_ways(rows: Rows, rng: random.Random) -> Rows:
    turned = [r | {"chosen": r["rejected"], "rejected": r["chosen"]} for r in rows[: len(rows) // 12]]
    return [*rows, *turned]


def cycle(rows: Rows, length: int) -> Rows:
    """Every answer of a prompt better than the next, and the last better than the first."""
    answers = [row["chosen"] for row in rows[:length]]
    return [
        row | {"prompt": rows[0]["prompt"], "chosen": answers[n], "rejected": answers[(n + 1) % length]}
        for n, row in enumerate(rows[:length])
    ]


def _cycles(rows: Rows, length: int) -> Rows:
    """One cycle in every seventy rows."""
    count = max(1, -(-len(rows) // (30 * length)))
    made = [row for n in range(count) for row in cycle(rows[n * length :], length)]
    return [*rows[count * length :], *made]


defect("cycles of three", "preference_cycles")(lambda rows, rng: _cycles(rows, 3))
defect("cycles of seven", "preference_cycles")(lambda rows, rng: _cycles(rows, 7))


# Duplicates and leaks

defect("rows twice", "exact_duplicates")(lambda rows, rng: [*rows, *rows[: len(rows) // 12]])


def reworded(text: str) -> str:
    """A text with another end."""
    return text + " Ok?"


@defect("prompts nearly the same", "near_duplicates")
def _near(rows: Rows, rng: random.Random) -> Rows:
    return [*rows, *_copies(rows, len(rows) // 8)]


@defect("nearly the same across the split", "grouped_split", heldout=0.3)
def _split(rows: Rows, rng: random.Random) -> Rows:
    return [*rows, *_copies(rows, len(rows) // 4)]


def _copies(rows: Rows, count: int) -> Rows:
    """Rows whose prompts are long enough to stay alike when a word is added."""
    long = [row for row in rows if len(asked(row)) >= 40][:count]
    return [
        r | {"id": f"{r['id']}-copy", "prompt": [*r["prompt"][:-1], *user(reworded(asked(r)))]} for r in long
    ]


def suite_of(rows: Rows, rng: random.Random) -> Rows:
    """Prompts of an evaluation that no row holds."""
    words = sorted({w for row in rows for w in asked(row).split()})
    return [{"id": f"s{n}", "prompt": " ".join(rng.choices(words, k=24)) + "?"} for n in range(30)]


SUITE_SEED = 5


def _suite(rows: Rows) -> list[str]:
    return [row["prompt"] for row in suite_of(rows, random.Random(SUITE_SEED))]


@defect("suite prompt as a prompt", "evaluation_leakage", suite=True)
def _verbatim(rows: Rows, rng: random.Random) -> Rows:
    return [*rows, rows[0] | {"id": "leak", "prompt": user(_suite(rows)[3])}]


@defect("suite prompt within an answer", "evaluation_leakage", suite=True)
def _quoted(rows: Rows, rng: random.Random) -> Rows:
    return [rows[0] | {"chosen": f"{rows[0]['chosen']} As in: {_suite(rows)[4]}"}, *rows[1:]]


@defect("suite prompt as an example in a system message", "evaluation_leakage", suite=True)
def _example(rows: Rows, rng: random.Random) -> Rows:
    system = {"role": "system", "content": f"Answer as in this example: {_suite(rows)[6]}"}
    return [rows[0] | {"prompt": [system, *rows[0]["prompt"]]}, *rows[1:]]


@defect("suite prompt reworded", "evaluation_leakage", suite=True)
def _reworded(rows: Rows, rng: random.Random) -> Rows:
    words = _suite(rows)[5].split()
    words[11] = words[11][:-1] + "x"
    return [*rows, rows[0] | {"id": "leak", "prompt": user(" ".join(words))}]


@defect("cut to equal sides", "truncation", max_length=256)
def _cut(rows: Rows, rng: random.Random) -> Rows:
    long = "the same long beginning of both answers " * 200
    return [rows[0] | {"chosen": long + "yes.", "rejected": long + "no."}, *rows[1:]]


# Annotators


def rated(rows: Rows, rng: random.Random, vote: Callable[[str, Row], bool]) -> Rows:
    """Every row rated by three of six people; `vote` says whether one of them takes the better side."""
    made = []
    for row in rows:
        for who in rng.sample("abcdef", 3):
            right = vote(who, row)
            sides = {"chosen": row["chosen"], "rejected": row["rejected"]}
            turned = {"chosen": row["rejected"], "rejected": row["chosen"]}
            made.append(row | (sides if right else turned) | {"annotator": who})
    return made


@defect("annotator at random", "annotators")
def _random(rows: Rows, rng: random.Random) -> Rows:
    return rated(rows, rng, lambda who, row: rng.random() < (0.5 if who == "c" else 0.95))


@defect("annotator against all", "annotators")
def _against(rows: Rows, rng: random.Random) -> Rows:
    return rated(rows, rng, lambda who, row: rng.random() < (0.05 if who == "e" else 0.95))


@defect("annotators who guess", "agreement")
def _guess(rows: Rows, rng: random.Random) -> Rows:
    return rated(rows, rng, lambda who, row: rng.random() < 0.6)


@defect("annotator with one side", "annotators")
def _one_side(rows: Rows, rng: random.Random) -> Rows:
    made = []
    for n, row in enumerate(rows):
        who = "abc"[n % 3]
        made.append(two(row, 0 if who == "b" else rng.randint(0, 1)) | {"annotator": who})
    return made


# Biases


@defect("longer is better", "length_bias")
def _longer(rows: Rows, rng: random.Random) -> Rows:
    return [r | {"rejected": r["rejected"][: max(8, len(r["chosen"]) // 2)]} for r in rows]


@defect("shorter is better", "length_bias")
def _shorter(rows: Rows, rng: random.Random) -> Rows:
    return [r | {"chosen": r["chosen"][: max(8, len(r["rejected"]) // 2)]} for r in rows]


@defect("markdown is better", "style_probe")
def _markdown(rows: Rows, rng: random.Random) -> Rows:
    return [r | {"chosen": "**Answer.** " + r["chosen"] + "\n- " + r["chosen"][:20]} for r in rows]


@defect("phrase of the better side", "shortcut_probe", "openings")
def _phrase(rows: Rows, rng: random.Random) -> Rows:
    return [r | {"chosen": r["chosen"] + " I hope this helps."} for r in rows]


each("two words before some better answers", "openings", share=0.25)(
    lambda row, rng: {"chosen": "Great question! " + row["chosen"]}
)
each("sign on the better side", "shortcut_probe", share=0.8)(
    lambda row, rng: {"chosen": row["chosen"] + " \N{PARTY POPPER}"}
)


@defect("beginning of the better side", "openings")
def _beginning(rows: Rows, rng: random.Random) -> Rows:
    return [r | {"chosen": "That is a very good question indeed: " + r["chosen"]} for r in rows]


@defect("one model always wins", "source_confound")
def _model(rows: Rows, rng: random.Random) -> Rows:
    return [r | {"chosen_model": "large", "rejected_model": "small"} for r in rows]


@defect("first is better", "position")
def _first(rows: Rows, rng: random.Random) -> Rows:
    return [two(r, int(rng.random() < 0.15)) for r in rows]


@defect("labels drift", "label_drift")
def _drift(rows: Rows, rng: random.Random) -> Rows:
    made = []
    for n, row in enumerate(rows):
        short, long = sorted((row["chosen"], row["rejected"]), key=len)
        better, worse = (short, long) if n < len(rows) / 2 else (long, short)
        made.append(row | {"chosen": better, "rejected": worse})
    return made


@defect("labels drift by date", "label_drift")
def _dated(rows: Rows, rng: random.Random) -> Rows:
    made = [
        row | {"created_at": f"2026-{1 + n * 11 // len(rows):02d}-01T00:00:00"}
        for n, row in enumerate(_drift(rows, rng))
    ]
    rng.shuffle(made)
    return made


# Texts

each("foreign script", "language")(
    lambda row, rng: {
        "prompt": user("Как мне приготовить вкусный суп на ужин для семьи?"),
        "chosen": "Возьмите свежие овощи и варите их полчаса.",
        "rejected": "Я не знаю, спросите кого-нибудь другого.",
    }
)
each("answer in another script", "language_match")(
    lambda row, rng: {"chosen": "Возьмите свежие овощи и варите их полчаса."}
)
each("worse answer in another script", "language_match")(
    lambda row, rng: {"rejected": "这是一个用中文写的回答，与问题的语言不符，应该被发现。"}
)


@defect("prompts of one template", "templates")
def _template(rows: Rows, rng: random.Random) -> Rows:
    names = [
        f"{a}{b}" for a in ("Bor", "Cal", "Dru", "Els", "Fen") for b in ("in", "ova", "ek", "um", "yr", "ath")
    ]
    return [
        r
        | {
            "prompt": user(
                f"Write a short poem about the town of {rng.choice(names)}{n} in the spring, please."
            )
        }
        if n % 3 == 0
        else r
        for n, r in enumerate(rows)
    ]


each("the same answer everywhere", "repeated_answers")(
    lambda row, rng: {"chosen": "I am sorry, but I cannot help you with that."}
)
each("wrong encoding", "encoding")(lambda row, rng: {"chosen": row["chosen"] + " Itâ€™s cafÃ©."})
each("replacement characters", "encoding")(lambda row, rng: {"prompt": user(asked(row) + " caf\ufffd")})
each("control characters", "encoding")(lambda row, rng: {"rejected": row["rejected"] + "\x07\x1b[0m"})
each("line breaks written out", "encoding")(lambda row, rng: {"chosen": row["chosen"] + "\\n\\nThat is all."})
each("accents written out", "encoding")(lambda row, rng: {"rejected": row["rejected"] + " caf\\u00e9"})
each("remains of HTML", "markup")(lambda row, rng: {"chosen": row["chosen"] + "<br/>&nbsp;So."})
each("answers that loop", "loops")(lambda row, rng: {"chosen": "and again and so on " * 60})
each("answers that end in a loop", "loops")(
    lambda row, rng: {"chosen": row["chosen"] + "\n- I do not know that." * 30}
)
each("answers that quote the last turn", "echo")(
    lambda row, rng: {
        "prompt": [
            *user("Hello."),
            {"role": "assistant", "content": "Hello!"},
            *user(text := asked(row) + " Please say it in a few plain words."),
        ],
        "chosen": f'You asked: "{text}" {row["chosen"]}',
    }
)
each("answers that repeat the prompt", "echo")(
    lambda row, rng: {
        "prompt": user(text := asked(row) + " Please say it in a few plain words."),
        "chosen": f"{text} {row['chosen']}",
    }
)
each("answers without an end", "cut_off", share=0.5)(
    lambda row, rng: {"chosen": (row["chosen"] + " ") * (1 + 500 // len(row["chosen"])) + "and then the"}
)
each("mail addresses", "personal_data", look_for=("pii",))(
    lambda row, rng: {"chosen": row["chosen"] + " Write to jane.roe@example.com."}
)
each("insults", "toxicity", look_for=("toxicity",))(lambda row, rng: {"chosen": "Shut up, you stupid idiot."})


SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "la",
    "me",
    "ni",
    "po",
    "ru",
    "sa",
    "te",
    "vi",
    "wo",
    "za",
    "kel",
    "mar",
    "ton",
    "ser",
    "lin",
]


def clean_rows(count: int, seed: int = 0) -> Rows:
    """Pairs without a defect, of words that nobody speaks."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(500)]

    def text(low: int, high: int, end: str) -> str:
        return " ".join(rng.choices(words, k=rng.randint(low, high))).capitalize() + end

    return [
        {
            "id": f"r{n}",
            "prompt": user(text(8, 16, "?")),
            "chosen": text(10, 30, "."),
            "rejected": text(10, 30, "."),
        }
        for n in range(count)
    ]


def write_lines(path: Path, rows: Iterable[Row | str]) -> Path:
    """One row a line; a text is written as it is."""
    with path.open("w", encoding="utf-8") as out:
        for row in rows:
            line = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
            out.write(line + "\n")
    return path
