"""Progress on a terminal and off it, and the one format of a clock."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

import kilter
from kilter import progress

SOURCE = Path(kilter.__file__).parent


@pytest.fixture
def now(monkeypatch):
    """A clock that the test moves."""
    seconds = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, ""),
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (754, "12:34"),
        (3600, "1:00:00"),
        (90061, "25:01:01"),
    ],
)
def test_one_format_of_a_clock(seconds, shown):
    assert progress.clock(seconds) == shown


def test_the_pace_is_that_of_this_process(now):
    pace = progress.Pace(total=100, start=60)
    assert pace.text(60) == ""
    now[0] += 10
    assert pace.left(60) is None
    assert pace.left(70) == pytest.approx(30)
    assert pace.text(70) == "0:30 left"
    assert pace.text(100) == "in 0:10"


def test_a_pace_waits_for_more_than_the_first_answers(now):
    pace = progress.Pace(total=400)
    now[0] += 20
    assert pace.left(2) is None
    assert pace.left(8) == pytest.approx(980)
    now[0] += 40
    assert pace.left(2) == pytest.approx(60 * 199)


def test_a_call_without_an_answer_yet_tells_no_rate(now):
    out = io.StringIO()
    with progress.Display(Console(file=out, width=200), "answers", 8) as display:
        for samples in (0, 2):
            now[0] += 10
            progress.OnDisplay(display, done=4).finished(samples, 7.0)
    assert [line.split("  ")[1] for line in out.getvalue().splitlines()] == ["answers", "answers"]
    assert [line.count("tok/s") for line in out.getvalue().splitlines()] == [0, 1]


def test_off_a_terminal_a_line_every_few_seconds(now):
    out = io.StringIO()
    with progress.Display(Console(file=out, width=200), "dpo", 10) as display:
        for step in range(1, 11):
            now[0] += 2
            display.update(step, "loss 0.5" if step < 10 else "")
    assert out.getvalue().splitlines() == [
        "dpo 1/10  loss 0.5  0:18 left",
        "dpo 4/10  loss 0.5  0:12 left",
        "dpo 7/10  loss 0.5  0:06 left",
        "dpo 10/10  in 0:20",
    ]


def test_on_a_terminal_a_bar(now):
    out = io.StringIO()
    with progress.Display(Console(file=out, force_terminal=True, width=120), "dpo", 4, start=1) as display:
        now[0] += 60
        display.update(2, "loss 0.25")
        display._bar.refresh()
        display.update(4, "loss 0.125")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    for part in ("dpo", "2/4", "loss 0.25", "1:00  2:00 left", "4/4", "in 1:00"):
        assert part in text, part


def test_the_bar_ends_with_its_task_however_that_ends(now):
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(ValueError, match="no"), progress.Display(console, "dpo", 4) as display:
        raise ValueError("no")
    assert display._bar.finished or not display._bar.live.is_started


def test_silence():
    progress.SILENT.update(1, "loss")
    progress.SILENT.close()


def test_nobody_else_draws_bars_or_writes_times_of_their_own():
    bars = re.compile(r"rich\.progress import|TimeRemaining|TimeElapsed|tqdm|/ 60:|// 60|divmod\([^)]*60\)")
    allowed = ("use_tqdm", "tqdm=False")
    found = {
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        if path.name != "progress.py"
        for line in path.read_text().splitlines()
        if bars.search(line) and not any(word in line for word in allowed)
    }
    assert not found
