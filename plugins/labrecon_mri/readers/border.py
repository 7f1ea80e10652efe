"""What every reader checks before k-space enters labrecon: numbers, memory, sampling, geometry."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from labrecon import Array
from labrecon.instrument import ReaderError
from labrecon_mri.geometry import MRIGeometry

if TYPE_CHECKING:
    import h5py

__all__ = [
    "FRAMES",
    "check_finite",
    "check_memory",
    "checked_geometry",
    "complex_samples",
    "is_hdf5",
    "minimal_mask",
    "open_hdf5",
    "refuse_navigator",
    "sampled",
]

#: Axes of images that were acquired apart, in the order in which readers give them.
FRAMES = ("slice", "contrast", "average", "repetition", "phase", "set")

SIGNATURE = b"\x89HDF\r\n\x1a\n"
GIB = 2.0**30
NAVIGATOR_NAME = re.compile(r"_noPE(?=_|\.|$)")


def is_hdf5(path: Path) -> bool:
    """Whether the file begins as HDF5 files do (it may still be truncated)."""
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises:
        ReaderError: it is empty, truncated or not HDF5, or damaged inside.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        # What h5py raises for a file that is damaged inside.
        size = path.stat().st_size if path.is_file() else 0
        why = "it is truncated" if "truncated" in str(error) else "it is damaged or not HDF5"
        raise ReaderError(
            f"the file has {size} bytes and {why} ({error}); copy it again from the scanner"
        ) from error


def check_memory(samples: int, what: str) -> None:
    """Raise `ReaderError` where complex64 samples do not fit into this machine's memory."""
    need = samples * 8 / GIB
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if need > 0.9 * have:
        raise ReaderError(
            f"{what} needs {need:.1f} GiB as complex64, this machine has {have:.1f} GiB: are the "
            "sizes in the header right? Else split the file by slices, or use a larger machine"
        )


def complex_samples(values: NDArray[Any], what: str, found: dict[str, str]) -> NDArray[Any]:
    """The samples in complex64; that complex128 was rounded is said in ``found``.

    Raises:
        ReaderError: real numbers, text, nothing at all, NaN or infinite.
    """
    if values.dtype.kind != "c":
        raise ReaderError(
            f"{what} holds {values.dtype} numbers, expected complex samples: is it a magnitude "
            "image, or are real and imaginary part an axis of their own?"
        )
    if not values.size:
        raise ReaderError(f"{what} is empty, shape {values.shape}")
    with np.errstate(over="ignore"):
        single = values.astype(np.complex64, copy=False)
    if values.dtype != single.dtype:
        found["precision"] = f"{values.dtype}, rounded to complex64"
    check_finite(single, what)
    return single


def check_finite(values: NDArray[Any], what: str, axes: str = "") -> None:
    """Raise `ReaderError` on NaN or infinite samples, with their number and the first place."""
    finite = np.isfinite(values)
    if finite.all():
        return
    bad = int(finite.size - finite.sum())
    first = tuple(int(i) for i in np.unravel_index(int((~finite).argmax()), finite.shape))
    named = f" in ({axes})" if axes else ""
    raise ReaderError(
        f"{bad} of {finite.size} samples of {what} are NaN or infinite (first at {first}{named}, "
        "counted from 0): the receiver or the conversion failed there. Convert the file again, or "
        "leave that line out"
    )


def sampled(data: Tensor, ndim: int) -> Tensor:
    """Where any coil has a sample that is not exactly zero: (*frames, *matrix), bool.

    Args:
        data: (*frames, coil, *matrix).
        ndim: image axes.
    """
    measured = (data != 0).any(-ndim - 1)
    if not bool(measured.any()):
        raise ReaderError("all samples are exactly zero: was the receiver on?")
    return measured


def minimal_mask(measured: Tensor, ndim: int) -> Array | None:
    """The mask of size 1 along axes where it does not change; None where nothing is missing.

    Args:
        measured: (*frames, *matrix), bool.
        ndim: image axes; frames that are all alike are left out.
    """
    if bool(measured.all()):
        return None
    for axis in range(measured.ndim):
        first = measured.narrow(axis, 0, 1)
        if bool((measured == first).all()):
            measured = first
    while measured.ndim > ndim and max(measured.shape[:-ndim]) == 1:
        measured = measured.squeeze(0)
    return Array(measured.to(torch.float32))


def checked_geometry(**fields: Any) -> MRIGeometry:
    """The geometry; what is impossible in it is the file's fault.

    Raises:
        ReaderError: with the reasons of the model.
    """
    try:
        return MRIGeometry(**fields)
    except ValidationError as error:
        told = "; ".join(str(e["msg"]).removeprefix("Value error, ") for e in error.errors())
        raise ReaderError(f"the file describes an impossible acquisition: {told}") from error


def refuse_navigator(path: Path) -> None:
    """Raise `ReaderError` for a scan without phase encoding, told by ``_noPE`` in its name.

    Its file holds the k-space that was planned, and looks like any other.
    """
    if NAVIGATOR_NAME.search(path.name):
        scan = NAVIGATOR_NAME.sub("", path.name)
        raise ReaderError(
            f"{path.name} is a navigator: _noPE stands for no phase encoding, all its lines go "
            f"through the centre of k-space and make no image. Give {scan} instead (in .npz files "
            "the navigator beside it is found by itself)"
        )
