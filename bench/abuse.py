"""How well the word list of abuse reads, against a linear model that was trained on the other source.

    python -m bench.abuse DATA

DATA holds davidson and surge_toxicity as published: texts that people labelled hateful, offensive or toxic.
Neither holds answers of assistants. Each source is read by the list, and by a model trained on the other one.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kilter.evaluation.classifiers import abusive
from kilter.evaluation.response.rules import plain, words
from kilter.statistics import wilson_bounds

BUCKETS = 1 << 14
NOISE = re.compile(r"@\w+|https?\S+|&#?\w+;|\brt\b", re.I)
"""Names, addresses and escapes of tweets."""

SOURCES = {
    "davidson": ("davidson/labeled_data.csv.gz", "tweet", lambda row: row["class"] != "2"),
    "surge": ("surge_toxicity/toxicity_en.csv.gz", "text", lambda row: row["is_toxic"].strip() == "Toxic"),
}
"""File, column of the text, and what people called it."""


def read(data: Path, name: str) -> tuple[list[str], Any]:
    """(texts, which of them are abusive)."""
    path, column, label = SOURCES[name]
    with gzip.open(data / path, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row[column] for row in rows], np.array([label(row) for row in rows])


def hashed(texts: Sequence[str]) -> Any:
    """[n, BUCKETS]: which words and pairs of words a text has, of length 1."""
    from scipy import sparse

    values: list[float] = []
    places: list[int] = []
    ends = [0]
    for text in texts:
        said = words(plain(NOISE.sub(" ", text)))
        grams = {*said, *(f"{a} {b}" for a, b in itertools.pairwise(said))}
        own = {zlib.crc32(gram.encode()) % BUCKETS for gram in grams}
        places += own
        values += [len(own) ** -0.5 for _ in own]
        ends.append(len(places))
    return sparse.csr_matrix((values, places, ends), shape=(len(texts), BUCKETS))


def line(name: str, found: Any, label: Any) -> str:
    """Sensitivity and specificity with Wilson's intervals."""
    cells = []
    for right, rows in ((found[label], "abusive"), (~found[~label], "others")):
        hits, n = int(right.sum()), len(right)
        low, high = wilson_bounds(hits, n)
        cells.append(f"{rows} {hits / n:.3f} [{low:.3f}, {high:.3f}] of {n}")
    return f"{name:32} " + "   ".join(cells)


def main() -> None:
    """Prints a line per source and reader."""
    from sklearn.linear_model import LogisticRegression

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with the public data sets")
    data = parser.parse_args().data
    held = {name: read(data, name) for name in SOURCES}
    for name, (texts, label) in held.items():
        print(line(f"{name}, word list", np.array([abusive(text) for text in texts]), label))
    made = {name: hashed(texts) for name, (texts, _) in held.items()}
    for own, other in itertools.permutations(SOURCES):
        model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=300, solver="liblinear")
        model.fit(made[own], held[own][1])
        found = model.decision_function(made[other]) > 0
        print(line(f"{other}, trained on {own}", found, held[other][1]))


if __name__ == "__main__":
    main()
