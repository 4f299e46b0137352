"""compare.json, compare.md and compare.html of a finished comparison."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kilter.artifacts import read_json, write_text
from kilter.errors import UserError
from kilter.objectives.pages import RESULTS
from kilter.progress import clock
from kilter.release.report import fill, interval
from kilter.release.words import cell, number
from kilter.study import figures
from kilter.study.study import IMPLICIT, Study
from kilter.study.table import table


def write(study: Study, folder: Path) -> Path:
    """Writes all of them and returns the page's path."""
    found = table(study, folder)
    for name, text in (
        ("compare.json", json.dumps(found, indent=1)),
        ("compare.md", markdown(found)),
        ("compare.html", html(study, found)),
    ):
        write_text(folder / name, text)
    write_text(folder / "compare.csv", spreadsheet(found))
    return folder / "compare.html"


def spreadsheet(found: Mapping[str, Any]) -> str:
    """The table with every bound in a column of its own."""
    out = io.StringIO()
    writer = csv.writer(out)
    keys = [column["key"] for column in found["columns"]]
    bounds = [f"{k}_{b}" for k in keys for b in ("value", "ci_low", "ci_high")]
    writer.writerow(
        [
            "method",
            *found["vary"],
            *bounds,
            "difference_by_seed",
            "difference_seeds_ci_low",
            "difference_seeds_ci_high",
            "p_holm",
            "accuracy",
            "seconds",
            "tokens_per_second",
            "peak_memory_gb",
        ]
    )
    for r in found["rows"]:
        cells_ = [r["metrics"].get(k, {}).get(b) for k in keys for b in ("value", "ci_low", "ci_high")]
        rest = [r[k] for k in ("p_holm", "accuracy", "seconds", "tokens_per_second", "peak_memory_gb")]
        seen = r["over_seeds"].get("difference", {"means": [], "ci_low": None, "ci_high": None})
        seeds = [" ".join(map(str, seen["means"])), seen["ci_low"], seen["ci_high"]]
        writer.writerow([r["method"], *r["setting"].values(), *cells_, *seeds, *rest])
    return out.getvalue()


def verdict(found: Mapping[str, Any]) -> tuple[str, str, bool]:
    """(headline, what stands behind it, whether any method is better beyond doubt). Honest about ties."""
    rows = [r for r in found["rows"] if "difference" in r["metrics"]]
    if not rows:
        return (
            "No score to compare by",
            "The data has no gold verifier, no judge and no held-out pairs. "
            "Add judge: {...} to the recipe, or set data.heldout above 0.",
            False,
        )

    # Better or worse is said only of what survives the correction.
    sure = [
        r
        for r in rows
        if r["p_holm"] is not None and r["p_holm"] < 0.05 and r["metrics"]["difference"]["value"] > 0
    ]
    worse = [
        r
        for r in rows
        if r["p_holm"] is not None and r["p_holm"] < 0.05 and r["metrics"]["difference"]["value"] < 0
    ]
    if not sure:
        return (
            "No method beats the start",
            f"At {found['compared_on']} and {len(found['seeds'])} seeds "
            f"no gain survives Holm's correction.{_unjudged(found)}",
            False,
        )

    # The first of a table is not the best as long as others cannot be told apart from it.
    best = max(sure, key=lambda r: r["metrics"]["difference"]["value"])
    m = best["metrics"]["difference"]
    rivals = [r for r in rows if r["setting"] == best["setting"] and r["behind"] is not None]
    tied = [r for r in rivals if r["behind"]["p_holm"] is None or r["behind"]["p_holm"] >= 0.05]
    text = f"{len(sure)} of {len(rows)} beat the start after Holm's correction"
    if doubtful := sum(map(undecided, sure)):
        text += f" ({len(sure) - doubtful} of them over seeds too)"
    text += f", and {len(worse)} {'is' if len(worse) == 1 else 'are'} worse" if worse else ""
    bounds = f" [{m['ci_low']:+.3f}, {m['ci_high']:+.3f}]" if m["ci_low"] is not None else ""
    text += f". {name_of(best)} gained {m['value']:+.3f}{bounds}"
    price = _price(best, found.get("start", {})) + _unjudged(found)
    price += f" {said}" if (said := _doubt(best, found["seeds"])) else ""
    if not rivals:
        return f"{name_of(best)} beats the start", f"{text}.{price}", True
    if not tied:
        return (
            f"{name_of(best)} gained most",
            f"{text}, more than every other method on the same prompts.{price}",
            True,
        )
    word = "all others" if len(tied) == len(rivals) else ", ".join(map(name_of, tied))
    return (
        f"{name_of(best)} leads, not alone",
        f"{text}. Paired on the prompts it cannot be told apart from {word}.{price}",
        True,
    )


