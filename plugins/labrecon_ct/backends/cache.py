"""A bounded folder of projection matrices, shared by all runs of a user."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["cache_folder", "load", "store"]

log = logging.getLogger("labrecon_ct")
LIMIT = 4 * 2**30
SMALLEST = 2**22
#: seconds after which a half-written file is taken to be left by a run that died
ABANDONED = 24 * 3600


def cache_folder() -> Path:
    """``$LABRECON_CACHE``, or ``~/.cache/labrecon``."""
    return Path(os.environ.get("LABRECON_CACHE") or Path.home() / ".cache" / "labrecon")


def load(key: str) -> dict[str, Tensor] | None:
    """The tensors stored under ``key``, or None; a damaged file is removed."""
    path = cache_folder() / f"{key}.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("checksum")
        if _checksum(tensors) != expected:
            raise OSError("its content does not have its checksum")
    except (SafetensorError, OSError) as error:
        log.warning("removed the damaged cache file %s (%s)", path, error)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return None
    with contextlib.suppress(OSError):
        path.touch()
    return tensors


def store(key: str, tensors: dict[str, Tensor]) -> None:
    """Store tensors, drop the least recently used ones above the limit; failing is harmless."""
    if not SMALLEST <= bytes_of(*tensors.values()) <= LIMIT // 2:
        return
    folder = cache_folder()
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
        os.close(handle)
        temporary = Path(name)
        save_file(tensors, temporary, metadata={"checksum": _checksum(tensors)})
        temporary.replace(folder / f"{key}.safetensors")
        _trim(folder)
    except (OSError, SafetensorError) as error:
        log.warning("the projection matrix was not cached in %s: %s", folder, error)
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _checksum(tensors: dict[str, Tensor]) -> str:
    # A file's header can be whole and its numbers not: a wrong index crashes, a wrong value lies.
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].numpy().data, value)
    return f"{value:08x}"


def _trim(folder: Path) -> None:
    for leftover in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > ABANDONED:
                leftover.unlink()
    files = sorted(folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
    total = sum(p.stat().st_size for p in files)
    for path in files:
        if total <= LIMIT:
            return
        total -= path.stat().st_size
        path.unlink(missing_ok=True)


def available_memory() -> int:
    """Bytes that can be had without swapping, or a guess of 8 GiB where the system does not say."""
    try:
        # Free pages alone would leave out what the system lends to its file cache.
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 8 * 2**30


def bytes_of(*tensors: torch.Tensor) -> int:
    """Memory of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)
