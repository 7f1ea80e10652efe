"""One process at work on a batch: the folder held, the night made ready, signals heard."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labrecon.batch.crew import LocalCrew
from labrecon.batch.lock import FILE as LOCK
from labrecon.batch.lock import locked
from labrecon.batch.manifest import FILE, Manifest
from labrecon.batch.means import Means
from labrecon.batch.night import Night
from labrecon.batch.opening import (
    RECIPE,
    Asked,
    changed_failures,
    find_stale,
    open_batch,
    recover,
)
from labrecon.batch.policy import Spectator
from labrecon.batch.tasks import Crew, Setup
from labrecon.batch.view import Report
from labrecon.errors import OutputError
from labrecon.job import Job
from labrecon.plugins import Host
from labrecon.reading import readers_of

__all__ = ["BatchResult", "CrewMaker", "held", "local_crew", "make_ready", "work"]


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch.

    Attributes:
        output: its folder.
        counts: how many scans are in each state.
        interrupted: whether it was told to stop before all was done.
        failed: names of scans that failed; after a retry, of those that were tried again.
        queued: whether another process goes on with it.
    """

    output: Path
    counts: dict[str, int]
    interrupted: bool
    failed: Sequence[str] = ()
    queued: bool = False


#: Makes the crew, told what each worker is, and where they may write.
CrewMaker = Callable[[Setup, Means, Path], Crew]


def local_crew(setup: Setup, means: Means, out: Path) -> Crew:
    """Processes on this machine."""
    return LocalCrew(setup, means.workers, means.limits, out / "logs")


@contextmanager
def held(out: Path, asked: Asked, new_recipe: bool) -> Iterator[tuple[Manifest, int]]:
    """The batch's manifest, for this process alone, and how many scans the last one left."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; name a folder")
    begun = (out / FILE).exists() or (out / RECIPE).exists()
    if out.exists() and not begun and any(path.name != LOCK for path in out.iterdir()):
        raise OutputError(
            f"{out} exists and holds no batch of labrecon; name another folder, it is left alone"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} can not be made: {error}") from error
    with locked(out):
        lost = 0
        if (out / FILE).exists():
            # By the recipe of then: what is whole is taken for what it is.
            with Manifest(out / FILE) as before:
                lost = recover(before, out)
        with open_batch(out, asked, new_recipe=new_recipe) as manifest:
            yield manifest, lost


def make_ready(
    out: Path,
    manifest: Manifest,
    lost: int,
    setup: Setup,
    means: Means,
    job: Job,
    crew: CrewMaker,
    spectators: Sequence[Spectator],
    host: Host,
) -> Night:
    """The night of a batch, with what the last process left and what is stale told.

    Args:
        out: folder of the batch.
        manifest: held by this process.
        lost: scans that a killed process had in flight.
        setup: what workers are told.
        means: what with.
        job: of the same recipe.
        crew: makes the crew.
        spectators: are told.
        host: plugin host.
    """
    night = Night(
        out,
        manifest,
        lambda: crew(setup, means, out),
        readers_of(job.instrument, host),
        host,
        means.policy,
        spectators,
        Report(out),
    )
    if lost:
        night.say(f"{_count(lost)} left over from a process that was killed: begun again, last")
    if again := changed_failures(manifest):
        for scan in again.values():
            manifest.put_back(scan, attempts=0, alone=0)
        paths = [path.name for path in again]
        night.say(f"{_count(len(again))} failed before and changed since: {_few(paths)}")
    stale = find_stale(manifest)
    if old := stale["recipe"]:
        night.say(
            f"{_count(len(old))} of another recipe, left as done (retry --stale): {_few(old)}"
        )
    if old := stale["input"]:
        night.say(
            f"{_count(len(old))} done of a file that has changed since (retry --stale): {_few(old)}"
        )
    return night


def _count(number: int) -> str:
    return f"{number} scan{'s' if number != 1 else ''}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def work(night: Night) -> BatchResult:
    """Work through the night, until it is done or a signal stops it."""
    with _stopped_by_signals(night):
        try:
            night.work()
        except KeyboardInterrupt:
            night.stopping = True
    counts = night.manifest.counts()
    failed = [row["name"] for row in night.manifest.rows("failed")]
    return BatchResult(night.out, counts, night.stopping and counts["pending"] > 0, failed)


@contextmanager
def _stopped_by_signals(night: Night) -> Iterator[None]:
    """Ctrl-C finishes the scans in flight and stops; the second one gives them up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if night.stopping:
            raise KeyboardInterrupt
        night.stopping = True
        for spectator in night.spectators:
            spectator.say(f"stopping: {night.in_flight} in flight; once more gives them up")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
