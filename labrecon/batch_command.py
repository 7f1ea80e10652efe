"""`labrecon recon` of many scans, `labrecon status` and `labrecon retry`."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labrecon.commands import Debug, Json, print_json, print_rows
from labrecon.durations import in_words
from labrecon.errors import ScansFailed
from labrecon.progress import timing

if TYPE_CHECKING:
    from labrecon.batch.policy import Spectator
    from labrecon.batch.session import BatchResult

__all__ = [
    "Dask",
    "MemoryLimit",
    "Slurm",
    "Threads",
    "TimeLimit",
    "Workers",
    "finish",
    "retry",
    "spectating",
    "status",
]

Workers = Annotated[int | None, typer.Option(help="Batch: processes on this machine [1].", min=1)]
Threads = Annotated[
    int | None, typer.Option(help="Batch: threads of each [processors / workers].", min=1)
]
Dask = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Batch: Dask scheduler, or local:N.")
]
Slurm = Annotated[Path | None, typer.Option(metavar="TOML", help="Batch: jobs of a SLURM cluster.")]
TimeLimit = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Batch: of work on a scan.")
]
MemoryLimit = Annotated[float | None, typer.Option(metavar="GIB", help="Batch: of a worker.")]

#: Seconds between two lines of how far a batch is, where there is no terminal.
PAUSE = 60.0
#: States and the colours of their names.
_COLOURS = {
    "done": typer.colors.GREEN,
    "failed": typer.colors.RED,
    "running": typer.colors.BLUE,
    "pending": None,
    "skipped": typer.colors.YELLOW,
}


def status(
    output: Annotated[Path, typer.Argument(help="Folder of the batch.")],
    every: Annotated[bool, typer.Option("--all", help="Show all scans, not only failed.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show how far a batch is, and what failed."""
    from labrecon.batch.view import status as look

    told = look(output)
    if as_json:
        print_json(told)
        return
    counts = ", ".join(_coloured(state, n) for state, n in told["counts"].items() if n)
    typer.echo(f"{output}: {told['state']} · {counts or 'no scans'}")
    for message in told["messages"][-5:]:
        typer.echo(f"  {_local(message)}")
    for stale, what in (("recipe", "of another recipe"), ("input", "of a file that has changed")):
        old = [scan["name"] for scan in told["scans"] if scan["stale"] == stale]
        if old:
            typer.echo(
                f"  {len(old)} done {what}; `labrecon retry {output} --stale` makes them anew"
            )
    shown = [s for s in told["scans"] if every or s["state"] in ("failed", "skipped", "running")]
    rows: list[tuple[str, ...]] = [(s["name"], s["state"], _detail(s)) for s in shown]
    if rows:
        print_rows(rows)
    if flagged := [s for s in told["scans"] if s["flags"]]:
        typer.echo("unlike the others of the batch:")
        print_rows([(s["name"], "; ".join(s["flags"])) for s in flagged])
    typer.echo(f"report  {output / 'index.html'}")


def _local(message: str) -> str:
    """A message with its time as the clock on the wall shows it."""
    at, separator, text = message.partition(": ")
    try:
        when = datetime.datetime.fromisoformat(at).astimezone()
    except ValueError:
        return message
    return f"{when:%Y-%m-%d %H:%M:%S}{separator}{text}"


def _coloured(state: str, count: int) -> str:
    return f"{count} {typer.style(state, fg=_COLOURS[state])}"


def _detail(scan: Mapping[str, Any]) -> str:
    if scan["state"] == "running":
        return str(scan["stage"]) or "waits for its turn"
    if scan["state"] == "done":
        numbers = [f"{k} {v:.3g}" for k, v in scan["numbers"].items() if isinstance(v, float)]
        old = {"recipe": ["of another recipe"], "input": ["its file has changed"]}
        return ", ".join([*old.get(scan["stale"], []), f"{scan['seconds']:.3g} s", *numbers[:3]])
    if not scan["reason"]:
        return ""
    return f"{scan['kind']}: {scan['reason']}".partition("\n")[0]


