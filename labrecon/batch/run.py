"""Many scans, unattended: begun, gone on with, tried again."""

from __future__ import annotations

import difflib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from labrecon import plugins
from labrecon.batch.crew import LocalCrew
from labrecon.batch.inventory import find, require_files
from labrecon.batch.lock import FILE as LOCK
from labrecon.batch.lock import is_locked, locked
from labrecon.batch.manifest import FILE, Manifest
from labrecon.batch.night import Night
from labrecon.batch.opening import (
    RECIPE,
    Asked,
    changed_failures,
    find_stale,
    open_batch,
    output_of,
    recover,
)
from labrecon.batch.policy import Policy, Spectator
from labrecon.batch.tasks import Crew, Limits, Setup, model_hash
from labrecon.batch.view import Report
from labrecon.errors import OutputError, RecipeError, ScanError
from labrecon.job import Job, assemble_job
from labrecon.plugins import Host
from labrecon.stages import readers_of

__all__ = ["BatchResult", "Means", "means_of", "processors", "reconstruct_batch", "retry"]


@dataclass(frozen=True)
class Means:
    """What a batch is worked through with.

    Attributes:
        workers: processes on this machine.
        threads: of each; by default the processors are shared out.
        limits: per scan.
        policy: attempts and watching.
    """

    workers: int = 1
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and value < 1:
                raise RecipeError(f"{name} is {value}, expected 1 or more")
        if self.policy.attempts < 1:
            raise RecipeError(f"attempts is {self.policy.attempts}, expected 1 or more")
        for name in ("seconds", "memory"):
            limit = getattr(self.limits, name)
            if limit is not None and limit <= 0:
                raise RecipeError(f"the limit of {name} is {limit}, expected more than 0")
        for name in ("settle", "poll", "idle"):
            seconds = getattr(self.policy, name)
            if seconds is not None and seconds < 0:
                raise RecipeError(f"{name} is {seconds} s, expected 0 or more")

    @property
    def threads_each(self) -> int:
        """Threads of each worker."""
        return self.threads or max(1, processors() // self.workers)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Means:
        """From what `plain` returned."""
        limits, policy = Limits(**told["limits"]), Policy(**told["policy"])
        return cls(told["workers"], told["threads"], limits, policy)


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


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


#: Makes the crew, told what each worker is, and where they may write.
CrewMaker = Callable[[Setup, Means, Path], Crew]


def local_crew(setup: Setup, means: Means, out: Path) -> Crew:
    """Processes on this machine."""
    return LocalCrew(setup, means.workers, means.limits, out / "logs")


def reconstruct_batch(
    instrument: str,
    scans: Sequence[str | Path],
    out: str | Path,
    *,
    recipe: str | Path | Mapping[str, Any] = "recon",
    overrides: Iterable[str] = (),
    model: str | Path | None = None,
    other_geometry: bool = False,
    device: str = "auto",
    means: Means | None = None,
    new_recipe: bool = False,
    crew: CrewMaker = local_crew,
    spectators: Sequence[Spectator] = (),
    host: Host | None = None,
) -> BatchResult:
    """Reconstruct many scans into one folder; the same call goes on after any stop.

    ``out/scans/NAME`` is what `labrecon.recon.reconstruct` writes of a scan, ``out/index.html``
    shows them all. A scan that fails never stops the others, and what is done is neither made
    again nor overwritten.

    Args:
        instrument: a registered name, or ``"module:Class"``: workers look it up for themselves.
        scans: files, or patterns such as ``"scans/**/*.h5"``.
        out: a new folder, or that of a batch to go on with.
        recipe: a TOML file, a name from ``instrument.recipes()``, or values.
        overrides: dotted assignments on top of the recipe.
        model: run folder of `labrecon train`.
        other_geometry: use the model on a geometry that it was not trained for.
        device: a torch device, or ``"auto"``.
        means: workers, limits, attempts, watching.
        new_recipe: go on with a batch that was begun with another recipe.
        crew: who reconstructs.
        spectators: are told of the progress.
        host: plugin host; the process's own by default.

    Raises:
        RecipeError: recipe, name or option, or another recipe than before; exit code 2.
        ModelError: the model is damaged, or was trained for another instrument; 2.
        ScanError: there is no such scan; 3.
        OutputError: ``out`` holds something else, another process works on it, or the disk is
            full; 5.
    """
    out, means = Path(out).absolute(), means or Means()
    host = host or plugins.host()
    patterns = [os.path.abspath(scan) for scan in scans]
    model = None if model is None else str(Path(model).absolute())
    job = assemble_job(
        instrument,
        recipe=recipe,
        overrides=overrides,
        device=device,
        host=host,
        model=model,
        other_geometry=other_geometry,
    )
    values = job.recipe.plain()
    setup = Setup(
        instrument, values, model, other_geometry, device, means.threads_each, model_hash(job)
    )
    asked = Asked(setup, patterns, means.plain())
    require_files(map(str, scans))
    readers = readers_of(job.instrument, host)
    found = find(patterns, readers, without=out)
    if not found and not means.policy.watch:
        raise ScanError(
            f"no file matches {', '.join(map(str, scans))}; quote patterns so that the shell "
            "leaves them alone, and --watch waits for files that are still to come"
        )
    with _held(out, asked, new_recipe) as (manifest, lost):
        night = _night(out, manifest, lost, setup, means, job, crew, spectators, host)
        if not means.policy.watch:
            night.take_in(found)
        return _work(night)


def means_of(
    out: str | Path,
    workers: int | None = None,
    threads: int | None = None,
    seconds: float | None = None,
    memory: float | None = None,
) -> Means:
    """The means of a batch, with others in their place where they are given.

    Raises:
        OutputError: the folder holds no batch.
    """
    with Manifest(Path(out) / FILE, write=False) as manifest:
        kept = Means.read(manifest.facts()["options"])
    limits = Limits(seconds or kept.limits.seconds, memory or kept.limits.memory)
    return replace(
        kept, workers=workers or kept.workers, threads=threads or kept.threads, limits=limits
    )


def retry(
    out: str | Path,
    *,
    failed: bool = False,
    stale: bool = False,
    names: Sequence[str] = (),
    means: Means | None = None,
    crew: CrewMaker = local_crew,
    spectators: Sequence[Spectator] = (),
    host: Host | None = None,
) -> BatchResult:
    """Reconstruct scans of a batch again, by its own recipe, and go on with it.

    What was made of them is moved to ``out/old``. A process that works on the batch takes them, if
    there is one.

    Args:
        out: folder of the batch.
        failed: all that failed.
        stale: all that were made by another recipe, or of a file that has changed since.
        names: these.
        means: workers, limits, attempts; those of the batch by default.
        crew: who reconstructs.
        spectators: are told of the progress.
        host: plugin host; the process's own by default.

    Raises:
        OutputError: the folder holds no batch; 5.
        RecipeError: nothing is asked for, or there is no scan of a name; 2.
    """
    out, host = Path(out).absolute(), host or plugins.host()
    if not (failed or stale or names):
        raise RecipeError("say which scans: --failed, --stale, or their names")
    with Manifest(out / FILE) as manifest:
        facts = manifest.facts()
        if is_locked(out):
            _queue_again(manifest, out, failed, stale, names)
            return BatchResult(out, manifest.counts(), interrupted=False, queued=True)
    setup = Setup(**facts["setup"])
    means = means or Means.read(facts["options"])
    # A watch is a command of its own, and would never come back.
    means = replace(means, policy=replace(means.policy, watch=False))
    job = assemble_job(
        setup.instrument,
        recipe=setup.recipe,
        device=setup.device,
        host=host,
        model=setup.model,
        other_geometry=setup.other_geometry,
    )
    setup = replace(setup, threads=means.threads_each, model_hash=model_hash(job))
    with _held(out, Asked(setup, (), means.plain()), False) as (manifest, lost):
        night = _night(out, manifest, lost, setup, means, job, crew, spectators, host)
        again = _queue_again(manifest, out, failed, stale, names)
        if not again:
            night.say("there is nothing of that kind to try again")
        result = _work(night)
    return replace(result, failed=[name for name in result.failed if name in again])


def _queue_again(
    manifest: Manifest, out: Path, failed: bool, stale: bool, names: Sequence[str]
) -> list[str]:
    """Make scans pending, and put aside what was made of them; which those are."""
    again = []
    # At once: the process that works on the batch begins none of them meanwhile.
    with manifest.together():
        rows = {row["name"]: row for row in manifest.rows()}
        wanted = {_named(name, rows, out) for name in names}
        for name, row in rows.items():
            asked = (
                name in wanted
                or (failed and row["state"] == "failed")
                or (stale and row["state"] == "done" and bool(row["stale"]))
            )
            if asked and row["state"] == "running":
                raise RecipeError(f"{name} is being reconstructed now; retry it afterwards")
            if asked:
                if row["output"]:
                    _put_aside(out, name)
                blank: dict[str, Any] = {"attempts": 0, "alone": 0, "output": None, "told": {}}
                manifest.put_back(row["id"], stale="", **blank)
                again.append(name)
    return again


def _named(name: str, rows: Mapping[str, Any], out: Path) -> str:
    """The scan that a name means: its own, or the end of it where that is clear."""
    if name in rows:
        return name
    ends = [one for one in rows if one.endswith(f"/{name}")]
    if len(ends) == 1:
        return ends[0]
    near = ends or difflib.get_close_matches(name, rows, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise RecipeError(
        f"the batch has no scan {name}{hint} `labrecon status {out} --all` lists them"
    )


def _put_aside(out: Path, name: str) -> None:
    folder = output_of(out, name)
    if not folder.exists():
        return
    kept = (out / "old" / f"{name}-{i}" for i in range(1, 1_000_000))
    target = next(path for path in kept if not path.exists())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
    except OSError as error:
        raise OutputError(f"{folder} can not be moved to {target}: {error}") from error


@contextmanager
def _held(out: Path, asked: Asked, new_recipe: bool) -> Iterator[tuple[Manifest, int]]:
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


def _night(
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


def _work(night: Night) -> BatchResult:
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
