"""`labrecon check`: the conformance suite in a process of its own, which may hang or crash."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrecon.errors import LabreconError, RecipeError

if TYPE_CHECKING:
    from labrecon.testing import Outcome, Report

__all__ = ["Job", "check_named"]

#: Seconds that importing torch and the plugin may take.
STARTING = 120.0


@dataclass(frozen=True)
class Job:
    """What to check, and how.

    Attributes:
        name: a registered instrument, or ``"module:attribute"`` of an instrument, an operator, or
            a function that builds one.
        device: where to compute.
        only: names of checks; empty: all that apply.
        skip: names of checks to leave out.
        timeout: seconds per check.
        scan: a measured file for the readers.
        seed: of all probes.
    """

    name: str
    device: str = "cpu"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    timeout: float = 120.0
    scan: Path | None = None
    seed: int = 0


def check_named(job: Job, watch: Callable[[Outcome], None] | None = None) -> Report:
    """Run the checks in a worker process; one that hangs or crashes costs itself only.

    Args:
        job: what to check.
        watch: told of each outcome.

    Raises:
        RecipeError: there is no such instrument or check.
    """
    from labrecon.testing import Report

    outcomes: list[Outcome] = []
    device = job.device
    while True:
        worker = _Worker(job, tuple(outcome.check for outcome in outcomes))
        try:
            for outcome in worker.outcomes():
                outcomes.append(outcome)
                device = worker.device
                if watch is not None:
                    watch(outcome)
            if worker.finished:
                return Report(job.name, tuple(outcomes), device)
        finally:
            worker.stop()


class _Worker:
    """A process that runs the checks that are left, and tells of each."""

    def __init__(self, job: Job, done: tuple[str, ...]) -> None:
        self.job = job
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # Not a daemon: those can not have children, which an operator may want.
        self.process = context.Process(target=_serve, args=(theirs, job, done))
        self.process.start()
        theirs.close()
        self.finished = False
        self.device = job.device
        self.told = ""

    def outcomes(self) -> Iterator[Outcome]:
        """Outcomes until the worker is done, or has to be replaced."""
        from labrecon.testing import Finding, Outcome

        running: tuple[str, str] = ("build", "The operator can be built from its geometry.")
        allowed = max(STARTING, self.job.timeout)
        while True:
            begin = time.perf_counter()
            message = self._receive(allowed)
            if message is None:
                seconds = time.perf_counter() - begin
                verdict, advice = self._fate(allowed)
                finding = Finding("failed", verdict, advice=advice)
                yield Outcome(*running, (finding,), round(seconds, 3))
                # Without an operator, or between two checks: another try would end like this one.
                self.finished = running[0] in ("build", self.told)
                return
            kind, content = message
            if kind == "error":
                raise RecipeError(content)
            if kind == "end":
                self.finished = True
                return
            if kind == "device":
                self.device = content
            elif kind == "start":
                running, allowed = content, self.job.timeout
            else:
                self.told = running[0]
                yield Outcome.read(content)

    def _receive(self, seconds: float) -> tuple[str, Any] | None:
        try:
            if not self.connection.poll(seconds):
                return None
            received: tuple[str, Any] = self.connection.recv()
        except (EOFError, OSError):
            return None
        return received

    def _fate(self, allowed: float) -> tuple[str, str]:
        """What became of the process, and what to do."""
        self.process.join(1.0)
        code = self.process.exitcode
        if code is None:
            return f"takes more than {allowed:.3g} s", (
                "make example() smaller if it is only slow, or allow more with --timeout; a "
                "library that waits for a licence or a device hangs here"
            )
        if code < 0:
            return f"crashed the process: {signal.Signals(-code).name}", (
                "compiled code wrote or read beyond an array, or was called with wrong argument "
                "types: check sizes, dtypes and ctypes argtypes"
            )
        return f"ended the process with exit code {code}", "look for exit() and os._exit()"

    def stop(self) -> None:
        """End the process and the programs that it started, whatever they do."""
        for pid in [*_descendants(self.process.pid or 0)]:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _descendants(pid: int) -> Iterator[int]:
    """Processes that a process started, theirs included; on Linux, where it can be looked up."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    waiting = list(children.get(pid, ()))
    while waiting:
        each = waiting.pop()
        waiting += children.get(each, ())
        yield each


def _serve(connection: Connection, job: Job, done: tuple[str, ...]) -> None:
    """Run in the worker: the checks that are not done yet."""
    # Ctrl-C reaches the parent, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a library prints must not get into the JSON.
    os.dup2(2, 1)
    from labrecon.plan import find_subject
    from labrecon.plugins import host
    from labrecon.posing import pick_device
    from labrecon.testing import Check, checks
    from labrecon.testing.runner import run_one, where

    try:
        subject = find_subject(job.name, host())
        device = pick_device(job.device)
        connection.send(("device", str(device)))
        bound = checks(
            subject,
            device=device,
            only=job.only,
            skip=job.skip,
            scan=job.scan,
            seed=job.seed,
            spawn=True,
        )
    except (LabreconError, ValueError) as error:
        connection.send(("error", str(error)))
        return
    except Exception as error:
        told = f"{job.name}: {type(error).__name__}: {error} (at {where(error)})"
        connection.send(("error", told))
        return
    for each in bound:
        known: Check = each.check
        if known.name in done:
            continue
        connection.send(("start", (known.name, known.title)))
        outcome = run_one(known, each.bench, timeout=None)
        connection.send(("done", outcome.plain()))
    connection.send(("end", None))
