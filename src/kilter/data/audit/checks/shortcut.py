"""Whether the words of an answer alone, without its prompt, tell that it was chosen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from kilter.data.audit.auc import auc_bounds, grouped_auc
from kilter.data.audit.check import Check, Context, families, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row

LIMIT = 0.75
TOKEN = r"(?u)\b\w\w+\b|[^\w\s]"
"""A word, or a mark such as an emoji: either may stand on one side alone."""

PROBED, FEWEST = 4000, 50
CHARACTERS = 4000
"""Of a longer answer only its beginning is looked at."""


@families.register("shortcut_probe")
class Shortcut(Check):
    """TF-IDF and a logistic regression: chosen against rejected, or good against bad."""

    rules = (
        Rule(
            "shortcut_probe",
            "No shortcut to the label",
            "the label can be told without reading the prompt: an artefact, or a matter of style",
            "find what tells the sides apart (a phrase, a model, a language) and balance it",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sample = context.sample(PROBED)
        self.texts: list[str] = []
        self.labels: list[int] = []
        self.prompts: list[int] = []

    def see(self, row: Row) -> None:
        """Keeps the answers of a sample of the rows."""
        if row.index not in self.sample:
            return
        if row.sides is not None:
            labelled = [(row.sides[0], 1), (row.sides[1], 0)]
        elif len(row.texts) == 1 and (score := row.group.feedback[0].score) is not None:
            labelled = [(row.texts[0], int(score > 0))]
        else:
            return
        for text, label in labelled:
            self.texts.append(text[:CHARACTERS])
            self.labels.append(label)
            self.prompts.append(row.key)

    def findings(self) -> Iterator[Finding]:
        """The area under the curve in folds of whole prompts."""
        positive = sum(self.labels)
        negative = len(self.labels) - positive
        if min(positive, negative) < FEWEST or len(set(self.prompts)) < FEWEST:
            why = f"fewer than {FEWEST} better and {FEWEST} worse answers"
            yield self.unchecked("shortcut_probe", why)
            return
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=20_000, token_pattern=TOKEN)
        try:
            words.fit(self.texts)
        except ValueError:
            yield self.unchecked("shortcut_probe", "no word occurs twice")
            return
        auc = grouped_auc(
            make_pipeline(words, LogisticRegression(max_iter=200)),
            np.array(self.texts, dtype=object),
            np.array(self.labels),
            np.array(self.prompts),
        )
        low, high = auc_bounds(auc, positive, negative)
        value = f"AUC {auc:.2f} [{low:.2f}, {high:.2f}] from the words of the answer alone"
        if len(self.sample) < len(self.context.groups):
            value += f" (a sample of {len(self.sample)} rows)"
        level = warn_if(auc > LIMIT and low > 0.5)
        yield self.found(
            "shortcut_probe", level, value, auc=auc, ci_low=low, ci_high=high, n=len(self.labels)
        )
