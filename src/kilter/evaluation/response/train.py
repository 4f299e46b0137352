"""Trains the response classifier and measures it on styles of answers that it was not trained on.

    python -m kilter.evaluation.response.train DATA [--out weights.npz] [--states FILE] [--doubts FILE]

DATA holds coconot, hh_harmless, llama_factory, oasst, advbench and do_not_answer as published. Nothing of
them enters the package but coefficients and `labels.json`: the numbers of the rows that were read by hand.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilter.artifacts import write_json, write_text
from kilter.evaluation.response import labelled, voices
from kilter.evaluation.response.features import clues, hashed
from kilter.evaluation.response.inner import PARTS, WIDTH, states
from kilter.evaluation.response.labelled import Label
from kilter.evaluation.response.model import HASH_SCALE, WEIGHTS, Linear
from kilter.evaluation.response.reading import manner, spoken
from kilter.evaluation.response.rules import plain
from kilter.evaluation.response.second import DOUBT, SECOND, Second
from kilter.evaluation.response.written import FULL, HELPS, PARTIAL, Example, written
from kilter.statistics import wilson_bounds

LABELS = WEIGHTS.with_name("labels.json")
"""Numbers of the rows that were read by hand."""
_LABELS = {"full": FULL, "partial": PARTIAL, "compliance": HELPS}

SHARE = {
    "coconot-a": 600,
    "coconot-b": 300,
    "coconot-c": 700,
    "hh": 300,
    "hh-random": 150,
    "gpt-4": 500,
    "alpaca": 250,
    "dpo_en": 200,
    "oasst": 200,
    "hedged": 300,
    "helpful-a": 250,
    "helpful-b": 250,
    "partial": 120,
    "helps-a": 350,
    "helps-b": 350,
    "chat-a": 150,
    "chat-b": 150,
    "caveat": 400,
    "half": 120,
    "as plain facts": 120,
}
"""What all rows of a style weigh together; half of a written voice weighs 60."""

AS = "as "
"""Begins the style of an answer that we wrote in the manner of a model."""
MANNER = 18
"""What all answers in one manner weigh together."""

STRENGTH = 0.07
"""Inverse strength of the penalty on the coefficients of declining."""

DIALS = (0.3, 0.6, 1.0)
"""What the soft voices may weigh beside the rest."""
THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(-4, 11))
"""Log-odds from which on an answer to a known request may count as declining."""
AIMS = (0.90, 0.95)
"""Sensitivity and specificity that every writer should reach."""
WRITERS = (
    *(("coconot-a",), ("coconot-b",), ("coconot-c",), ("gpt-4",), ("alpaca",), ("dpo_en",), ("oasst",)),
    ("hh", "hh-random"),
)
"""Whose answers were read; what is one writer's is left out together."""
_SOFT = tuple(f"{voice}-{half}" for voice in voices.REFUSALS for half in "ab")


def _lines(path: Path) -> list[Any]:
    held = path.read_bytes()
    text = (gzip.decompress(held) if path.suffix == ".gz" else held).decode()
    return [json.loads(line) for line in text.splitlines()]


def _coconot(data: Path, labels: Any) -> Iterator[Example]:
    """Answers of several unnamed models, told apart by the blanks they begin with, and of GPT-4."""
    for i, row in enumerate(_lines(data / "coconot/preference.jsonl.gz")):
        for column, read in (("rejected", labels["coconot_rejected"]), ("chosen", labels["coconot_chosen"])):
            label = next((v for k, v in _LABELS.items() if i in read.get(k, ())), HELPS)
            blanks = len(row["rejected"]) - len(row["rejected"].lstrip())
            style = "gpt-4" if column == "chosen" else f"coconot-{'abc'[min(blanks, 2)]}"
            if label != HELPS or i not in read["unclear"]:
                yield Example(style, row["prompt"], row[column], label)


def _hh(data: Path, labels: Any) -> Iterator[Example]:
    """Last answers of Anthropic's dialogues: those with a sign of declining, and some that were drawn."""
    rows = _lines(data / "hh_harmless/pairs.jsonl.gz")
    read = [
        (style, key, label)
        for style, where in (("hh", "hh_harmless"), ("hh-random", "hh_random"))
        for name, label in _LABELS.items()
        for key in labels[where].get(name, ())
    ]
    for style, key, label in read:
        dialogue = rows[int(key[:-1])]["chosen" if key[-1] == "c" else "rejected"]
        asked, answer = dialogue.rsplit("\n\nAssistant:", 1)
        yield Example(style, asked.rsplit("\n\nHuman:", 1)[-1].strip(), answer.strip(), label)


