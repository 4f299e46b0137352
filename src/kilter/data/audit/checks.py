"""Checks over preference pairs.

Each returns a Finding: what was measured, at which level, and what to do about it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from datasketch import MinHash, MinHashLSH
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kilter.data.dataset import prompt_key
from kilter.statistics import wilson_bounds
from kilter.types import Group

Level = Literal["ok", "warn", "error"]
PERMUTATIONS, THRESHOLD, SHINGLE, NEAR_LIMIT = 128, 0.8, 5, 20_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: name, level, value in words, what it means, and the ids it concerns (never texts)."""

    check: str
    level: Level
    value: str
    meaning: str
    numbers: dict[str, float] = field(default_factory=dict)
    ids: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The finding as a dict of plain values, for JSON."""
        return asdict(self)


def _text(group: Group) -> str:
    return group.prompt.text or "\n".join(m["content"] for m in group.prompt.messages)


def _id(group: Group, index: int) -> str:
    return group.prompt.id or f"#{index}"


def _norm(text: str) -> str:
    return " ".join(text.split())


def roles(groups: Sequence[Group]) -> Finding:
    """Turns alternate and the prompt ends with a user turn (or a tool result)."""
    bad = []
    for i, g in enumerate(groups):
        names = [m["role"] for m in g.prompt.messages if m["role"] != "system"]
        if names and (
            names[-1] == "assistant" or any(a == b == "user" for a, b in itertools.pairwise(names))
        ):
            bad.append(_id(g, i))
    return Finding(
        "roles",
        "error" if bad else "ok",
        f"{len(bad)} prompts with broken turn order",
        "a chat template would render them wrongly",
        {"count": len(bad)},
        tuple(bad[:50]),
    )


def identical_sides(groups: Sequence[Group]) -> Finding:
    """chosen == rejected after white-space normalisation."""
    bad = [
        _id(g, i)
        for i, g in enumerate(groups)
        if len(g.completions) == 2 and _norm(g.completions[0].text) == _norm(g.completions[1].text)
    ]
    return Finding(
        "identical sides",
        "error" if bad else "ok",
        f"{len(bad)} pairs",
        "their gradient is zero and they dilute the batch",
        {"count": len(bad)},
        tuple(bad[:50]),
    )


def contradictions(groups: Sequence[Group]) -> Finding:
    """The same pair of answers to the same prompt, once in each order."""
    seen: dict[tuple[str, str, str], str] = {}
    bad = []
    for i, g in enumerate(groups):
        if len(g.completions) != 2:
            continue
        a, b = (_norm(c.text) for c in g.completions)
        key = prompt_key(g.prompt)
        if (key, b, a) in seen:
            bad.append(_id(g, i))
        seen[(key, a, b)] = _id(g, i)
    share = len(bad) / max(1, len(groups))
    return Finding(
        "contradictions",
        "warn" if share > 0.01 else "ok",
        f"{len(bad)} pairs ({share:.1%})",
        "the same comparison stands in the data both ways",
        {"share": share},
        tuple(bad[:50]),
    )


def near_duplicates(groups: Sequence[Group], heldout: Sequence[Group]) -> list[Finding]:
    """Near-duplicate prompts within the training split and across the split.

    They are found by MinHash LSH over character 5-grams. Each hit is verified by an exact Jaccard index of at
    least 0.8. Of more than NEAR_LIMIT prompts, a random sample of that size is looked at.
    """
    everything = [(_text(g), False, _id(g, i)) for i, g in enumerate(groups)] + [
        (_text(g), True, _id(g, i)) for i, g in enumerate(heldout)
    ]
    unique: dict[str, tuple[bool, str]] = {}
    for text, held, name in everything:
        unique.setdefault(_norm(text).lower(), (held, name))
    items = list(unique.items())
    note = ""
    if len(items) > NEAR_LIMIT:
        rng = np.random.default_rng(0)
        items = [items[i] for i in sorted(rng.choice(len(items), NEAR_LIMIT, replace=False))]
        note = f" (sample of {NEAR_LIMIT})"
    shingles = [frozenset(t[i : i + SHINGLE] for i in range(max(1, len(t) - SHINGLE + 1))) for t, _ in items]
    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    hashes = MinHash.bulk([[s.encode() for s in sh] for sh in shingles], num_perm=PERMUTATIONS)
    for i, h in enumerate(hashes):
        lsh.insert(i, h)
    within: list[tuple[str, str]] = []
    across: list[tuple[str, str]] = []
    for i, h in enumerate(hashes):
        for j in lsh.query(h):
            if j > i and len(shingles[i] & shingles[j]) / len(shingles[i] | shingles[j]) >= THRESHOLD:
                (across if items[i][1][0] != items[j][1][0] else within).append(
                    (items[i][1][1], items[j][1][1])
                )
    share = len(within) / max(1, len(items))
    leaked = len({b for _, b in across})
    return [
        Finding(
            "near-duplicate prompts",
            "warn" if share > 0.2 else "ok",
            f"{len(within)} pairs among {len(items)} distinct prompts{note}",
            "they count several times; the effective sample is smaller",
            {"pairs": len(within)},
            tuple(a for a, _ in within[:50]),
        ),
        Finding(
            "near-duplicates across the split",
            "warn" if across else "ok",
            f"{leaked} held-out prompts resemble a training prompt{note}",
            "the held-out score measures partly memory; identical prompts are never split",
            {"heldout": leaked},
            tuple(b for _, b in across[:50]),
        ),
    ]


def length_bias(groups: Sequence[Group]) -> list[Finding]:
    """Whether length or markdown alone tells which answer was chosen.

    Measured are P(chosen is longer) with Wilson's interval, and the AUC of a logistic regression on both.
    """
    pairs = [(g.completions[0].text, g.completions[1].text) for g in groups if len(g.completions) == 2]
    unequal = [(a, b) for a, b in pairs if len(a) != len(b)]
    if len(unequal) < 10:
        return []
    longer = sum(len(a) > len(b) for a, b in unequal)
    share, (low, high) = longer / len(unequal), wilson_bounds(longer, len(unequal))
    level: Level = "warn" if share > 0.60 or share < 0.40 else "ok"
    x, y, fold = _differences(
        groups, lambda t: [len(t), t.count("\n"), t.count("**"), t.count("- "), t.count("#")]
    )
    auc = _auc(make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)), x, y, fold)
    return [
        Finding(
            "length bias",
            level,
            f"chosen is longer in {share:.0%} [{low:.0%}, {high:.0%}]",
            "a policy can win by length alone; watch length beside the score",
            {"share": share, "ci_low": low, "ci_high": high},
        ),
        Finding(
            "style probe",
            "warn" if auc > 0.65 else "ok",
            f"AUC {auc:.2f} from length and markdown alone",
            "how much of the preference surface form explains",
            {"auc": auc},
        ),
    ]


def _differences(groups: Sequence[Group], features: Any) -> tuple[Any, Any, Any]:
    """Feature differences with alternating sign, labels, and prompt folds."""
    x, y, fold = [], [], []
    for i, g in enumerate(g for g in groups if len(g.completions) == 2):
        sign = 1 if i % 2 else -1
        d = np.array(features(g.completions[0].text), float) - np.array(
            features(g.completions[1].text), float
        )
        x.append(sign * d)
        y.append(int(sign > 0))
        fold.append(prompt_key(g.prompt))
    return np.array(x), np.array(y), np.array(fold)


def _auc(model: Any, x: Any, y: Any, fold: Any) -> float:
    """Cross-validated AUC with whole prompts per fold."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = cross_val_predict(
            model, x, y, groups=fold, cv=GroupKFold(min(5, len(set(fold)))), method="predict_proba"
        )[:, 1]
    return float(roc_auc_score(y, scores))


