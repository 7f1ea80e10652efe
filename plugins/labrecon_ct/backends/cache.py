"""A bounded folder of projection matrices, shared by all runs of a user."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["cache_folder", "load", "store"]

log = logging.getLogger("labrecon_ct")
LIMIT = 4 * 2**30
SMALLEST = 2**22


def cache_folder() -> Path:
    """``$LABRECON_CACHE``, or ``~/.cache/labrecon``."""
    return Path(os.environ.get("LABRECON_CACHE") or Path.home() / ".cache" / "labrecon")


def load(key: str) -> dict[str, Tensor] | None:
    """The tensors stored under ``key``, or None; a damaged file is removed."""
    path = cache_folder() / f"{key}.safetensors"
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        log.warning("removed the damaged cache file %s (%s)", path, error)
        path.unlink(missing_ok=True)
        return None
    path.touch()
    return tensors


def store(key: str, tensors: dict[str, Tensor]) -> None:
    """Store tensors, drop the least recently used ones above the limit; failing is harmless."""
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    if not SMALLEST <= size <= LIMIT // 2:
        return
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".part")
        os.close(handle)
        save_file(tensors, temporary)
        Path(temporary).replace(folder / f"{key}.safetensors")
        _trim(folder)
    except (OSError, SafetensorError) as error:
        log.warning("the projection matrix was not cached in %s: %s", folder, error)
        for leftover in folder.glob("*.part"):
            leftover.unlink(missing_ok=True)


def _trim(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime)
    total = sum(p.stat().st_size for p in files)
    for path in files:
        if total <= LIMIT:
            return
        total -= path.stat().st_size
        path.unlink(missing_ok=True)


def available_memory() -> int:
    """Bytes of memory that are free now, or a guess of 8 GiB where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 8 * 2**30


def bytes_of(*tensors: torch.Tensor) -> int:
    """Memory of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)
