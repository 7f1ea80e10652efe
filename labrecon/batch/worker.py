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
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any

from labrecon.batch.inventory import fingerprint
from labrecon.batch.tasks import Task, model_hash
from labrecon.batch.told import summary_of
from labrecon.errors import (
    LabreconError,
    ModelError,
    OutputError,
    ReconstructionError,
    ScanError,
)
from labrecon.memory import is_exhausted

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
        # The clock is the machine's, so that whoever reads it later knows when it was.
        text = json.dumps({**message, "at": time.monotonic()}, allow_nan=False)
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
    """Three places through which scans go one behind the other: read, compute, write.

    What a place has handed on it does not hold: a scan has the memory that the one before it had.
    """

    def __init__(self, setup: Mapping[str, Any], say: Say) -> None:
        import torch

        # All of it now: the first scan is not charged for what is loaded once.
        from labrecon import plugins, recon, results
        from labrecon.job import assemble_job

        if setup["threads"] is not None:
            torch.set_num_threads(setup["threads"])
        self.say, self.recon, self.results = say, recon, results
        self.job = assemble_job(
            setup["instrument"],
            recipe=setup["recipe"],
            device=setup["device"],
            host=plugins.host(),
            model=setup["model"],
            other_geometry=setup["other_geometry"],
        )
        self.job.thumbnail = True
        if model_hash(self.job) != setup["model_hash"]:
            raise ModelError(f"the model in {setup['model']} is another one than the batch's")
        self.first = True
        # One place each: what is read too early only takes memory.
        self.read: queue.Queue[_Item] = queue.Queue(1)
        self.computed: queue.Queue[_Item] = queue.Queue(1)

    def serve(self, lines: queue.SimpleQueue[dict[str, Any]]) -> None:
        """Work until the process is ended."""
        threading.Thread(target=self._read, args=(lines,), daemon=True, name="read").start()
        threading.Thread(target=self._write, daemon=True, name="write").start()
        self._compute()

    def _read(self, lines: queue.SimpleQueue[dict[str, Any]]) -> None:
        while True:
            self.say({"wants": True})
            item = _Item(Task(**lines.get()["scan"]))
            if self._done(self._load, item):
                self.read.put(item)
            del item
            self.read.join()

    def _compute(self) -> None:
        while True:
            item = self.read.get()
            self.read.task_done()
            if self._done(self._solve, item):
                self.computed.put(item)
            del item

    def _write(self) -> None:
        while True:
            item = self.computed.get()
            self._done(self._store, item)
            del item

    def _load(self, item: _Item) -> None:
        path = Path(item.task.path)
        before = fingerprint([path])
        item.job = self.job.another(item.task.path, Path(item.task.out))
        item.job.clock.watcher = _Stages(item.task.scan, self.say)
        item.scan, item.inputs = self.recon.load(item.job, path)
        item.seen = fingerprint(Path(one["path"]) for one in item.inputs or ())
        if fingerprint([path]) != before:
            raise ScanError(f"{path} changed while it was read: it is still being written, perhaps")

    def _solve(self, item: _Item) -> None:
        scan, item.scan = item.scan, None
        item.outcomes = self.recon.compute(item.job, scan, item.inputs)

    def _store(self, item: _Item) -> None:
        result = self.results.write(item.job, item.outcomes, item.inputs)
        told = {
            **summary_of(result, item.inputs),
            "seen": item.seen,
            "worker": os.getpid(),
            # Libraries load what they need when they are used first.
            "first": self.first,
            "worker_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        self.first = False
        self.say({"event": "done", "scan": item.task.scan, "told": told})

    def _done(self, work: Callable[[_Item], None], item: _Item) -> bool:
        """Whether it went well; what went wrong is told."""
        try:
            work(item)
        except BaseException as error:
            _end_if_broken(error)
            self.say({"event": "failed", "scan": item.task.scan, "told": failure(error)})
            return False
        _Stages(item.task.scan, self.say).stage("")
        return True


@dataclass
class _Item:
    """A scan on its way."""

    task: Task
    job: Any = None
    scan: Any = None
    inputs: Any = None
    seen: dict[str, int] = field(default_factory=dict)
    outcomes: Any = None


def _end_if_broken(error: BaseException) -> None:
    """End the process where CUDA has failed: nothing would work in it any more."""
    if "CUDA error" in str(error) and not any(is_exhausted(one) for one in causes(error)):
        traceback.print_exception(error)
        os.abort()


class _Stages:
    """Tells of the stages of a scan."""

    def __init__(self, scan: int, say: Say) -> None:
        self.scan, self.say = scan, say

    def stage(self, name: str) -> None:
        """A stage begins; "" while the scan waits."""
        self.say({"event": "stage", "scan": self.scan, "told": {"stage": name}})

    def step(self, title: str, record: Mapping[str, float], iterations: int) -> None:
        """Of no interest here."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def failure(error: BaseException) -> dict[str, Any]:
    """Kind, reason and trace of what a scan raised."""
    kinds = {ScanError: "reader", ReconstructionError: "reconstruction", OutputError: "output"}
    kind = next((word for each, word in kinds.items() if isinstance(error, each)), "unexpected")
    reason = str(error) if isinstance(error, LabreconError) else f"{type(error).__name__}: {error}"
    chain = list(causes(error))
    full = any(isinstance(e, OSError) and e.errno in (ENOSPC, EDQUOT) for e in chain)
    return {
        "kind": kind,
        "reason": reason,
        "trace": "".join(traceback.format_exception(error)),
        "disk_full": full and kind == "output",
        "out_of_memory": any(is_exhausted(one) for one in chain),
    }


if __name__ == "__main__":
    main()
