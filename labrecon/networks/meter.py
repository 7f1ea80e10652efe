"""How much memory a computation takes at its peak, by count and as the system sees it."""

from __future__ import annotations

import ctypes
import os
import re
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Meter", "available", "counted_peak", "measured_peak"]

#: The number of this parameter in malloc.h of glibc.
M_MMAP_THRESHOLD = -3


class Meter(TorchDispatchMode):
    """Counts the bytes of tensors made within it that are alive, and their peak.

    Each storage counts once, whatever views there are; what a single operation needs inside is not
    seen.

    Example:
        >>> with Meter() as meter:
        ...     x = torch.zeros(1000) + torch.ones(1000)
        >>> meter.peak, meter.alive
        (12000, 4000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self._storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation and count what is new in its result."""
        result = func(*args, **(kwargs or {}))
        given = {s._cdata for s in map(_storage, tree_leaves((args, kwargs))) if s is not None}
        for storage in map(_storage, tree_leaves(result)):
            if storage is not None and storage._cdata not in given:
                self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def gone(_: object) -> None:
            self.alive -= size
            self._storages.pop(key, None)

        self._storages[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


def _storage(leaf: object) -> torch.UntypedStorage | None:
    if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
        return leaf.untyped_storage()
    return None


def counted_peak(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that ``run`` needs at its peak: by the allocator on CUDA, else by `Meter`."""
    if device.type == "cuda":
        return _allocated_peak(run, device)
    with Meter() as meter:
        run()
    return meter.peak


def measured_peak(
    run: Callable[[], object], device: torch.device, before: Callable[[], object] = lambda: None
) -> int:
    """Bytes by which memory grows while ``run`` runs: allocated on CUDA, else resident.

    The resident set is measured in a copy of this process in which the C library gives each freed
    block back at once. In this process it keeps blocks of up to 32 MiB in a heap that may fragment
    (glibc before 2.38: by half and more); ``MALLOC_MMAP_THRESHOLD_=65536`` in the environment
    avoids that, for some time.

    Args:
        run: what is measured.
        device: where it runs.
        before: run before, because libraries take memory for good the first time.

    Raises:
        RuntimeError: not on Linux or CUDA, or ``run`` failed.
        MemoryError: the system stopped it.
    """
    if device.type == "cuda":
        before()
        return _allocated_peak(run, device)
    if not hasattr(os, "fork") or not Path("/proc/self/clear_refs").exists():
        raise RuntimeError("the peak of resident memory can be measured on Linux only")
    told = _in_a_copy(lambda: _resident_peak(run, before))
    if not told:
        raise MemoryError("the system stopped the measurement: there is not enough memory")
    if not told.isdigit():
        raise RuntimeError(f"the measurement failed: {told}")
    return int(told)


def _allocated_peak(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    start = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - start


def _in_a_copy(run: Callable[[], int]) -> str:
    """What ``run`` returns in a forked process, or the error it raised there."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Of threads, which are not in the copy: it uses none.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)
            told = _in_a_thread(run)
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        os.write(writer, told.encode()[:4096])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


def _in_a_thread(run: Callable[[], int]) -> str:
    """In a thread of its own the C library begins with an empty heap, without holes to fill."""
    told: list[str] = []

    def target() -> None:
        try:
            told.append(str(run()))
        except BaseException as error:
            told.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return told[0]


def _resident_peak(run: Callable[[], object], before: Callable[[], object]) -> int:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**16)
    before()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    # The peak starts anew.
    Path("/proc/self/clear_refs").write_text("5")
    start = _resident("VmRSS")
    run()
    return _resident("VmHWM") - start


def _resident(name: str) -> int:
    told = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(told.group(1)) * 1024 if told else 0


def available(device: torch.device) -> int:
    """Bytes that can still be had: free or cached on CUDA, else of the system or its limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    told = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    amounts = [int(told.group(1)) * 1024] if told else []
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.isdigit() and used.isdigit():
        amounts.append(int(limit) - int(used))
    if not amounts:
        raise RuntimeError("the available memory is not known here: give budget, in bytes")
    return min(amounts)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