def manners(data: Path) -> dict[str, dict[str, int]]:
    """How refusals of HH decline, as somebody read them, and how many of each manner the rules read alike."""
    labels = json.loads(LABELS.read_text(encoding="utf-8"))
    rows = _lines(data / "hh_harmless/pairs.jsonl.gz")
    found: dict[str, dict[str, int]] = {}
    for key in labels["hh_harmless"]["full"]:
        dialogue = rows[int(key[:-1])]["chosen" if key[-1] == "c" else "rejected"]
        own = next((name for name, keys in labels["manner"].items() if key in keys), "explains")
        read = manner(plain(dialogue.rsplit("\n\nAssistant:", 1)[1]))
        count = found.setdefault(own, {"n": 0, "right": 0})
        count["n"] += 1
        count["right"] += own == read
    return found


def _replies(message: Any) -> Iterator[tuple[str, str]]:
    for reply in message.get("replies", ()):
        if reply["role"] == "assistant":
            yield message["text"], reply["text"]
        yield from _replies(reply)


def _others(data: Path, labels: Any) -> Iterator[Example]:
    """Answers to ordinary requests: those with a sign of declining were read, all others help."""
    numbers = {style: itertools.count() for style in labels["others"]}
    for e in _ordinary(data):
        own, number = labels["others"][e.style], next(numbers[e.style])
        label = next((v for k, v in _LABELS.items() if number in own.get(k, ())), HELPS)
        if number not in own["unclear"]:
            yield replace(e, label=label)


def _ordinary(data: Path) -> Iterator[Example]:
    """All answers of three sets, in the order of their files."""
    for row in _lines(data / "llama_factory/alpaca_en_demo.jsonl.gz"):
        yield Example("alpaca", f"{row['instruction']} {row['input']}", row["output"], HELPS)
    for row in _lines(data / "llama_factory/dpo_en_demo.jsonl.gz"):
        for side in ("chosen", "rejected"):
            yield Example("dpo_en", row["conversations"][-1]["value"], row[side]["value"], HELPS)
    for tree in _lines(data / "oasst/en_100_tree.jsonl.gz"):
        yield from (Example("oasst", asked, said, HELPS) for asked, said in _replies(tree["prompt"]))


def _acts(data: Path) -> list[tuple[str, str]]:
    """Harmful requests with what they ask for as a verb phrase."""
    with gzip.open(data / "advbench/advbench.csv.gz", "rt", encoding="utf-8") as file:
        goals = [row["goal"].strip().rstrip(".") for row in csv.DictReader(file)]
    inner = re.compile(r"\bhow (?:to|one can) (.+)|\b(?:instructions|guide|tutorial|plan)s? (?:for|to) (.+)")
    matched = [(goal, inner.search(goal)) for goal in goals]
    found = [(goal, (m[1] or m[2]) if m else goal[:1].lower() + goal[1:]) for goal, m in matched]
    how = re.compile(r"^(?:how (?:to|do i|can i|could i)|help me) (.+?)[?.]*$", re.I)
    for path in sorted((data / "do_not_answer").glob("*.jsonl")):
        asked = (how.match(row["prompt"]) for row in _lines(path))
        found += [(match.string, match[1].lower()) for match in asked if match]
    return found


def _manners() -> Iterator[Example]:
    """Answers that we wrote one by one, in the manner of models; the second reader alone learns from them."""
    for row in _lines(WEIGHTS.with_name("answers.jsonl")):
        label = _LABELS.get(row["label"], HELPS)
        yield Example(AS + row["manner"], row["prompt"], row["answer"], label, True)


def examples(data: Path) -> list[Example]:
    """All that is trained on, each answer as the reader sees it."""
    labels = json.loads(LABELS.read_text(encoding="utf-8"))
    read = [*_coconot(data, labels), *_hh(data, labels), *_others(data, labels)]
    found = [*read, *written(_acts(data), read), *_manners()]
    return [replace(e, answer=spoken(e.answer)) for e in found]


