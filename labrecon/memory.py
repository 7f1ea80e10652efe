"""How much memory is free, and what an error looks like when there is none."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

__all__ = ["GIB", "free", "is_exhausted", "release"]

GIB = 2**30
_GROUPS = Path("/sys/fs/cgroup")


def free(device: torch.device) -> int:
    """Bytes that a device has left: of a GPU, or of this machine within the limits of its job."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return min([int(psutil.virtual_memory().available), *_left_by_groups()])


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory has run out."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    # torch has no class of its own for the CPU.
    return known or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def release(device: torch.device) -> None:
    """Give back what torch keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _own_group() -> str:
    """The control group of this process, below the root of all; the root where there are none."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    return next((line[3:] for line in lines if line.startswith("0::")), "").strip("/")


def _left_by_groups() -> list[int]:
    """Bytes below the limit of each control group that the process is in (Slurm, containers)."""
    folder = _GROUPS / _own_group()
    left = []
    for group in (folder, *folder.parents):
        if not group.is_relative_to(_GROUPS):
            break
        try:
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            # No limit, which is the word "max", or no such group.
            continue
        # Pages of files that nobody uses go first.
        left.append(max(limit - used + int(stat.get("inactive_file", 0)), 0))
    return left