def retry(
    output: Annotated[Path, typer.Argument(help="Folder of the batch.")],
    names: Annotated[
        list[str] | None, typer.Argument(help="Scans, as `labrecon status --all` calls them.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="All of another recipe, or whose file has changed.")
    ] = False,
    workers: Workers = None,
    threads: Threads = None,
    dask: Dask = None,
    slurm: Slurm = None,
    time_limit: TimeLimit = None,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Reconstruct scans of a batch again; what was made of them is kept in OUTPUT/old.

    By the batch's recipe, with its workers and limits unless others are given.
    """
    from labrecon.batch.cluster import crew_maker
    from labrecon.batch.means import means_of
    from labrecon.batch.retry import retry as carry_out

    means = means_of(output, workers, threads, time_limit, memory_limit)
    with spectating(quiet=as_json) as spectators:
        result = carry_out(
            output,
            failed=failed,
            stale=stale,
            names=names or (),
            means=means,
            crew=crew_maker(dask, slurm),
            spectators=spectators,
        )
    finish(result, as_json=as_json)


def finish(result: BatchResult, *, as_json: bool) -> None:
    """Print what became of a batch, and end with its exit code."""
    from labrecon.batch.view import status as look

    failed = [] if result.queued else result.failed
    alarms = [alarm for group in look(result.output)["drift"] for alarm in group["alarms"]]
    if as_json:
        print_json(
            {
                "output": str(result.output),
                "counts": result.counts,
                "interrupted": result.interrupted,
                "failed": list(failed),
                "queued": result.queued,
                "drift": alarms,
                "report": str(result.output / "index.html"),
            }
        )
    else:
        counts = ", ".join(_coloured(state, n) for state, n in result.counts.items() if n)
        typer.echo(f"{counts or 'no scans'}\nreport  {result.output / 'index.html'}")
        for alarm in alarms:
            typer.secho(alarm["text"], fg=typer.colors.YELLOW)
        if result.queued:
            typer.echo("the process that works on the batch takes them")
        elif result.interrupted:
            typer.echo("interrupted; the same command goes on")
        elif failed:
            typer.echo(
                f"why: `labrecon status {result.output}`; again: `labrecon retry {result.output} "
                "--failed`"
            )
    if result.interrupted:
        raise typer.Exit(130)
    if failed:
        raise typer.Exit(ScansFailed.exit_code)


@contextmanager
def spectating(*, quiet: bool) -> Iterator[Sequence[Spectator]]:
    """A bar on a terminal, a line per scan elsewhere, nothing where it is to be quiet."""
    import sys

    if quiet:
        yield ()
    elif sys.stderr.isatty():
        with _Bar() as bar:
            yield (bar,)
    else:
        yield (_Lines(),)


class _Lines:
    """A line on standard error for each scan, and now and then one of how far it all is."""

    def __init__(self) -> None:
        self._begin = self._told = time.monotonic()
        self._found: int | None = None

    def scan(self, row: Mapping[str, Any]) -> None:
        """A scan is done, failed or skipped."""
        typer.echo(_line(row), err=True)

    def look(self, counts: Mapping[str, int], running: Sequence[str]) -> None:
        """How many are done, and when the rest will be, at the pace so far."""
        over = counts["done"] + counts["failed"] + counts["skipped"]
        self._found = over if self._found is None else self._found
        now, total, made = time.monotonic(), sum(counts.values()), over - self._found
        if now - self._told < PAUSE or not made or over == total:
            return
        self._told = now
        left = in_words((now - self._begin) / made * (total - over))
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        typer.echo(f"{over} of {total}{failed}; about {left} left", err=True)

    def say(self, text: str) -> None:
        """A message."""
        typer.echo(text, err=True)


class _Bar:
    """How many of how many, what failed, and the time that is left."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self.progress = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[failed]}"),
            *timing(),
            console=Console(stderr=True),
            transient=True,
        )
        self.bar = self.progress.add_task("starting", total=None, failed="")

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def scan(self, row: Mapping[str, Any]) -> None:
        """Failures stay above the bar."""
        if row["state"] != "done":
            self.progress.console.print(_line(row), markup=False, highlight=False)

    def look(self, counts: Mapping[str, int], running: Sequence[str]) -> None:
        """Advance."""
        over = counts["done"] + counts["failed"] + counts["skipped"]
        failed = f"{counts['failed']} failed" if counts["failed"] else ""
        self.progress.update(
            self.bar,
            description=", ".join(running[:2]) or "waiting",
            completed=over,
            total=sum(counts.values()),
            failed=failed,
        )

    def say(self, text: str) -> None:
        """A message above the bar."""
        self.progress.console.print(text, markup=False, highlight=False)


def _line(row: Mapping[str, Any]) -> str:
    told = {**row, "numbers": row["told"].get("numbers", {})}
    return f"{row['state']:<7}  {row['name']}  {_detail(told)}"