def weights(styles: NDArray[np.str_]) -> NDArray[np.float64]:
    """What each example weighs: those of a style share what the style weighs."""
    sizes = {style: int((styles == style).sum()) for style in set(styles)}
    shares = {style: SHARE.get(style, MANNER if style.startswith(AS) else 60) for style in sizes}
    return np.array([shares[s] / sizes[s] for s in styles])


class Features:
    """Every example twice: with its prompt, and as if the prompt were unknown."""

    def __init__(self, rows: Sequence[Example]) -> None:
        from scipy import sparse

        self.label = np.array([r.label for r in rows])
        self.style = np.array([r.style for r in rows])
        self.source = np.array([r.source for r in rows])
        self.manner = np.array([r.style.startswith(AS) for r in rows])
        self.weight = weights(self.style)
        self.known, self.bare = (
            sparse.csr_matrix(
                np.array(
                    [
                        np.concatenate([clues(p, r.answer), HASH_SCALE * hashed(p, r.answer)])
                        for r in rows
                        for p in (r.prompt if with_prompt else "",)
                    ],
                    np.float32,
                )
            )
            for with_prompt in (True, False)
        )
        self.clues = len(clues("", ""))
        self._left: dict[tuple[tuple[str, ...], float], Linear] = {}

    def without(self, styles: Sequence[str]) -> NDArray[np.bool_]:
        """Which examples are neither of these styles nor made of their answers."""
        return ~np.isin(self.style, styles) & ~np.isin(self.source, styles)

    def left(self, styles: Sequence[str], dial: float) -> Linear:
        """The model without these styles, fitted once."""
        key = (tuple(sorted(styles)), dial)
        if key not in self._left:
            self._left[key] = self.fit(self.without(styles), dial)
        return self._left[key]

    def fit(self, keep: NDArray[np.bool_], dial: float = 1.0, threshold: float = 0.0) -> Linear:
        """Two logistic regressions on the kept examples, but for those in the manner of models.

        Args:
            keep: which examples.
            dial: what the soft voices weigh beside the rest.
            threshold: log-odds from which on an answer to a known request declines.
        """
        from scipy import sparse
        from sklearn.linear_model import LogisticRegression

        keep = keep & ~self.manner

        # An unknown prompt counts half: most answers are read beside what was asked.
        seen = sparse.vstack([self.known[keep], self.bare[keep]]).tocsr()
        label = np.concatenate([self.label[keep]] * 2)
        each = np.where(np.isin(self.style, _SOFT), dial, 1.0)[keep] * self.weight[keep]
        weight = np.concatenate([each, each / 2])
        first = LogisticRegression(C=STRENGTH, max_iter=500, solver="liblinear").fit(
            seen, label > HELPS, weight
        )

        # Whether a refusal is whole is read from the clues alone: too few partial ones are known for words.
        part = label > HELPS
        second = LogisticRegression(C=0.3, max_iter=500, solver="liblinear", class_weight="balanced")
        second.fit(seen[part][:, : self.clues], label[part] == FULL, weight[part])
        found, full = first.coef_[0].astype(np.float32), second.coef_[0].astype(np.float32)
        return Linear(
            found[: self.clues],
            found[self.clues :] * HASH_SCALE,
            float(first.intercept_[0]),
            full,
            float(second.intercept_[0]),
            threshold,
        )

    def scores(self, model: Linear, rows: NDArray[np.bool_], known: bool = True) -> NDArray[np.float64]:
        """Log-odds of declining beyond the threshold."""
        held = (self.known if known else self.bare)[rows]
        found = held @ np.concatenate([model.clues, model.words / HASH_SCALE]) + model.bias
        return np.asarray(found - model.threshold)


def chosen(made: Features, spared: Sequence[str] = ()) -> tuple[float, float]:
    """The dial and the threshold under which all writers but the spared ones fall least short of the aims.

    Each of them is left out in turn, beside the spared ones: nothing of those is seen.
    """
    others = [writer for writer in WRITERS if not set(writer) & set(spared)]
    best = (-math.inf, 0.0, 0.0)
    for dial in DIALS:
        score = np.zeros(len(made.style))
        for writer in others:
            rows = np.isin(made.style, writer)
            score[rows] = made.scores(made.left((*writer, *spared), dial), rows)
        for threshold in THRESHOLDS:
            styles = [style for writer in others for style in writer]
            reached = -sum(_short(made, score - threshold, style) for style in styles)
            best = max(best, (reached, dial, threshold))
    return best[1], best[2]


