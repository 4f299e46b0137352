"""A learner's ranks as processes: when one hangs all others wait for it, and somebody has to see that."""

from __future__ import annotations

import time

import pytest

from kilter.cluster.inline import InlineBackend
from kilter.training.parallel.ranks import Group

# Each waits for the other; or computes, and ends.
WAITS = "import threading; threading.Event().wait()"
STOPS = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
COMPUTES = "import time; end = time.monotonic() + 3\nwhile time.monotonic() < end: time.sleep(0.1)"


class RealTime(InlineBackend):
    """Its hosts start processes, which keep real time."""

    def now(self):
        self._now = time.monotonic()
        return self._now


@pytest.mark.parametrize(
    ("first", "second", "lost"), [(WAITS, STOPS, True), (WAITS, COMPUTES, True), (COMPUTES, COMPUTES, False)]
)
def test_ranks_of_which_none_goes_on_are_lost_together(first, second, lost):
    group = Group(RealTime(), 2, 1.5, lambda: False)
    code = f"import os\nexec({{'0': {first!r}, '1': {second!r}}}[os.environ['RANK']])"
    begin = time.monotonic()
    try:
        ended = group.run(["-c", code], {}, 0)
    finally:
        group.close()
    children = [host.held.child for host in group.hosts]
    while not all(child.stdout.closed for child in children):
        time.sleep(0.01)
    if lost:
        assert ended.lost == "no rank made progress for 1.5 s: learner 0, learner 1"
        assert time.monotonic() - begin < 30
        assert all(child.poll() is not None for child in children)
    else:
        assert ended.codes == (0, 0)
        assert not ended.lost
