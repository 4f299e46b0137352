"""What each of several processes runs: python -m kilter.training.parallel.worker FOLDER LAUNCHER.

LAUNCHER is the process id of the one that started it, see launch.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kilter.feedback.isolation import die_with_parent

if __name__ == "__main__":
    # First of all: a launcher that is killed while its workers still import would leave them behind.
    die_with_parent(int(sys.argv[2]))
    from kilter.training.parallel.launch import work

    work(Path(sys.argv[1]))