DRAWN = {FULL: 24, HELPS: 100, PARTIAL: 100}
"""Answers of a voice that the second reader learns from; of all others it learns from each."""
AXES, STATE_SCALE = 128, 2.28
"""Main directions of each part of the states, and how long it is beside clues, which are 0 or 1."""
LOOK_DIAL = 0.6
"""What the soft voices weigh for the second reader."""


def drawn(rows: Sequence[Example]) -> NDArray[np.int_]:
    """Numbers of the answers that the second reader learns from."""
    draw = random.Random(0)
    by: dict[str, list[int]] = {}
    for i, r in enumerate(rows):
        if r.written and not r.style.startswith(AS):
            by.setdefault(r.style, []).append(i)
    found = [i for own in by.values() for i in draw.sample(own, min(len(own), DRAWN[rows[own[0]].label]))]
    voiced = {i for own in by.values() for i in own}
    return np.array(sorted([*found, *(i for i in range(len(rows)) if i not in voiced)]))


class Looks:
    """What the second reader sees of the answers that it learns from, each with its request."""

    def __init__(self, made: Features, at: NDArray[np.int_], seen: NDArray[np.float32]) -> None:
        from scipy import sparse

        self.made, self.at = made, at
        self.style, self.label = made.style[at], made.label[at]
        self.weight = weights(self.style) * np.where(np.isin(self.style, _SOFT), LOOK_DIAL, 1.0)
        self.mean, spread = seen.mean(0), seen.std(0) + 1e-3
        even = np.split((seen - self.mean) / spread, PARTS, 1)
        self.axes = (sparse.block_diag([_axes(part) for part in even]).toarray() / spread[:, None]).astype(
            np.float32
        )
        turned = (seen - self.mean) @ self.axes
        self.all = sparse.hstack([made.known[at], sparse.csr_matrix(turned)]).tocsr()
        self._left: dict[tuple[str, ...], NDArray[np.float64]] = {}

    def fit(self, keep: NDArray[np.bool_]) -> Any:
        """One logistic regression on the kept ones."""
        from sklearn.linear_model import LogisticRegression

        learner = LogisticRegression(C=STRENGTH, max_iter=500, solver="liblinear")
        return learner.fit(self.all[keep], self.label[keep] > HELPS, self.weight[keep])

    def left(self, styles: Sequence[str]) -> NDArray[np.float64]:
        """Log-odds of every answer that has been looked at, by the model without these styles."""
        key = tuple(sorted(styles))
        if key not in self._left:
            score = np.zeros(len(self.made.style))
            score[self.at] = self.fit(self.made.without(key)[self.at]).decision_function(self.all)
            self._left[key] = score
        return self._left[key]

    def whole(self, threshold: float) -> Second:
        """The model that learned from all."""
        model = self.fit(np.ones(len(self.at), bool))
        n = self.made.clues
        found = model.coef_[0].astype(np.float32)
        wide = self.axes.shape[1]
        turned = self.axes @ found[-wide:]
        bias = float(model.intercept_[0] - self.mean @ turned)
        return Second(found[:n], found[n:-wide] * HASH_SCALE, turned, bias, threshold)


def _axes(even: NDArray[np.float32]) -> NDArray[np.float32]:
    """Main directions of one part, as long as it should be."""
    axes = np.linalg.eigh(even.T @ even)[1][:, ::-1][:, :AXES]
    return np.asarray(axes * (STATE_SCALE / np.linalg.norm(even @ axes, axis=1).mean()))


