"""Files that an instrument is writing, and those that it has finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from labrecon.batch.inventory import fingerprint

__all__ = ["StableFiles"]


class StableFiles:
    """Tells files that have not changed for a while from those that are still written.

    Args:
        settle: seconds without a change of size or time after which a file is finished.
        clock: seconds, for tests.
    """

    def __init__(self, settle: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        if settle < 0:
            raise ValueError(f"settle is {settle} s, expected 0 or more")
        self.settle, self._clock = settle, clock
        self._seen: dict[Path, tuple[dict[str, int], float]] = {}

    def finished(self, paths: Iterable[Path]) -> list[Path]:
        """Those that have been as they are for `settle` seconds; paths not given are forgotten."""
        now = self._clock()
        done, seen = [], {}
        for path in paths:
            is_now = fingerprint([path])
            before, since = self._seen.get(path, ({}, now))
            if is_now != before:
                since = now
            if is_now and now - since >= self.settle:
                done.append(path)
            else:
                seen[path] = (is_now, since)
        self._seen = seen
        return done

    def waiting(self) -> int:
        """How many files are looked at."""
        return len(self._seen)
