"""A volume in slabs once more, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labrecon.batch.bench import SetupError
from labrecon.batch.tasks import Setup
from labrecon.clock import Watcher
from labrecon.errors import ReconstructionError
from labrecon.reproduce.record import SlabCut
from labrecon.reproduce.rerun import failed

__all__ = ["rerun_in_slabs"]

#: Lines of what the process printed that a failure shows.
_TAIL = 20


def rerun_in_slabs(
    setup: Setup, cut: SlabCut, scan: Path, out: Path, logs: Path, watcher: Watcher | None = None
) -> float:
    """`labrecon.reproduce.rerun.rerun` of a volume in slabs, in the same ones.

    Args:
        setup: see `rerun`.
        cut: size and halo of the slabs.
        scan: see `rerun`.
        out: see `rerun`.
        logs: see `rerun`.
        watcher: see `rerun`.

    Raises:
        ScanError: see `rerun`.
        ReconstructionError: see `rerun`.
        OutputError: see `rerun`.
        SetupError: see `rerun`.
    """
    begin = time.monotonic()
    told = {
        "setup": setup.plain(),
        "size": cut.size,
        "halo": cut.halo,
        "scan": str(scan.absolute()),
        "out": str(out.absolute()),
    }
    log = logs / "slabs.log"
    for message in _said(told, setup.threads, log):
        if "stage" in message and watcher is not None:
            watcher.stage(message["stage"])
        elif "failed" in message:
            raise failed(message["failed"])
        elif "fatal" in message:
            raise SetupError(message["fatal"], message["exit_code"])
        elif "done" in message:
            return time.monotonic() - begin
    words = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:])
    error = ReconstructionError(
        "the reconstruction could not be repeated: its process was killed, by the system perhaps, "
        "when memory ran out"
    )
    error.add_note(words)
    raise error


def _said(told: dict[str, Any], threads: int | None, log: Path) -> Iterator[dict[str, Any]]:
    """What the process says, until it ends; it ends with this."""
    environment = dict(os.environ)
    if threads is not None:
        # Libraries with threads of their own read it as they are loaded.
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "labrecon.reproduce.slab_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            # Not in the terminal's group: Ctrl-C is for the main process.
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # One that is gone says nothing, which is found out below.
        with contextlib.suppress(OSError):
            process.stdin.write((json.dumps(told) + "\n").encode())
            process.stdin.flush()
        for line in process.stdout:
            yield json.loads(line)
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