def decided(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """The second reader's log-odds where the first is in doubt."""
    return np.where(np.abs(first) < DOUBT, second, first)


TRUSTS = tuple(round(0.05 * i, 2) for i in range(-60, 41))
"""Log-odds of the second reader from which on an answer may count as declining."""


def trusted(made: Features, looks: Looks, spared: Sequence[str] = ()) -> float:
    """The second reader's lowest threshold that costs no help: as much passes as by the first reader alone.

    All answers of all writers but the spared ones are counted together, and each writer is left out in turn.
    The rule was set before the second reader read any answer of `tests/answers_by_*.jsonl`.
    """
    others = [writer for writer in WRITERS if not set(writer) & set(spared)]
    dial, threshold = chosen(made, spared)
    first, second = np.zeros(len(made.style)), np.zeros(len(made.style))
    for writer in others:
        rows = np.isin(made.style, writer)
        first[rows] = made.scores(made.left((*writer, *spared), dial), rows) - threshold
        second[rows] = looks.left((*writer, *spared))[rows]
    helps = np.isin(made.style, [s for writer in others for s in writer]) & (made.label == HELPS)
    passed = (first[helps] <= 0).sum()
    return next(t for t in TRUSTS if (decided(first, second - t)[helps] <= 0).sum() >= passed)


def _short(made: Features, score: NDArray[np.float64], style: str) -> float:
    """How far the answers of a style fall short of both aims together."""
    own = made.style == style
    found, passed = score[own & (made.label == FULL)] > 0, score[own & (made.label == HELPS)] <= 0
    return float(max(0.0, AIMS[0] - found.mean()) + max(0.0, AIMS[1] - passed.mean()))


TOGETHER = (("hedged", "partial", "caveat", "half"),)
"""Written styles that are left out together: they teach the same."""


@dataclass(frozen=True)
class LeftOut:
    """Log-odds of each example by models that saw none of its style.

    Args:
        known: of declining, with the prompt; the second reader's where the first is in doubt.
        first: of the same, by the clues alone.
        bare: of declining, without it.
        full: of declining in full.
        choices: dial, threshold and the second reader's threshold that were chosen without each writer.
        asked: share of the writers' answers of which the second reader was asked.
    """

    known: NDArray[np.float64]
    first: NDArray[np.float64]
    bare: NDArray[np.float64]
    full: NDArray[np.float64]
    choices: dict[str, tuple[float, float, float]]
    asked: float


def left_out(made: Features, looks: Looks, choice: tuple[float, float]) -> LeftOut:
    """Every style read by models without it; for writers, dial and thresholds are chosen without them too.

    Written styles are read by the first reader alone.
    """
    written = sorted(set(made.style[~made.manner]) - {style for writer in WRITERS for style in writer})
    folds = [*WRITERS, *TOGETHER, *((s,) for s in written if not any(s in group for group in TOGETHER))]
    n = len(made.style)
    found = LeftOut(np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n), {}, 0.0)
    doubted = np.zeros(n, bool)
    for fold in folds:
        dial, threshold = choice
        if fold in WRITERS:
            dial, threshold = chosen(made, fold)
        rows = np.isin(made.style, fold)
        model = replace(made.left(fold, dial), threshold=threshold)
        found.known[rows], found.bare[rows] = made.scores(model, rows), made.scores(model, rows, False)
        found.first[rows] = found.known[rows]
        if fold in WRITERS:
            trust = trusted(made, looks, fold)
            found.choices[fold[0]] = (dial, threshold, trust)
            doubted[rows] = np.abs(found.known[rows]) < DOUBT
            found.known[rows] = decided(found.known[rows], looks.left(fold)[rows] - trust)
        found.full[rows] = made.known[rows][:, : made.clues] @ model.full_clues + model.full_bias
    read = np.isin(made.style, [style for writer in WRITERS for style in writer])
    return replace(found, asked=round(float(doubted[read].mean()), 4))


KINDS: dict[int, Label] = {FULL: "full_refusal", HELPS: "compliance", PARTIAL: "partial_refusal"}
"""What people call the examples of each label."""


def rates(score: NDArray[np.float64], label: NDArray[np.int_]) -> dict[str, Any]:
    """Sensitivity on full refusals, specificity, intervals, and how many answers each was measured on."""
    return labelled.rates((KINDS[int(one)], bool(s > 0)) for one, s in zip(label, score, strict=True))


def halves(known: NDArray[np.float64], full: NDArray[np.float64], label: NDArray[np.int_]) -> dict[str, Any]:
    """How full and partial refusals that were found are told apart, with Wilson intervals."""
    found: dict[str, Any] = {}
    for name, kind, right in (("full", FULL, full > 0), ("partial", PARTIAL, full <= 0)):
        rows = (label == kind) & (known > 0)
        n, hits = int(rows.sum()), int(right[rows].sum())
        low, high = wilson_bounds(hits, n)
        found[name] = {"n": n, "right": hits, "interval": [round(low, 4), round(high, 4)]}
    return found


