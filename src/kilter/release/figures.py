"""The report's figures as inline SVG, drawn by matplotlib: training curves and gold scores."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
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

PANELS = 6
"""Training curves of a stage: more would hide those that matter."""

EVENTS = {"stop": BAD, "warn": "#d9822b"}
"""Colours of events by level."""

THEME = {
    INK: "var(--ink,#1f2933)",
    MUTED: "var(--muted,#7b8794)",
    GRID: "var(--line,#e4e7eb)",
    GOOD: "var(--good,#1a7f4b)",
    BAD: "var(--bad,#c0392b)",
    NEUTRAL: "var(--neutral,#52606d)",
    "#2f6fde": "var(--series,#2f6fde)",
    "#d9822b": "var(--series2,#d9822b)",
    "#ffffff": "var(--card,#fff)",
}
"""Colours of the page in place of those that were drawn: it may be light or dark, or paper."""

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
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", svg)  # several figures stand on a page
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: THEME.get(found[0], found[0]), svg)


def curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    keys: Sequence[tuple[str, str]],
    events: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """A figure per metric. The thin line is raw, the thick one smoothed; events stand on both.

    Args:
        runs: lines of metrics.jsonl, by run.
        keys: metrics and their titles; the first six that any run has are drawn.
        events: what the monitors saw, with step, level and number; each is a line across the curve.
    """
    found = [(k, title) for k, title in keys if any(k in r for rows in runs.values() for r in rows)]
    return [_curve(runs, key, title, events) for key, title in found[:PANELS]]


def _curve(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    key: str,
    title: str,
    events: Sequence[Mapping[str, Any]],
) -> str:
    """One panel. Steps of a long run are drawn in means, so that a page of many runs stays small."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(2.9, 2.0))
        for colour, (name, rows) in zip(SERIES, runs.items(), strict=False):
            points = _thinned([(r["step"], r[key]) for r in rows if r.get(key) is not None])
            xs, ys = [p[0] for p in points], [p[1] for p in points]
            axis.plot(xs, ys, color=colour, linewidth=0.9, alpha=0.35)
            axis.plot(xs, _smooth(ys), color=colour, linewidth=1.8, label=name)

        # An event is found again in the table by its number.
        for event in events:
            colour = EVENTS.get(event["level"], MUTED)
            axis.axvline(event["step"], color=colour, linewidth=1, linestyle="--")
            place = axis.get_xaxis_transform()
            axis.text(event["step"], 1.0, str(event["number"]), color=colour, fontsize=8, transform=place)
        if len(runs) > 1:
            axis.legend(frameon=False, fontsize=8, loc="best")
        axis.set_title(title, fontsize=9.5, loc="left", color=INK, pad=10 if events else 6)
        axis.tick_params(labelsize=8, length=0)
        axis.margins(x=0.02)
        seen = f", with {len(events)} events of the monitors" if events else ""
        return svg(figure, f"{title} over training steps{seen}")


def _thinned(points: Sequence[tuple[float, float]], most: int = 300) -> Sequence[tuple[float, float]]:
    """At most so many points: means of neighbours."""
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], fmean(p[1] for p in part)) for part in parts]


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
