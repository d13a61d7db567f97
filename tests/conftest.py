"""Makes `support`, what several test rooms share, and `benchmarks` importable whatever pytest's import mode."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

# Which route of the head's products is faster is found by timing, and kept in a cache. Tests that compare bits between
# processes have caches of their own: here all take one, and tests/ops tries both.
os.environ.setdefault("DYNAMICS_HEAD_ROUTE", "mm")