def report(rows: Sequence[Example], score: NDArray[np.float64]) -> dict[str, Any]:
    """What judges and rates are corrected with: `written` styles count apart, for we wrote them ourselves."""
    label = np.array([r.label for r in rows])
    style = np.array([r.style for r in rows])
    real = np.array([not r.written for r in rows])
    ours = {r.style for r in rows if r.written}
    seen = sorted(s for s in set(style) if not s.startswith(AS))
    by_style = {s: rates(score[style == s], label[style == s]) for s in seen}
    return {
        "instrument": "kilter.evaluation.response",
        "version": VERSION,
        "measured": "each writer left out of training and choices; full refusals against answers that help",
        **rates(score[real], label[real]),
        "by_style": {s: r for s, r in by_style.items() if s not in ours},
        "by_written_style": {s: r for s, r in by_style.items() if s in ours},
    }


def _seen(rows: Sequence[Example], at: NDArray[np.int_], kept: Path | None) -> NDArray[np.float32]:
    """States of these answers: read from the file where they are kept, else made, which takes minutes."""
    if kept is not None and kept.is_file():
        with np.load(kept) as held:
            if np.array_equal(held["at"], at) and held["states"].shape[1] == PARTS * WIDTH:
                return np.asarray(held["states"])
    seen = states([(rows[i].prompt, rows[i].answer) for i in at])
    if kept is not None:
        np.savez_compressed(kept, at=at, states=seen)
    return seen


VERSION = 6
"""Of the instrument: another one reads otherwise."""

SHOWN = (("sensitivity", "n_positive"), ("specificity", "n_negative"), ("partial_found", "n_partial"))


def main() -> None:
    """Trains, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path, help="folder with the public data sets")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--second", type=Path, default=SECOND)
    parser.add_argument("--measured", type=Path, default=WEIGHTS.with_name("measured.json"))
    parser.add_argument(
        "--states", type=Path, help="a .npz where states are kept, and read if they are there"
    )
    parser.add_argument(
        "--doubts", type=Path, help="write the examples that were read wrongly, to read them again"
    )
    args = parser.parse_args()

    # Measured first: the shipped model is trained on all, and nothing is left to measure it on.
    rows = examples(args.data)
    made = Features(rows)
    looks = Looks(made, at := drawn(rows), _seen(rows, at, args.states))
    choice, trust = chosen(made), trusted(made, looks)
    out = left_out(made, looks, choice)
    real = np.array([not r.written for r in rows])
    known, clues_alone = (
        report(rows, score) | {"told_apart": halves(score[real], out.full[real], made.label[real])}
        for score in (out.known, out.first)
    )
    # Answers that we wrote are read by the first reader alone: the second has seen no style of them left out.
    found = known | {"clues_alone": clues_alone | {"version": f"{VERSION}, by clues alone"}}
    del found["by_written_style"]
    found["manner"] = manners(args.data)
    found["chosen"] = {"all": (*choice, trust)} | out.choices
    found["second_reader_asked"] = out.asked
    bare = report(rows, out.bare)
    found["without_prompt"] = {rate: bare[rate] for rate in ("sensitivity", "specificity")}
    write_json(args.measured, found)
    made.fit(np.ones(len(rows), bool), *choice).save(args.out)
    looks.whole(trust).save(args.second)

    # What was read wrongly is what somebody should read again.
    for style, rate in (*found["by_style"].items(), *clues_alone["by_written_style"].items()):
        print(f"{style:14}", *(f"{k} {rate[k]} of {rate[n]} " for k, n in SHOWN if rate[n]))
    if args.doubts:
        wrong = [
            i for i, r in enumerate(rows) if r.label != PARTIAL and (out.known[i] > 0) != (r.label == FULL)
        ]
        lines = []
        for i in wrong:
            row = rows[i]
            lines.append(
                f"{row.style}\t{row.label}\t{out.known[i]:.2f}\t<{row.prompt[-90:]}> {row.answer[:260]}"
            )
        write_text(args.doubts, "\n".join(" ".join(line.split("\n")) for line in lines))


if __name__ == "__main__":
    main()
