"""A learner's ranks as processes: when one hangs all others wait for it, and somebody has to see that."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from kilter.cluster.inline import InlineBackend
from kilter.errors import Interrupted
from kilter.launch.spec import ClusterSpec
from kilter.training.parallel import launch
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


def test_a_run_that_is_asked_to_stop_while_its_ranks_open_their_models_says_that_it_was_stopped(
    tmp_path, monkeypatch
):
    """A rank that hears of it before its first step has nothing to save, and just ends."""
    asks = "import os, signal, sys, time\nif os.environ['RANK'] == '1': os.kill(int(sys.argv[2]), signal.SIGTERM)"
    monkeypatch.setattr(launch, "WORKER", ("-c", f"{asks}\ntime.sleep(60)"))
    spec = SimpleNamespace(cluster=ClusterSpec.model_validate({"learner": {"processes": 2}}))
    trainer = SimpleNamespace(spec=spec, out=tmp_path, name="train", connect=lambda cluster: RealTime())
    with pytest.raises(Interrupted, match=r"Stopped; .*\nTo resume: run the same command again"):
        launch._run_on_cluster(trainer, tmp_path)
