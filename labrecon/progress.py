"""Progress on a terminal, and in the file that a cluster keeps of standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from labrecon.durations import in_words

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

    from labrecon.clock import Watcher

__all__ = ["shown", "timing"]

#: Seconds without a word, and from one to the next, where there is no terminal.
SILENCE, PAUSE = 10.0, 30.0


@contextmanager
def shown(*, quiet: bool) -> Iterator[Watcher | None]:
    """Bars on a terminal while the block runs, a line now and then elsewhere; none if quiet."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[change]}"),
        *timing(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars)


def timing() -> tuple[ProgressColumn, ...]:
    """How many of how many, the time it took, and the time that is left as soon as it is known."""
    from rich import progress
    from rich.text import Text

    # Rich's own forgets what is older than half a minute: a training's step may take longer.
    paces: dict[TaskID, _Pace] = {}

    class Count(progress.ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.completed:.0f}/{task.total:.0f}" if task.total else "")

    class Left(progress.ProgressColumn):
        def render(self, task: Any) -> Text:
            pace = paces.setdefault(task.id, _Pace(task.completed, task.elapsed or 0.0))
            left = pace.left(task.completed, task.elapsed or 0.0, task.total or 0.0)
            return Text(f"about {in_words(left)} left" if left else "")

    return Count(), progress.TimeElapsedColumn(), Left()


@dataclass(frozen=True)
class _Pace:
    """How much was done when the first of it was seen, and at which second."""

    first: float
    begin: float

    def left(self, done: float, now: float, total: float) -> float:
        """Seconds to go at the pace since then; 0 where there is none yet, or nothing to do."""
        if not self.first < done < total:
            return 0.0
        return (now - self.begin) / (done - self.first) * (total - done)


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
        done, change = _told(record)
        self.progress.update(self.bars[title], completed=done, change=change)


class _Lines:
    """A line on standard error now and then, once a job has taken longer than a few seconds."""

    def __init__(self) -> None:
        self._told = time.monotonic() - PAUSE + SILENCE
        self._paces: dict[str, _Pace] = {}

    def stage(self, name: str) -> None:
        """Name the stage."""
        self._say(name)

    def step(self, title: str, record: Mapping[str, float], iterations: int) -> None:
        """How far a solve is, and when it will be over at the pace so far."""
        done, change = _told(record)
        now = time.monotonic()
        left = self._paces.setdefault(title, _Pace(done, now)).left(done, now, iterations)
        told = f", at most {in_words(left)} left" if left else ""
        self._say(f"{title}: {done:.0f} of {iterations}, {change}{told}")

    def _say(self, text: str) -> None:
        now = time.monotonic()
        if now - self._told >= PAUSE:
            self._told = now
            typer.echo(text, err=True)


def _told(record: Mapping[str, float]) -> tuple[float, str]:
    name = "change" if "change" in record else "loss"
    return record.get("iteration", record.get("step", 0.0)), f"{name} {record[name]:.1e}"
