"""What every reader checks before data enter labrecon: numbers, counts, angles, memory."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon.instrument import ReaderError

__all__ = [
    "angles_in_rad",
    "check_flats",
    "check_memory",
    "check_samples",
    "check_views",
    "describe_angles",
    "real_dtype",
]

GIB = 2.0**30


def real_dtype(dtype: np.dtype[Any], what: str) -> None:
    """Raise `ReaderError` unless samples are real numbers."""
    if dtype.kind not in "fiub":
        kind = {"c": "complex numbers", "S": "text", "O": "text or objects", "U": "text"}
        raise ReaderError(
            f"{what} holds {kind.get(dtype.kind, str(dtype))} ({dtype}), expected real counts or "
            "line integrals: is this the right dataset?"
        )


def check_memory(samples: int, what: str) -> None:
    """Raise `ReaderError` where float32 samples do not fit into this machine's memory."""
    need = samples * 4 / GIB
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if need > 0.9 * have:
        raise ReaderError(
            f"{what} needs {need:.1f} GiB as float32, this machine has {have:.1f} GiB: crop or bin "
            "the file first, or read it on a larger machine"
        )


def check_samples(values: Tensor, what: str, *, counts: bool) -> None:
    """Raise `ReaderError` on NaN or infinite samples and on negative counts."""
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        first = tuple((~finite).nonzero()[0].tolist())
        raise ReaderError(
            f"{bad} of {values.numel()} samples of {what} are NaN or infinite (first at {first}); "
            "replace them by a finite value in the file and give them to the step bad_pixels"
        )
    if counts and bool((values < 0).any()):
        raise ReaderError(
            f"{int((values < 0).sum())} of {values.numel()} samples of {what} are negative "
            f"(lowest {float(values.min()):.4g}), expected raw counts: were darks already "
            "subtracted, or are these line integrals?"
        )


def check_flats(flats: Tensor | None, darks: Tensor | None) -> None:
    """Raise `ReaderError` where flats show no beam."""
    if flats is None:
        return
    if not bool((flats != 0).any()):
        raise ReaderError(
            f"all {len(flats)} flats are zero, expected open-beam images: was the shutter closed, "
            "or are they stored elsewhere?"
        )
    if darks is not None and float(flats.double().mean()) <= float(darks.double().mean()):
        raise ReaderError(
            f"flats (mean {float(flats.double().mean()):.4g}) are not brighter than darks (mean "
            f"{float(darks.double().mean()):.4g}): are they swapped?"
        )


def check_views(angles: NDArray[np.float64], views: int, where: str) -> None:
    """Raise `ReaderError` unless there is one finite angle per projection."""
    if angles.ndim != 1 or len(angles) != views:
        raise ReaderError(
            f"{where} holds {angles.size} angles for {views} projections, expected one angle per "
            "projection (without those of flats and darks)"
        )
    if not np.isfinite(angles).all():
        raise ReaderError(
            f"{int((~np.isfinite(angles)).sum())} of {views} angles in {where} are NaN or infinite"
        )


def angles_in_rad(
    values: NDArray[np.float64], unit: str | None, assumed: dict[str, str]
) -> NDArray[np.float64]:
    """Angles in rad; an absent unit is taken as degrees and said in ``assumed``.

    Warns where the range speaks for the other unit; the file's word is taken nevertheless.

    Raises:
        ReaderError: the unit is neither degrees nor radians.
    """
    name = (unit or "").strip().lower()
    if name in ("rad", "radian", "radians"):
        if len(values) > 3 and np.ptp(values) > 8 * math.pi:
            _doubt(assumed, f"angles span {np.ptp(values):.4g} rad: were degrees given as radians?")
        return values
    if name not in ("", "deg", "degree", "degrees", "°"):
        raise ReaderError(f"the angle unit is {unit!r}, expected degrees or radians")
    if not name:
        assumed["angle unit"] = "degrees (the file names none)"
    if len(values) > 8 and 0 < np.ptp(values) < 2.05 * math.pi:
        _doubt(
            assumed,
            f"{len(values)} angles span {np.ptp(values):.4g} degrees: were radians given as "
            "degrees?",
        )
    return np.deg2rad(values)


def _doubt(assumed: dict[str, str], message: str) -> None:
    assumed["angles"] = f"{message} Taken as the file says."
    warnings.warn(message, stacklevel=4)


def describe_angles(angles: NDArray[np.float64]) -> str:
    """``"181, 0° to 179.006°"``."""
    first, last = np.rad2deg(angles[[0, -1]])
    return f"{len(angles)}, {first:.6g}° to {last:.6g}°"