def shortcut_probe(groups: Sequence[Group], limit: int = 4000) -> Finding | None:
    """TF-IDF + logistic regression on the RESPONSE alone: chosen against rejected, folds by prompt."""
    pairs = [g for g in groups if len(g.completions) == 2][:limit]
    if len(pairs) < 50:
        return None
    texts = [c.text for g in pairs for c in g.completions]
    labels = np.array([1, 0] * len(pairs))
    fold = np.array([prompt_key(g.prompt) for g in pairs for _ in range(2)])
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=20000), LogisticRegression(max_iter=500)
    )
    auc = _auc(model, np.array(texts, dtype=object), labels, fold)
    return Finding(
        "shortcut probe",
        "warn" if auc > 0.75 else "ok",
        f"AUC {auc:.2f} from the words of the answer alone",
        "above .75 the label can be told without reading the prompt: an artefact, or a style preference",
        {"auc": auc},
    )


def source_confound(groups: Sequence[Group]) -> Finding | None:
    """P(chosen comes from model M), where the data names models."""
    wins: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for g in groups:
        names = [f.source for f in g.feedback]
        if len(names) == 2 and all(names) and names[0] != names[1]:
            wins[names[0]] += 1
            total.update(names)
    if not total:
        return None
    name, n = max(total.items(), key=lambda kv: abs(wins[kv[0]] / kv[1] - 0.5) if kv[1] >= 20 else -1)
    share = wins[name] / n
    return Finding(
        "source confound",
        "warn" if abs(share - 0.5) > 0.3 else "ok",
        f"{name} is chosen in {share:.0%} of {n}",
        "the label may say who wrote it rather than how good it is",
        {"share": share},
    )
