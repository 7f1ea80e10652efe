"""Progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from labrecon.stages import Watcher

__all__ = ["shown"]


class _Bars:
    """A line per solve, with its change and the remaining time."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bars: dict[str, TaskID] = {}
        self.waiting = progress.add_task("starting", total=None, change="")

    def stage(self, name: str) -> None:
        """Name the stage."""
        self.progress.update(self.waiting, description=name)

    def step(self, title: str, record: Mapping[str, float], iterations: int) -> None:
        """Advance the bar of a solve, or of a training."""
        if title not in self.bars:
            self.bars[title] = self.progress.add_task(title, total=iterations, change="")
        told = "change" if "change" in record else "loss"
        done = record.get("iteration", record.get("step", 0.0))
        change = f"{told} {record[told]:.1e}"
        self.progress.update(self.bars[title], completed=done, change=change)


@contextmanager
def shown(*, quiet: bool) -> Iterator[Watcher | None]:
    """Progress bars on standard error while the block runs; none if it is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[change]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars)
