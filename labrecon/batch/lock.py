"""One process at a time works on a batch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labrecon.errors import OutputError

__all__ = ["FILE", "is_locked", "locked"]

FILE = ".lock"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the batch in a folder; the system lets go of it when the process dies.

    Raises:
        OutputError: another process holds it.
    """
    try:
        handle = os.open(out / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(f"{out} can not be written: {error}") from error
    try:
        # Whoever only looks, as `labrecon status` does, lets go at once.
        end = time.monotonic() + 1.0
        while not (taken := _take(handle)) and time.monotonic() < end:
            time.sleep(0.02)
        if not taken:
            told = os.read(handle, 200).decode(errors="replace").strip() or "unknown"
            raise OutputError(
                f"another process works on {out} ({told}); `labrecon status {out}` shows how far "
                "it is"
            )
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {os.uname().nodename}".encode())
        yield
    finally:
        os.close(handle)


def is_locked(out: Path) -> bool:
    """Whether a process works on the batch."""
    try:
        handle = os.open(out / FILE, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _take(handle)
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OutputError(
            "this disk knows no locks of files (flock), which keep two processes from working on "
            f"one batch: {error}; name an output on another disk"
        ) from error
    return True
