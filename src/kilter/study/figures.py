"""The comparison's pictures as inline SVG: gains with intervals, wins over KL, gains over what was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt

from kilter.release.figures import BAD, GOOD, INK, MUTED, NEUTRAL, SERIES, STYLE, svg


def _colour(metric: Mapping[str, Any]) -> str:
    if metric["ci_low"] is None:
        return NEUTRAL
    return GOOD if metric["ci_low"] > 0 else BAD if metric["ci_high"] < 0 else NEUTRAL


def gains(rows: Sequence[Mapping[str, Any]]) -> str:
    """Forest plot on one common scale, best first; a dot per seed."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.4, 0.44 * len(rows) + 0.9))
        for i, row in enumerate(rows):
            y, m = len(rows) - 1 - i, row["metrics"]["difference"]
            colour = _colour(m)
            if m["ci_low"] is not None:
                axis.plot(
                    [m["ci_low"], m["ci_high"]], [y, y], color=colour, linewidth=2.4, solid_capstyle="round"
                )

            # Seeds stand beside the interval, which does not contain their spread.
            seeds = row["over_seeds"]["difference"]["means"]
            axis.plot(
                seeds,
                [y] * len(seeds),
                "o",
                color=colour,
                markersize=3.5,
                alpha=0.55,
            )
            axis.plot(
                [m["value"]],
                [y],
                "o",
                color=colour,
                markersize=8,
                markeredgecolor="white",
                markeredgewidth=1.2,
            )
            text = f"{m['value']:+.3f}" + (
                f"  [{m['ci_low']:+.3f}, {m['ci_high']:+.3f}]" if m["ci_low"] is not None else ""
            )
            axis.text(
                1.02,
                y,
                text,
                va="center",
                ha="left",
                color=INK,
                fontsize=9.5,
                transform=axis.get_yaxis_transform(),
            )
        axis.axvline(0, color=INK, linewidth=1)
        axis.set_yticks(range(len(rows)), [r["title"] for r in reversed(rows)])
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.set_xlabel("difference to the start", fontsize=9)
        axis.tick_params(length=0)
        axis.spines[["left", "bottom"]].set_visible(False)
        axis.grid(axis="y", visible=False)
        return svg(figure, "gain of each method over the start")


def wins_over_kl(rows: Sequence[Mapping[str, Any]]) -> str:
    """Scatter with intervals in both directions. Names stand beside it, each with a line to its point."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.4, 4.2))
        for i, row in enumerate(rows):
            kl, win, colour = row["metrics"]["kl"], row["metrics"]["win_rate"], SERIES[i % len(SERIES)]
            x, y = kl["value"], win["value"]
            if win["ci_low"] is not None:
                axis.plot([x, x], [win["ci_low"], win["ci_high"]], color=colour, linewidth=1.4, alpha=0.45)
            if kl["ci_low"] is not None:
                axis.plot([kl["ci_low"], kl["ci_high"]], [y, y], color=colour, linewidth=1.4, alpha=0.45)
            axis.plot([x], [y], "o", color=colour, markersize=8, markeredgecolor="white")
        axis.axhline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axis.set_xlim(left=min(0.0, *(r["metrics"]["kl"]["ci_low"] or 0.0 for r in rows)))
        axis.set_xlabel(f"KL to the start, {rows[0]['metrics']['kl']['unit']}", fontsize=9)
        axis.set_ylabel("win rate against the start", fontsize=9)
        axis.tick_params(length=0)

        # Names beside the points would cover each other: they stand in a column, at heights of their own.
        to_axes = axis.transData + axis.transAxes.inverted()
        points = [(row["metrics"]["kl"]["value"], row["metrics"]["win_rate"]["value"]) for row in rows]
        heights = _apart(
            [float(to_axes.transform(p)[1]) for p in points],
            [-x for x, _ in points],
            min(0.08, 1 / len(rows)),
        )
        for i, (row, point, height) in enumerate(zip(rows, points, heights, strict=True)):
            line = {
                "arrowstyle": "-",
                "color": SERIES[i % len(SERIES)],
                "linewidth": 0.9,
                "alpha": 0.7,
                "shrinkB": 5,
                "shrinkA": 1,
            }
            axis.annotate(
                row["title"],
                point,
                xytext=(1.03, height),
                textcoords="axes fraction",
                va="center",
                fontsize=9.5,
                color=INK,
                arrowprops=line,
            )
        return svg(figure, "win rate over KL divergence")


def _apart(wanted: Sequence[float], then: Sequence[float], gap: float) -> list[float]:
    """Heights in [0, 1] near the wanted ones, in their order (ties: `then`), at least `gap` apart."""
    order = sorted(range(len(wanted)), key=lambda i: (round(wanted[i], 2), then[i]))
    found = list(wanted)
    for low, i in zip([None, *order], order, strict=False):
        found[i] = max(found[i], gap / 2 if low is None else found[low] + gap)
    top = 1.0 - gap / 2
    for i in reversed(order):
        found[i] = top = min(found[i], top)
        top -= gap
    return found


def over_settings(rows: Sequence[Mapping[str, Any]], vary: Sequence[str]) -> str:
    """Lines of the gain over the first varied field, a panel per value of the others."""
    first, rest = vary[0], vary[1:]
    panels = sorted({tuple(r["setting"][k] for k in rest) for r in rows}, key=str)
    methods = list(dict.fromkeys(r["method"] for r in rows))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(4.3 * len(panels), 3.4), squeeze=False, sharey=True
        )
        for axis, panel in zip(axes[0], panels, strict=True):
            for i, method in enumerate(methods):
                own = [
                    r for r in rows if r["method"] == method and tuple(r["setting"][k] for k in rest) == panel
                ]
                own.sort(key=lambda r: r["setting"][first])
                xs, found = [r["setting"][first] for r in own], [r["metrics"]["difference"] for r in own]

                # Without an interval the band is as thin as the line.
                low, high = (
                    [m[b] if m[b] is not None else m["value"] for m in found] for b in ("ci_low", "ci_high")
                )
                colour = SERIES[i % len(SERIES)]
                axis.fill_between(xs, low, high, color=colour, alpha=0.10, linewidth=0)
                axis.plot(
                    xs,
                    [m["value"] for m in found],
                    color=colour,
                    linewidth=2,
                    marker="o",
                    markersize=4,
                    label=method,
                )
            axis.axhline(0, color=INK, linewidth=0.8)
            title = ", ".join(
                f"{k.rpartition('.')[2].replace('_', ' ')} {v}" for k, v in zip(rest, panel, strict=True)
            )
            axis.set_title(title, fontsize=10, loc="left", color=INK)
            axis.set_xlabel(first.rpartition(".")[2].replace("_", " "), fontsize=9)
            axis.tick_params(labelsize=8.5, length=0)
        axes[0][0].set_ylabel("difference to the start", fontsize=9)
        axes[0][-1].legend(frameon=False, fontsize=8.5, loc="best")
        figure.tight_layout(w_pad=1.5)
        return svg(figure, "gain over what was varied")
