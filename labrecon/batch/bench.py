"""One worker process as the main process sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from labrecon.batch.tasks import Event, Limits, Setup, Task
from labrecon.errors import LabreconError

__all__ = ["Bench", "SetupError"]

#: Seconds that importing torch and the plugins may take.
STARTING = 180.0
#: Lines of standard error that a failure shows.
TAIL = 40


class SetupError(LabreconError):
    """A worker can not do anything at all.

    Attributes:
        final: whether the worker said so itself; else another one may be able to.
    """

    def __init__(self, message: str, exit_code: int, *, final: bool = True) -> None:
        super().__init__(message)
        self.exit_code, self.final = exit_code, final


@dataclass
class _Flight:
    """A scan that the worker has.

    Attributes:
        task: what was asked for.
        stage: where it is; "" while it waits.
        since: when it got there.
        worked: seconds of work before that.
        log: size of the worker's log when it came.
    """

    task: Task
    log: int
    stage: str = ""
    since: float = field(default_factory=time.monotonic)
    worked: float = 0.0

    @property
    def seconds(self) -> float:
        """Of work on it so far."""
        return self.worked + (time.monotonic() - self.since if self.stage else 0.0)

    def enter(self, stage: str, at: float) -> None:
        """The next stage began."""
        self.worked += max(0.0, at - self.since) if self.stage else 0.0
        self.since, self.stage = at, stage


class Bench:
    """A worker process, its scans, and what they may take.

    Args:
        setup: what the worker is told first.
        limits: per scan.
        log: where its standard error goes, appended.

    Attributes:
        over: whether the process is gone, and its scans have been told of.
    """

    def __init__(self, setup: Setup, limits: Limits, log: Path) -> None:
        self.limits, self.log = limits, log
        self.flights: dict[int, _Flight] = {}
        self.ready = self.wants = self.over = False
        self._begun = time.monotonic()
        self._rest = b""
        environment = dict(os.environ)
        if setup.threads is not None:
            # Libraries with threads of their own read it as they are loaded.
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(setup.threads))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "labrecon.batch.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                # Not in the terminal's group: Ctrl-C is for the main process.
                start_new_session=True,
            )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._send({"setup": setup.plain()})

    def fileno(self) -> int:
        """Readable when the worker has said something, or is gone."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def accepts(self, *, alone: bool) -> bool:
        """Whether the worker may be given another scan."""
        if alone or any(flight.task.alone for flight in self.flights.values()):
            return self.wants and not self.flights
        return self.wants

    def submit(self, task: Task) -> None:
        """Give it a scan."""
        self.wants = False
        size = self.log.stat().st_size if self.log.exists() else 0
        self.flights[task.scan] = _Flight(task, size)
        self._send({"scan": task.__dict__})

    def events(self) -> Iterator[Event]:
        """What the worker has said, and what became of its scans where it broke or took too much.

        Raises:
            SetupError: the worker says that it can not do anything.
        """
        # Looked at before the messages are read: the last of them are not missed then.
        gone = self.process.poll() is not None
        for message in self._messages():
            if "fatal" in message:
                raise SetupError(message["fatal"], message["exit_code"])
            if "wants" in message:
                self.ready = self.wants = True
                continue
            event = Event(message["event"], message["scan"], message["told"])
            flight = self.flights.get(event.scan)
            if flight is None:
                continue
            if event.kind == "stage":
                flight.enter(event.told["stage"], message["at"])
            else:
                flight.enter("", message["at"])
                told = {**event.told, "seconds": round(flight.seconds, 3)}
                event = Event(event.kind, event.scan, told)
                del self.flights[event.scan]
            yield event
        if gone:
            yield from self._broken()
        else:
            yield from self._beyond_limits()

    def stop(self) -> None:
        """End the process and the programs that it started, whatever they do."""
        self.over = True
        with contextlib.suppress(OSError):
            self._kill()
        # One that hangs in the system, on a dead disk say, is left to it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10.0)
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def _kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        # One that is gone is found out by `events`.
        with contextlib.suppress(OSError):
            self.process.stdin.write((json.dumps(message) + "\n").encode())
            self.process.stdin.flush()

    def _messages(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        while True:
            try:
                part = os.read(self.fileno(), 1 << 16)
            except (BlockingIOError, ValueError, OSError):
                break
            if not part:
                break
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in lines:
                yield json.loads(line)

    # -- what may go wrong ---------------------------------------------------------------------

    def _broken(self) -> Iterator[Event]:
        if not self.ready:
            raise SetupError(
                f"a worker ended before it could begin ({_fate(self.process.returncode)}); "
                f"its last words, from {self.log}:\n{self._tail(0)}",
                1,
                final=False,
            )
        self.stop()
        yield from self._give_up("crash", _fate(self.process.returncode))

    def _beyond_limits(self) -> Iterator[Event]:
        if not self.ready:
            if time.monotonic() - self._begun > STARTING:
                self.stop()
                raise SetupError(
                    f"a worker was not ready after {STARTING:g} s; see {self.log}", 1, final=False
                )
            return
        seconds, memory = self.limits.seconds, self.limits.memory
        if seconds is not None:
            late = [scan for scan, flight in self.flights.items() if flight.seconds > seconds]
            if late:
                flight = self.flights.pop(late[0])
                self.stop()
                reason = (
                    f"took more than {seconds:g} s, the limit for a scan, in the stage "
                    f"{flight.stage!r}; allow more with --time-limit, or see what hangs"
                )
                yield self._failed(flight, "time limit", reason)
                yield from self._return_all()
                return
        if memory is not None and self.flights and (used := self._memory()) > memory * 2**30:
            self.stop()
            reason = (
                f"took {used / 2**30:.2f} GiB, more than the limit of {memory:g} GiB; allow more "
                "with --memory-limit, or reconstruct less at a time"
            )
            yield from self._give_up("memory limit", reason)

    def _give_up(self, kind: str, reason: str) -> Iterator[Event]:
        """Blame the scan if there was one alone; else nobody knows which it was."""
        if len(self.flights) == 1:
            [flight] = self.flights.values()
            self.flights.clear()
            yield self._failed(flight, kind, reason)
        yield from self._return_all()

    def _failed(self, flight: _Flight, kind: str, reason: str) -> Event:
        where = f" in the stage {flight.stage!r}" if kind == "crash" and flight.stage else ""
        told = {
            "kind": kind,
            "reason": reason + where,
            "trace": self._tail(flight.log),
            "seconds": round(flight.seconds, 3),
        }
        return Event("failed", flight.task.scan, told)

    def _return_all(self) -> Iterator[Event]:
        for flight in self.flights.values():
            yield Event("returned", flight.task.scan, {"worked": flight.worked > 0})
        self.flights.clear()

    def _memory(self) -> int:
        try:
            process = psutil.Process(self.process.pid)
            family = [process, *process.children(recursive=True)]
            return sum(one.memory_info().rss for one in family)
        except psutil.Error:
            return 0

    def _tail(self, start: int) -> str:
        """The last lines of what the worker wrote to standard error since ``start``."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(start, self.log.stat().st_size - 20_000))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-TAIL:])


def _fate(code: int) -> str:
    if code >= 0:
        return f"the worker ended with exit code {code}: something called exit()"
    name = signal.Signals(-code).name
    if name == "SIGKILL":
        return (
            "the worker was killed (SIGKILL): by the system when memory ran out, most likely; "
            "--memory-limit keeps one scan from taking it all"
        )
    return f"the worker crashed ({name}): compiled code went wrong"