BOUGHT = {
    "over_refusal": "safe requests declined",
    "wrong_declines": "claims wrongly declined",
    "wrong_approvals": "claims wrongly approved",
}
"""By metric, what every summary of a method says beside its gain."""

PRICES = {
    "over_refusal": "declines {now} of the safe requests",
    "wrong_declines": "wrongly declines {now} of the claims",
    "wrong_approvals": "wrongly approves {now} of the claims",
    "violation_unsafe": "breaks the rules in {now} of the unsafe requests",
}
"""By metric, what is said where it rose."""


def _price(row: Mapping[str, Any], start: Mapping[str, Any]) -> str:
    """A warning where the gain came with more wrong answers of some kind."""
    said = []
    for metric, words in PRICES.items():
        change, now = row["metrics"].get(f"{metric}_change"), row["metrics"].get(metric)
        before = start.get(metric)
        if change is None or now is None or before is None:
            continue
        if change["ci_low"] is None or change["ci_low"] <= 0:
            continue
        said.append(f"{words.format(now=format(now['value'], '.0%'))} (the start {before['value']:.0%})")
    return f" Beware: it {', '.join(said)}." if said else ""


def disagrees(row: Mapping[str, Any]) -> bool:
    """Whether some seeds gained over the start and others lost."""
    means = row.get("over_seeds", {}).get("difference", {}).get("means", [])
    return bool(means) and min(means) < 0 < max(means)


def undecided(row: Mapping[str, Any]) -> bool:
    """Whether the interval that takes seeds as draws holds 0."""
    low, high = (row.get("over_seeds", {}).get("difference", {}).get(b) for b in ("ci_low", "ci_high"))
    return low is not None and high is not None and low <= 0 <= high


def by_seed(row: Mapping[str, Any]) -> str:
    """The gain of each seed, their interval, and what they leave open; "" without a gain."""
    seen = row.get("over_seeds", {}).get("difference")
    if not seen:
        return ""
    text = ", ".join(f"{mean:+.3f}" for mean in seen["means"])
    if seen["ci_low"] is None:
        return f"{text} (one seed)"
    text += f" [{seen['ci_low']:+.3f}, {seen['ci_high']:+.3f}]"
    words = [w for w, true in (("disagree", disagrees(row)), ("0 is inside", undecided(row))) if true]
    return f"{text} {', '.join(words)}".strip()


def _doubt(row: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """What the seeds of the best method leave open, in a sentence; "" where they leave nothing."""
    seen = row.get("over_seeds", {}).get("difference")
    if not seen:
        return ""
    if seen["ci_low"] is None:
        return "One seed says nothing of another: give several seeds."
    bounds = f"[{seen['ci_low']:+.3f}, {seen['ci_high']:+.3f}]"
    if disagrees(row):
        lost = [str(s) for s, mean in zip(seeds, seen["means"], strict=False) if mean < 0]
        return f"Its seeds disagree: {', '.join(lost)} lost. Over seeds the interval is {bounds}."
    if undecided(row):
        return f"Over seeds the interval is {bounds} and holds 0: another seed may gain nothing."
    return f"Over seeds the interval is {bounds}."


def of_seeds(found: Mapping[str, Any]) -> str:
    """Which methods' seeds disagree in sign, and whose interval holds 0; for the page and the table."""
    rows = [r for r in found["rows"] if r.get("over_seeds", {}).get("difference")]
    if not rows:
        return ""
    if len(found["seeds"]) < 2:
        return "Each method was trained with one seed: nobody knows what another seed would give."
    signs = ", ".join(name_of(r) for r in rows if disagrees(r)) or "none"
    zero = ", ".join(name_of(r) for r in rows if undecided(r)) or "none"
    return (
        "The interval over seeds takes the seeds as draws (Student's t over their means), on these prompts. "
        f"Seeds that disagree in sign: {signs}. Intervals over seeds that hold 0: {zero}."
    )


def _unjudged(found: Mapping[str, Any]) -> str:
    """What a score of the policies' own log-probs leaves open."""
    if found["measure"] != IMPLICIT:
        return ""
    return (
        " The score is the share of held-out pairs whose chosen answer gained more probability than the "
        "rejected one. It says what was learned of the pairs, not how good new answers are: a judge would "
        "score those. Add judge: {data: $pairs}, which trains a reward model, or evaluate: {gold: ...}."
    )


def name_of(row: Mapping[str, Any]) -> str:
    """The method, with its setting where something varies."""
    setting = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in row["setting"].items())
    return f"{row['title']} ({setting})" if setting else str(row["title"])


