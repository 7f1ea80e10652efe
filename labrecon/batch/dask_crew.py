"""The workers of a Dask cluster as a crew: one scan at a time on each."""

from __future__ import annotations

import itertools
import queue
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import labrecon
from labrecon.batch import desk
from labrecon.batch.bench import SetupError
from labrecon.batch.manifest import now
from labrecon.batch.tasks import Event, Limits, Setup, Task

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["DaskCrew"]

#: Seconds between looks at which workers there are.
LOOK = 1.0
#: Seconds for which the scheduler may be out of reach.
PATIENCE = 120.0


@dataclass(frozen=True)
class _Flight:
    """A scan and the worker that has it."""

    task: Task
    address: str
    future: Future
    since: float


class DaskCrew:
    """See `labrecon.batch.tasks.Crew`.

    A scan is pinned to a worker. Workers that appear later are used; the scan of one that is lost
    has failed with the kind ``"crash"``, and is for the main loop to try again: Dask repeats
    nothing by itself.

    Args:
        client: of the cluster.
        setup: what each worker process is told; without ``threads`` it gets those of its Dask
            worker.
        limits: per scan.
        out: folder of the batch, at the same path on all machines.
        closing: closed with the crew: client and cluster, where they were made for it.

    Raises:
        SetupError: a worker has another labrecon, or does not see ``out``.
    """

    def __init__(
        self,
        client: Client,
        setup: Setup,
        limits: Limits,
        out: Path,
        closing: ExitStack | None = None,
    ) -> None:
        self._client, self._setup, self._limits = client, setup, limits
        self._out, self._closing = out.absolute(), closing or ExitStack()
        self._session = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._workers: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._flights: dict[int, _Flight] = {}
        self._news: queue.SimpleQueue[tuple[str, int, Mapping[str, Any]]] = queue.SimpleQueue()
        self._seen = self._looked = time.monotonic()
        client.subscribe_topic(desk.STAGES + self._session, self._hear)
        try:
            self._look()
            # Somebody is there to mend it; later the others go on without that worker.
            if self._refused:
                raise SetupError("; ".join(self._refused.values()), 2)
        except BaseException:
            self.close()
            raise

    # -- the crew ------------------------------------------------------------------------------

    def accepts(self, *, alone: bool = False) -> bool:
        """Whether a worker is free; each has one scan, so that all are alone."""
        return bool(self._free())

    def submit(self, task: Task) -> None:
        """Give a scan to a free worker."""
        address = self._free()[0]
        threads = self._setup.threads or self._workers[address]
        order = {
            "session": self._session,
            "out": str(self._out),
            "setup": replace(self._setup, threads=threads).plain(),
            "limits": dict(self._limits.__dict__),
        }
        future = self._client.submit(
            desk.serve,
            order,
            dict(task.__dict__),
            key=f"labrecon-{self._session}-{next(self._numbers)}",
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        self._flights[task.scan] = _Flight(task, address, future, time.monotonic())
        number = task.scan
        future.add_done_callback(lambda _: self._news.put(("ended", number, {})))

    def events(self, timeout: float) -> Sequence[Event]:
        """What has happened since.

        Raises:
            SetupError: a worker can not do anything, or the scheduler is gone.
        """
        told: list[Event] = []
        wait = timeout
        while True:
            try:
                what, scan, news = self._news.get(timeout=wait) if wait else self._news.get(False)
            except queue.Empty:
                break
            wait = 0.0
            flight = self._flights.get(scan)
            if flight is None:
                continue
            if what == "stage":
                told.append(Event("stage", scan, news))
            elif flight.future.done():
                told.append(self._ended(flight))
        if time.monotonic() - self._looked >= LOOK:
            self._look()
        lost = [f for f in self._flights.values() if f.address not in self._workers]
        return [*told, *(self._lost(flight) for flight in lost)]

    def close(self) -> None:
        """Stop at once; the workers' processes end, the Dask workers do not."""
        for flight in self._flights.values():
            with suppress(Exception):
                flight.future.cancel()
        self._flights.clear()
        # A cluster that is gone needs no goodbye.
        with suppress(Exception):
            self._run(desk.dismiss, str(self._out))
        with suppress(Exception):
            self._client.unsubscribe_topic(desk.STAGES + self._session)
        with suppress(Exception):
            self._closing.close()

    # -- who is there --------------------------------------------------------------------------

    def _free(self) -> list[str]:
        busy = {flight.address for flight in self._flights.values()}
        return [address for address in self._workers if address not in busy]

    def _look(self) -> None:
        """Find out which workers there are, and examine those that are new."""
        self._looked = time.monotonic()
        try:
            there = dict(self._client.nthreads())
        except Exception as error:
            if time.monotonic() - self._seen > PATIENCE:
                raise SetupError(
                    f"the Dask scheduler has been out of reach for {PATIENCE:g} s ({error}); the "
                    "same command goes on with the batch",
                    1,
                ) from error
            return
        self._seen = time.monotonic()
        new = [address for address in there if address not in {*self._workers, *self._refused}]
        self._workers = {a: n for a, n in there.items() if a in self._workers}
        self._refused = {a: why for a, why in self._refused.items() if a in there}
        for address, found in self._examined(new).items():
            if why := self._objection(address, found):
                self._refused[address] = why
                self._log(why)
            elif isinstance(found, dict):
                self._workers[address] = there[address]
        if self._refused and not self._workers and not self._flights:
            raise SetupError("; ".join(self._refused.values()), 2)

    def _examined(self, addresses: list[str]) -> dict[str, Any]:
        """What workers say of themselves; what a former main process left there is ended."""
        if not addresses:
            return {}
        token = secrets.token_hex(8)
        file = self._out / f".probe-{token}"
        try:
            file.touch()
            self._run(desk.dismiss, str(self._out), workers=addresses)
            return dict(self._run(desk.probe, str(self._out), token, workers=addresses))
        finally:
            file.unlink(missing_ok=True)

    def _run(self, function: Any, *args: Any, workers: list[str] | None = None) -> Any:
        return self._client.run(function, *args, workers=workers, on_error="return")

    def _log(self, text: str) -> None:
        file = self._out / "logs" / "cluster.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as log:
            log.write(f"{now()} {text}\n")

    def _objection(self, address: str, found: Any) -> str:
        """Why a worker is not used; nothing if it is, or is gone again."""
        if isinstance(found, OSError):
            return ""
        if not isinstance(found, dict):
            return f"the Dask worker {address} can not import labrecon: {found!r}"
        where = f"the Dask worker {address} on {found['host']}"
        if found["labrecon"] != labrecon.__version__:
            return (
                f"{where} has labrecon {found['labrecon']}, and this is {labrecon.__version__}: "
                "install the same on all machines"
            )
        if not found["sees"]:
            return (
                f"{where} does not see {self._out}: name an output on a disk that all machines "
                "share, at the same path"
            )
        return "" if found["writes"] else f"{where} may not write to {self._out}"

    # -- what became of scans ------------------------------------------------------------------

    def _hear(self, event: tuple[float, Any]) -> None:
        """A stage, told in the client's own thread."""
        message = event[1]
        self._news.put(("stage", message["scan"], {"stage": message["stage"]}))

    def _ended(self, flight: _Flight) -> Event:
        del self._flights[flight.task.scan]
        scan = flight.task.scan
        if flight.future.cancelled():
            return self._crashed(flight, "its task was cancelled on the cluster")
        error = flight.future.exception()
        if error is not None:
            if type(error).__name__ == "KilledWorker":
                return self._crashed(flight, f"Dask workers ended under it: {error}")
            reason = f"on {flight.address}: {type(error).__name__}: {error}"
            told = {"kind": "unexpected", "reason": reason, "trace": reason}
            return Event("failed", scan, {**told, "seconds": self._seconds(flight)})
        answer = flight.future.result()
        if "fatal" in answer:
            why = f"the Dask worker {flight.address} can do nothing: {answer['fatal']}"
            others = [address for address in self._workers if address != flight.address]
            if not others:
                raise SetupError(why, answer["exit_code"])
            # One bad node is no reason to stop the others.
            self._refused[flight.address] = why
            self._workers = {a: n for a, n in self._workers.items() if a in others}
            self._log(why)
            return Event("returned", scan, {})
        return Event(answer["kind"], scan, answer["told"])

    def _lost(self, flight: _Flight) -> Event:
        del self._flights[flight.task.scan]
        # Else Dask would keep it for a worker of that address.
        with suppress(Exception):
            flight.future.cancel()
        return self._crashed(flight, f"the Dask worker {flight.address} was lost")

    def _crashed(self, flight: _Flight, reason: str) -> Event:
        told = {"kind": "crash", "reason": reason, "trace": "", "seconds": self._seconds(flight)}
        return Event("failed", flight.task.scan, told)

    def _seconds(self, flight: _Flight) -> float:
        return time.monotonic() - flight.since
