"""Who is told of the progress, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass


__all__ = ["Clock", "Watcher"]


class Watcher(Protocol):
    """Whoever shows progress."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def step(self, title: str, record: Mapping[str, float], iterations: int) -> None:
        """A solve has come to a check."""


@dataclass
class Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    watcher: Watcher | None = None

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage; times of stages with one name add up."""
        if self.watcher is not None:
            self.watcher.stage(stage)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin

    def rounded(self) -> dict[str, float]:
        """The seconds so far, to the microsecond."""
        return {stage: round(seconds, 6) for stage, seconds in self.seconds.items()}
