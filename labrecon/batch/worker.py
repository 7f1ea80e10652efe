"""A worker process: ``python -m labrecon.batch.worker`` reconstructs what it is told, line by line.

Each line on standard input is one JSON object: ``{"setup": …}`` first, then ``{"scan": …}``. Each
line back is one, too. While one scan is computed the next is read and the one before is written:
``{"wants": true}`` says that another one may be read.
The process ends with its standard input, that is with whoever started it, however that ended.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from labrecon.batch.tasks import Task
from labrecon.errors import LabreconError, OutputError, ReconstructionError, ScanError

__all__ = ["main"]

Say = Callable[[Mapping[str, Any]], None]


def main() -> None:
    """Serve until standard input ends."""
    # Ctrl-C is for the main process, which decides what becomes of the scans in flight.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    say = _channel()
    lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True, name="listen").start()
    try:
        line = _Line(lines.get()["setup"], say)
    except LabreconError as error:
        say({"fatal": str(error), "exit_code": error.exit_code})
        return
    except Exception as error:
        say({"fatal": f"{type(error).__name__}: {error}", "exit_code": 1})
        traceback.print_exc()
        return
    line.serve(lines)


def _channel() -> Say:
    """Where messages go: the former standard output, which nothing else may write to."""
    stream = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def say(message: Mapping[str, Any]) -> None:
        text = json.dumps(message, allow_nan=False)
        with lock:
            stream.write(text + "\n")

    return say


def _listen(lines: queue.SimpleQueue[dict[str, Any]]) -> None:
    for text in sys.stdin:
        lines.put(json.loads(text))
    # Whoever started this process is gone: nobody wants the result, nor the programs it runs.
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


class _Line:
    """Three places through which scans go one behind the other: read, compute, write."""

    def __init__(self, setup: Mapping[str, Any], say: Say) -> None:
        import torch

        # All of it now: the first scan is not charged for what is loaded once.
        from labrecon import plugins, recon
        from labrecon.job import assemble_job

        if setup["threads"] is not None:
            torch.set_num_threads(setup["threads"])
        self.say, self.recon = say, recon
        self.job = assemble_job(
            setup["instrument"],
            recipe=setup["recipe"],
            device=setup["device"],
            host=plugins.host(),
            model=setup["model"],
            other_geometry=setup["other_geometry"],
        )
        self.job.thumbnail = True
        # One place each: what is read too early only takes memory.
        self.read: queue.Queue[tuple[Any, ...]] = queue.Queue(1)
        self.computed: queue.Queue[tuple[Any, ...]] = queue.Queue(1)

    def serve(self, lines: queue.SimpleQueue[dict[str, Any]]) -> None:
        """Work until the process is ended."""
        threading.Thread(target=self._write, daemon=True, name="write").start()
        threading.Thread(target=self._read, args=(lines,), daemon=True, name="read").start()
        self._compute()

    def _read(self, lines: queue.SimpleQueue[dict[str, Any]]) -> None:
        while True:
            self.say({"wants": True})
            task = Task(**lines.get()["scan"])

            def reading(task: Task = task) -> tuple[Any, ...]:
                job = self.job.another(task.path, Path(task.out))
                job.clock.watcher = _Stages(task.scan, self.say)
                return (job, *self.recon.load(job, Path(task.path)))

            self._pass_on(task, reading, self.read)
            self.read.join()

    def _compute(self) -> None:
        while True:
            task, job, scan, inputs = self.read.get()
            self.read.task_done()

            def computing(
                task: Task = task, job: Any = job, scan: Any = scan, inputs: Any = inputs
            ) -> tuple[Any, ...]:
                return job, self.recon.compute(job, scan, inputs), inputs

            del scan
            self._pass_on(task, computing, self.computed)

    def _write(self) -> None:
        from labrecon.batch.told import summary_of

        while True:
            task, job, outcomes, inputs = self.computed.get()

            def writing(
                task: Task = task, job: Any = job, outcomes: Any = outcomes, inputs: Any = inputs
            ) -> tuple[Any, ...]:
                result = self.recon.write(job, outcomes, inputs)
                told = summary_of(result, inputs)
                told["operator_reused"] = self.job.operators.reused
                told["peak_memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                self.say({"event": "done", "scan": task.scan, "told": told})
                return ()

            del outcomes
            self._pass_on(task, writing, None)

    def _pass_on(
        self,
        task: Task,
        work: Callable[[], tuple[Any, ...]],
        then: queue.Queue[tuple[Any, ...]] | None,
    ) -> None:
        try:
            made = work()
        except BaseException as error:
            self.say({"event": "failed", "scan": task.scan, "told": failure(error)})
            return
        if then is not None:
            _Stages(task.scan, self.say).stage("")
            then.put((task, *made))


class _Stages:
    """Tells of the stages of a scan."""

    def __init__(self, scan: int, say: Say) -> None:
        self.scan, self.say = scan, say

    def stage(self, name: str) -> None:
        """A stage begins; "" while the scan waits."""
        self.say({"event": "stage", "scan": self.scan, "told": {"stage": name}})

    def step(self, title: str, record: Mapping[str, float], iterations: int) -> None:
        """Of no interest here."""


def failure(error: BaseException) -> dict[str, Any]:
    """Kind, reason and trace of what a scan raised."""
    import errno

    kinds = {ScanError: "reader", ReconstructionError: "reconstruction", OutputError: "output"}
    kind = next((word for each, word in kinds.items() if isinstance(error, each)), "unexpected")
    reason = str(error) if isinstance(error, LabreconError) else f"{type(error).__name__}: {error}"
    cause = error if isinstance(error, OSError) else error.__cause__
    full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    return {
        "kind": kind,
        "reason": reason,
        "trace": "".join(traceback.format_exception(error)),
        "disk_full": full and kind == "output",
        "out_of_memory": "out of memory" in reason,
    }


if __name__ == "__main__":
    main()
