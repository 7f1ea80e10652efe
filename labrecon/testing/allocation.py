"""What the process holds in memory, by the count of the allocator and of the system."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

__all__ = ["UNSEEN", "native", "resident"]


class _MallInfo(ctypes.Structure):
    """What glibc's allocator tells; see mallinfo2(3)."""

    _fields_ = (
        *[(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks")],
        *[(name, ctypes.c_size_t) for name in ("hblkhd", "usmblks", "fsmblks")],
        *[(name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")],
    )


def _allocator() -> Callable[[], _MallInfo] | None:
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    ask.restype = _MallInfo
    return cast(Callable[[], _MallInfo], ask)


_MALLINFO = _allocator()
#: Growth in a quarter that counts: the allocator knows to the byte, the process to its pages.
UNSEEN = 64 * 2**10 if _MALLINFO else 512 * 2**10


def native() -> float:
    """Bytes that compiled code holds: by the allocator's own count, or else by pages."""
    if _MALLINFO is None:
        return resident()
    told = _MALLINFO()
    return float(told.uordblks + told.hblkhd)


def resident() -> float:
    """Bytes of memory that the process has pages for; 0 where nobody tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
