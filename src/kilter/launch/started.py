"""Which Ray of this machine `address: auto` means: the one of `ray start`, and no program's own.

Whoever joins a Ray that a run has started for itself takes its cores, and ends when that run does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from kilter.errors import UserError

NOTE = "ray_current_cluster"
"""File in a Ray's folder in which `ray start` leaves its address. A program that starts a Ray leaves none."""


def address(asked: str) -> str:
    """What Ray is asked to join.

    Args:
        asked: `cluster.address`.

    Returns:
        The same; for "auto" the address that `ray start` has left, where a Ray runs here and the environment
        names none.

    Raises:
        UserError: all that run here are programs' own, or several could be meant.
    """
    if asked != "auto" or os.environ.get("RAY_ADDRESS", "auto") not in ("", "auto"):
        return asked
    running = set(_running())
    begun = sorted({where for where, folder in running if _noted(folder) == where})
    if running and not begun:
        found = ", ".join(sorted({where for where, _ in running}))
        problem = f"finds no Ray of `ray start` here, only what a program runs for itself ({found})"
        fix = "start one with `ray start --head`, use address: local, or name that one as HOST:PORT"
        raise UserError("cluster.address", asked, problem, fix)
    if len(begun) > 1:
        problem = f"leads to several Rays ({', '.join(begun)})"
        raise UserError("cluster.address", asked, problem, "give the address of one of them")
    return begun[0] if begun else asked


def _running() -> Iterator[tuple[str, str]]:
    """Address and folder of every Ray that has a node here."""
    for process in psutil.process_iter(["cmdline"]):
        words: list[str] = process.info["cmdline"] or [""]
        if "raylet" in os.path.basename(words[0]):
            given = dict(word.lstrip("-").split("=", 1) for word in words[1:] if "=" in word)
            if {"gcs-address", "temp_dir"} <= given.keys():
                yield given["gcs-address"], given["temp_dir"]


def _noted(folder: str) -> str:
    """The address that `ray start` left in a Ray's folder; "" where there is none."""
    try:
        return (Path(folder) / NOTE).read_text().strip()
    except OSError:
        return ""
