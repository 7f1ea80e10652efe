"""Two computations timed in turn, so that what else the machine does weighs on both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

__all__ = ["in_turn"]


def in_turn(
    ours: Callable[[], object], other: Callable[[], object], rounds: int
) -> tuple[float, float, float]:
    """Medians in ms, and the median of ``other / ours``."""
    ours(), other()
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        pair = []
        for run in (ours, other):
            begin = time.perf_counter()
            run()
            pair.append(1e3 * (time.perf_counter() - begin))
        times.append((pair[0], pair[1]))
    mine, theirs = zip(*times, strict=True)
    ratio = statistics.median(b / a for a, b in times)
    return statistics.median(mine), statistics.median(theirs), ratio
