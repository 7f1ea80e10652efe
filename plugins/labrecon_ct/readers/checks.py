"""What every CT reader asks of the numbers in a file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from labrecon.instrument import ReaderError
from labrecon_ct.geometry import CTGeometry

__all__ = ["angles_in_radians", "counts", "make_geometry", "opened", "span_text"]

LENGTHS = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file, with its errors in words.

    Raises:
        ReaderError: the file is truncated, damaged or no HDF5.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise ReaderError(
            f"the HDF5 file is truncated or damaged ({error}); copy it again from the instrument"
        ) from error


def counts(values: Any, what: str) -> Tensor:
    """Detector counts as float32, or line integrals; nothing but finite numbers.

    Raises:
        ReaderError: text, complex numbers, NaN, infinities or an empty array.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iufb" or array.size == 0:
        raise ReaderError(
            f"{what} holds {array.dtype} of shape {array.shape}; real numbers were expected"
        )
    result = np.ascontiguousarray(array, dtype=np.float32)
    bad = int((~np.isfinite(result)).sum())
    if bad:
        raise ReaderError(f"{what}: {bad} of {result.size} values are NaN or infinite")
    return torch.from_numpy(result)


def refuse_negative(values: Tensor, what: str) -> None:
    """Raise `ReaderError` on counts below zero: they are not raw."""
    negative = int((values < 0).sum())
    if negative:
        raise ReaderError(
            f"{what}: {negative} of {values.numel()} counts are negative (lowest "
            f"{float(values.min()):.4g}); raw counts were expected: was the dark already "
            "subtracted, or are these line integrals?"
        )


def angles_in_radians(
    values: Any, unit: str | None, frames: int, what: str
) -> tuple[tuple[float, ...], str]:
    """Angles of the frames in rad, and the unit they were taken to be in.

    A range that makes no sense in the stated unit draws a warning.

    Raises:
        ReaderError: there are not as many as frames, or they are not finite numbers.
    """
    angles: NDArray[np.float64] = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if angles.shape != (frames,):
        raise ReaderError(
            f"{what}: {angles.size} angles of shape {angles.shape} for {frames} frames"
        )
    if not np.isfinite(angles).all():
        raise ReaderError(f"{what}: {int((~np.isfinite(angles)).sum())} angles are not finite")
    stated = (unit or "").strip().lower()
    radians = stated.startswith("rad")
    span = float(np.ptp(angles))
    if radians and span > 8 * math.pi:
        warnings.warn(
            f"{what} says radians and spans {span:.4g}, more than four turns: degrees?",
            stacklevel=2,
        )
    if not radians and frames > 2 and 0 < span <= 2.001 * math.pi:
        warnings.warn(
            f"{what} was taken as degrees and spans {span:.4g}°: is it in radians?", stacklevel=2
        )
    told = stated or "deg (not stated)"
    return tuple((angles if radians else np.deg2rad(angles)).tolist()), told


def length_in_mm(value: float, unit: str | None, default: str) -> float:
    """A length in mm from its unit attribute."""
    name = (unit or default).strip()
    if name not in LENGTHS:
        raise ReaderError(f"unknown unit of length {name!r}")
    return float(value) * LENGTHS[name]


def make_geometry(**fields: Any) -> CTGeometry:
    """A geometry; what pydantic objects to becomes a `ReaderError`."""
    try:
        return CTGeometry(**fields)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ReaderError(f"the file's geometry is impossible: {told}") from error


def span_text(angles: tuple[float, ...]) -> str:
    """``"181 views, 0.00° to 179.01°"``."""
    low, high = math.degrees(min(angles)), math.degrees(max(angles))
    return f"{len(angles)} views, {low:.2f}° to {high:.2f}°"
