"""CheckpointFolder: what a training needs to go on after it was killed, in one file each."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from labrecon.errors import OutputError
from labrecon.io.trees import join, split
from labrecon.learner import FitError
from labrecon.options import number, whole

__all__ = ["CheckpointFolder"]

KEPT = 2


class CheckpointFolder:
    """Checkpoints of one training in a folder, ``step-00000120.safetensors``.

    A file is safetensors with JSON and a checksum in its header: reading it runs no code. It is
    written beside and renamed, so that it is whole or not there at all, whenever the process is
    killed. The last two are kept; each also holds the weights that validated best.

    Args:
        folder: made if it is not there.
        seconds: wall time between checkpoints, or None.
        steps: steps between checkpoints, or None.
        tell: called with a message about each file that is damaged; by default a warning.

    Raises:
        OutputError: the folder can not be made.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        seconds: float | None = 60.0,
        steps: int | None = None,
        tell: Callable[[str], object] = warnings.warn,
    ) -> None:
        self.folder = Path(folder)
        self.seconds = None if seconds is None else number("seconds", seconds, at_least=0)
        self.steps = None if steps is None else whole("steps", steps)
        self.tell = tell
        self.saved_at = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder} can not be made: {error}") from error

    def __str__(self) -> str:
        return str(self.folder)

    def due(self, step: int) -> bool:
        """Whether to save after this step."""
        if self.steps is not None and step % self.steps == 0:
            return True
        return self.seconds is not None and time.monotonic() - self.saved_at >= self.seconds

    def files(self) -> list[Path]:
        """The checkpoints there are, the newest first."""
        named = (p for p in self.folder.iterdir() if re.fullmatch(r"step-\d+\.safetensors", p.name))
        return sorted(named, key=lambda path: int(path.stem.removeprefix("step-")), reverse=True)

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, or None where there is none at all.

        Raises:
            FitError: there are checkpoints, and all are damaged.
        """
        for left in self.folder.glob("*.part"):
            left.unlink()
        damaged = []
        files = self.files()
        for path in files:
            try:
                state = _read(path)
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                damaged.append(path)
                self.tell(f"{path} is damaged ({error}); the checkpoint before it is used")
                continue
            for old in damaged:
                old.unlink()
            return state
        if damaged:
            raise FitError(
                f"all checkpoints in {self.folder} are damaged: remove the folder to start anew"
            )
        return None

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a state, whole or not at all, and drop what is too old.

        Raises:
            OutputError: the disk is full, or refuses otherwise; earlier checkpoints stay.
        """
        path = self.folder / f"step-{step:08d}.safetensors"
        try:
            _write(path, dict(state))
        except OSError as error:
            raise OutputError(_explain(path, error)) from error
        for old in self.files()[KEPT:]:
            old.unlink(missing_ok=True)
        self.saved_at = time.monotonic()


def _write(path: Path, state: dict[str, Any]) -> None:
    text, tensors = split(state)
    partial = path.with_suffix(".part")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # safetensors would have it for the owner alone
        save_file(tensors, partial, {"labrecon": text, "sha256": _checksum(text, tensors)})
        partial.chmod(mode)
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        told = file.metadata() or {}
        # Cloned: memory mapped from a file is not aligned as torch's own, and vectorised sums
        # would round differently.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if told["sha256"] != _checksum(told["labrecon"], tensors):
        raise ValueError("its checksum is wrong")
    return join(told["labrecon"], tensors)


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """To the disk itself, so that a full one is met now, and a power cut loses nothing."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _explain(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free / 2**20
        return (
            f"{path} can not be written: the disk is full ({free:.1f} MiB free). The checkpoint "
            "before it is whole: free some space and run the same again to go on from it"
        )
    return f"{path} can not be written: {error}. The checkpoint before it is whole"
