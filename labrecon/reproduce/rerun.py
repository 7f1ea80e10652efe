"""A reconstruction once more, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labrecon.batch.crew import LocalCrew
from labrecon.batch.tasks import Limits, Setup, Task
from labrecon.clock import Watcher
from labrecon.errors import OutputError, ReconstructionError, ScanError

__all__ = ["failed", "rerun"]

_ERRORS = {"reader": ScanError, "output": OutputError}
#: Seconds between looks at the process.
_LOOK = 0.5


def rerun(setup: Setup, scan: Path, out: Path, logs: Path, watcher: Watcher | None = None) -> float:
    """Reconstruct a scan in a worker process; the seconds it took.

    This process's threads, random numbers and loaded plugins have no part in it.

    Args:
        setup: instrument, recipe, model, device, threads.
        scan: its file or folder.
        out: folder to make.
        logs: folder for what the process prints.
        watcher: told of the stages.

    Raises:
        ScanError: the scan can not be read or prepared.
        ReconstructionError: the solve failed, or its process was killed.
        OutputError: ``out`` can not be written.
        SetupError: instrument, recipe, model or device are not to be had here.
    """
    begin = time.monotonic()
    crew = LocalCrew(setup, 1, Limits(), logs)
    task: Task | None = Task(0, str(scan.absolute()), str(out.absolute()))
    try:
        while True:
            if task is not None and crew.accepts():
                crew.submit(task)
                task = None
            for event in crew.events(_LOOK):
                if event.kind == "stage" and watcher is not None:
                    watcher.stage(event.told["stage"])
                elif event.kind == "failed":
                    raise failed(event.told)
                elif event.kind == "done":
                    return time.monotonic() - begin
    finally:
        crew.close()


def failed(told: Mapping[str, Any]) -> Exception:
    """The error that a process told, see `labrecon.batch.worker.failure`."""
    kind = _ERRORS.get(told["kind"], ReconstructionError)
    error = kind(f"the reconstruction could not be repeated: {told['reason']}")
    if told["kind"] in ("crash", "unexpected") and told.get("trace"):
        error.add_note(told["trace"])
    return error
