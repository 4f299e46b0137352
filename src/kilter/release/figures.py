"""The report's figures as inline SVG, drawn by matplotlib: forest plot of metrics, training curves."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from kilter.evaluation.metrics import titles

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
GOOD, BAD, NEUTRAL = "#1a7f4b", "#c0392b", "#52606d"
SERIES = (
    "#2f6fde",
    "#d9822b",
    "#1a7f4b",
    "#8e44ad",
    "#c0392b",
    "#0e9aa7",
    "#7d5a3c",
    "#b83280",
    "#52606d",
    "#9aa61f",
)

STYLE: dict[str, Any] = {
    "text.parse_math": False,  # a name from outside may hold dollars
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Segoe UI", "Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "svg.hashsalt": "kilter",
}

PANELS = 5
"""Training curves side by side: more are too narrow to read."""

MARK: dict[str, Any] = {"markeredgecolor": "white", "linestyle": "none"}
"""A single point that stands out from its curve."""


def svg(figure: Figure, label: str) -> str:
    """The figure as inline SVG that scales with the page; `label` is read aloud."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        lambda found: (
            f'<svg viewBox="{found[1]}" role="img" aria-label="{html.escape(label)}" '
            'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        ),
        svg,
        count=1,
    )
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)


def forest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Paired differences to the baseline with 95 % intervals; the numbers stand at the right.

    A row holds label, text, value, ci_low, ci_high, higher_is_better and reach, or a title alone: a heading.
    reach is the number that fills the width: units differ between metrics, and all share the line at zero.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.4, (0.46 if len(rows) < 10 else 0.32) * len(rows) + 0.7))
        for i, row in enumerate(rows):
            y = len(rows) - 1 - i

            # A heading has no point of its own.
            if "title" in row:
                axis.text(
                    -1.08,
                    y - 0.1,
                    row["title"],
                    va="center",
                    ha="left",
                    color=INK,
                    fontsize=9.5,
                    fontweight="bold",
                )
                continue

            # Units differ between metrics, so each row is drawn in units of its own reach.
            reach = max(row["reach"], 1e-12)
            low, mid, high = (row[k] / reach for k in ("ci_low", "value", "ci_high"))
            colour = NEUTRAL
            if row.get("higher_is_better") is not None and (low > 0 or high < 0):
                colour = GOOD if (low > 0) == row["higher_is_better"] else BAD
            axis.plot([low, high], [y, y], color=colour, linewidth=2.4, solid_capstyle="round")
            axis.plot(
                [mid], [y], "o", color=colour, markersize=7, markeredgecolor="white", markeredgewidth=1.2
            )
            axis.text(1.12, y, row["text"], va="center", ha="left", color=INK, fontsize=9.5)

        # Headings take a place, but no tick.
        axis.axvline(0, color=INK, linewidth=1)
        places = [(i, r["label"]) for i, r in enumerate(reversed(rows)) if "label" in r]
        axis.set_yticks([i for i, _ in places], [label for _, label in places])
        axis.set_xlim(-1.08, 1.08)
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.set_xticks([-0.55, 0, 0.55], ["lower than baseline", "0", "higher than baseline"])
        axis.tick_params(length=0)
        axis.spines[["left", "bottom"]].set_visible(False)
        axis.grid(axis="x", visible=False)
        return svg(figure, "forest plot of differences to the baseline")


def curves(records: Sequence[Mapping[str, Any]], keys: Sequence[tuple[str, str]]) -> str:
    """Small multiples, a panel per metric. The thin line is raw, the thick one smoothed.

    Args:
        records: lines of metrics.jsonl.
        keys: metrics and their titles; the first five that the run has are drawn.
    """
    found = [(key, title) for key, title in keys if any(key in r for r in records)][:PANELS]
    if not found:
        return ""

    # Methods log different numbers: panels keep their size, and what a method lacks stays empty.
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, PANELS, figsize=(2.75 * PANELS, 1.95))
        for axis in axes[len(found) :]:
            axis.axis("off")
        for axis, (key, title) in zip(axes, found, strict=False):
            points = [(r["step"], r[key]) for r in records if key in r]
            xs, ys = [p[0] for p in points], [p[1] for p in points]
            axis.plot(xs, ys, color=SERIES[0], linewidth=0.9, alpha=0.35)
            axis.plot(xs, _smooth(ys), color=SERIES[0], linewidth=1.8)
            axis.set_title(title, fontsize=9.5, loc="left", color=INK)
            axis.tick_params(labelsize=8, length=0)
            axis.margins(x=0.02)
        figure.tight_layout(w_pad=1.0)
        return svg(figure, "training curves")


def proxy_against_gold(
    name: str, entries: Sequence[Mapping[str, Any]], stopped: int | None, kept: int | None
) -> str:
    """Two panels over steps: what training paid for, and what was wanted.

    Each is the change since step 0 on the same held-out prompts, with bands of 95 % intervals.

    Args:
        name: of the stage.
        entries: its gold evaluations (lines of gold.jsonl).
        stopped: step at which the monitors ended it.
        kept: step whose model was kept.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.1))
        for axis, key, title in (
            (axes[0], "proxy", "reward that trains (change)"),
            (axes[1], "gold", f"{titles()['gold'].lower()} (change)"),
        ):
            # The first evaluation is what the others are changes of, so it has no change itself.
            found = [
                (e["step"], e.get(f"{key}_change") or {"value": 0.0, "ci_low": 0.0, "ci_high": 0.0})
                for e in entries
            ]
            xs, ys = [s for s, _ in found], [c["value"] for _, c in found]
            low, high = (
                [c[b] if c[b] is not None else c["value"] for _, c in found] for b in ("ci_low", "ci_high")
            )
            axis.fill_between(xs, low, high, color=SERIES[0], alpha=0.13, linewidth=0)
            axis.plot(xs, ys, color=SERIES[0], linewidth=2, marker="o", markersize=3.5, label=name)

            # Both panels show where a run ended; only the gold curve says what was worth keeping.
            if stopped is not None:
                label = "stopped" if key == "gold" else None
                axis.plot(xs[-1], ys[-1], marker="X", color=BAD, markersize=10, label=label, **MARK)
            if key == "gold" and kept in xs:
                best = ys[xs.index(kept)]
                axis.plot(kept, best, marker="*", color=GOOD, markersize=13, label="kept", **MARK)
            axis.axhline(0, color=INK, linewidth=0.8)
            axis.set_title(title, fontsize=10, loc="left", color=INK)
            axis.set_xlabel("step", fontsize=9)
            axis.tick_params(labelsize=8.5, length=0)
        axes[1].legend(frameon=False, fontsize=8.5, loc="best")
        figure.tight_layout(w_pad=2)
        return svg(figure, "reward and gold score over training")


def _smooth(values: Sequence[float]) -> list[float]:
    """Centred mean over about a tenth of the run."""
    half = max(1, len(values) // 20)
    return [
        sum(values[max(0, i - half) : i + half + 1]) / len(values[max(0, i - half) : i + half + 1])
        for i in range(len(values))
    ]