def html(study: Study, found: Mapping[str, Any]) -> str:
    """The comparison as one self-contained HTML page."""
    rows: Sequence[Mapping[str, Any]] = found["rows"]
    scored = [r for r in rows if "difference" in r["metrics"]]
    plain = not found["vary"]
    headline, subline, better = verdict(found)
    return fill(
        "compare.html.j2",
        table=found,
        methods=len(study.methods),
        headline=headline,
        subline=subline,
        better=better,
        judge=found["judge"],
        columns=_columns(found),
        seen=[],
        by_seed=by_seed,
        of_seeds=of_seeds(found),
        forest=figures.gains(scored) if scored and plain else "",
        scatter=figures.wins_over_kl([r for r in scored if "kl" in r["metrics"]])
        if plain and any("kl" in r["metrics"] for r in scored)
        else "",
        lines=figures.over_settings(scored, found["vary"]) if scored and not plain else "",
        recipe=yaml.safe_dump(json.loads(study.model_dump_json(exclude_defaults=True)), sort_keys=False),
    )


def _columns(found: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Columns that any row has something to say in."""
    return [c for c in found["columns"] if any(c["key"] in r["metrics"] for r in found["rows"])]


def markdown(found: Mapping[str, Any]) -> str:
    """The table for a log or a pull request."""
    keys = [(column["key"], column["title"]) for column in _columns(found)]
    lines = [
        "| method | "
        + " | ".join([*map(cell, found["vary"]), *(t.lower() for _, t in keys)])
        + " | gain by seed | p (Holm) | accuracy | time | peak GB |"
    ]
    lines.append("|---" * (1 + len(found["vary"]) + len(keys) + 5) + "|")

    # Intervals stand where they decide; beside every number they would hide the numbers.
    for r in found["rows"]:
        shown = [
            number(r["metrics"][k]["value"])
            + (
                f" [{interval(r['metrics'][k])}]"
                if k in ("difference", "win_rate") and interval(r["metrics"][k])
                else ""
            )
            if k in r["metrics"]
            else "–"
            for k, _ in keys
        ]
        tail = [
            by_seed(r) or "–",
            number(r["p_holm"]),
            number(None if r["accuracy"] is None else 100 * r["accuracy"]),
            clock(r["seconds"]),
            number(r["peak_memory_gb"]),
        ]
        named = [cell(r["title"]), *map(cell, r["setting"].values())]
        lines.append(f"| {' | '.join([*named, *shown, *tail])} |")
    headline, subline, _ = verdict(found)
    return "\n".join([*lines, "", cell(f"{headline}. {subline}"), "", cell(of_seeds(found)), ""])


def publish(study: Study, folder: Path) -> int:
    """Writes a sentence per method into the package, for their pages and for advice. Returns how many."""
    if any(len(values) > 1 for values in study.vary.values()):
        raise UserError(
            "--publish",
            study.name,
            "varies something, and a method has one sentence",
            "publish a comparison with one value of each",
        )
    found = read_json(folder / "compare.json")
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for r in found["rows"]:
        text = sentence(study.name, found, r)
        if text:
            known.setdefault(r["name"], {})[study.name] = text
    write_text(RESULTS, json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False) + "\n")
    return len(found["rows"])


def sentence(study: str, found: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """What a comparison says of one method, with its price and its doubt; "" where it has no score."""
    m = row["metrics"].get("difference")
    if m is None or m["value"] is None:
        return ""
    setting = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in row["setting"].items())
    text = f"{study}{f' ({setting})' if setting else ''}: score {m['value']:+.3f}"
    text += f" [{m['ci_low']:+.3f}, {m['ci_high']:+.3f}]" if m["ci_low"] is not None else ""
    text += " over the start"
    text += f", KL {row['metrics']['kl']['value']:.1f} nats" if "kl" in row["metrics"] else ""
    twins, first = row["metrics"].get("twin_accuracy"), found.get("start", {}).get("twin_accuracy")
    if twins is not None and first is not None:
        text += f", twin accuracy {first['value']:.0%} to {twins['value']:.0%}"
    for metric, words in BOUGHT.items():
        now, before = row["metrics"].get(metric), found.get("start", {}).get(metric)
        if now is not None and before is not None:
            text += f", {words} {before['value']:.0%} to {now['value']:.0%}"
    text += f", {found['prompts']} prompts, {row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
    text += ", which disagree in sign" if disagrees(row) else ""
    rivals = [r for r in found["rows"] if r["setting"] == row["setting"] and r["behind"] is not None]
    if rivals and all(r["behind"]["p_holm"] is None or r["behind"]["p_holm"] >= 0.05 for r in rivals):
        text += f"; none of the other {len(rivals)} methods could be told apart from the first"
    return text
