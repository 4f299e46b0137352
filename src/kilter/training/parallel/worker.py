"""What each of several processes runs: python -m kilter.training.parallel.worker FOLDER (see launch.py)."""

from __future__ import annotations

import sys
from pathlib import Path

from kilter.training.parallel.launch import work

if __name__ == "__main__":
    work(Path(sys.argv[1]))
