"""What every reader checks before frames enter labrecon: numbers, counts, units, the PSF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from labrecon.instrument import ReaderError
from labrecon_coronagraph.geometry import CoronagraphGeometry

__all__ = [
    "Frames",
    "checked_angles",
    "checked_geometry",
    "checked_pixel_scale",
    "noise_of_differences",
    "read_frames",
]

Values = NDArray[Any]


@dataclass
class Frames:
    """Finite frames (frame, y, x), their weights, and what was said about them."""

    data: Tensor
    weights: Tensor | None
    found: dict[str, str] = field(default_factory=dict)


def read_frames(values: Values, what: str, saturation: float | None = None) -> Frames:
    """A cube (frame, y, x) as float32, with weight 0 where it is not finite.

    A sample that is NaN or infinite gets the median of its pixel over the other frames, or 0 where
    there is none; weight 0 says that it was not measured. `bad_frames` leaves out frames of which
    nothing is left.

    Args:
        values: the array in the file.
        what: its name in messages.
        saturation: level of the data at which the detector is not linear any more.

    Raises:
        ReaderError: not a cube of real numbers, fewer than 2 frames, nothing finite in it, or
            single precision does not hold it.
    """
    if values.ndim != 3 or values.dtype.kind not in "fiu":
        raise ReaderError(
            f"{what} is {values.dtype} of shape {values.shape}, expected real frames "
            "(frame, y, x): give the images of one wavelength, as one cube"
        )
    if len(values) < 2:
        raise ReaderError(
            f"{what} holds {len(values)} frame: the sky does not turn in a single one"
        )
    with np.errstate(over="ignore"):
        cube = np.ascontiguousarray(values, dtype=np.float32)
    good = np.isfinite(cube)
    if not good.any() or bool((np.isfinite(values) & ~good).any()):
        raise ReaderError(f"{what} holds no finite numbers, or some beyond single precision")
    found = {"frames": f"{len(cube)} of {cube.shape[1]} × {cube.shape[2]} pixels, {values.dtype}"}
    weights = None
    if not good.all():
        weights = torch.from_numpy(good.astype(np.float32))
        frames = np.flatnonzero(~good.all((1, 2)))
        shown = ", ".join(str(frame) for frame in frames[:12])
        found["not finite"] = (
            f"{int((~good).sum())} of {good.size} samples in {len(frames)} frames ({shown}"
            f"{', …' if len(frames) > 12 else ''}): weight 0"
        )
        cube = np.where(good, cube, _medians(cube, good)).astype(np.float32)
    if saturation is not None and float(cube.max()) >= saturation:
        over = np.flatnonzero((cube >= saturation).any((1, 2)))
        found["saturated"] = (
            f"{int((cube >= saturation).sum())} samples at or above {saturation:g} in {len(over)} "
            "frames: the star's core is not linear there; set such pixels' weight to 0 by the step "
            "bad_pixels"
        )
    return Frames(torch.from_numpy(cube), weights, found)


def _medians(cube: NDArray[np.float32], good: NDArray[np.bool_]) -> NDArray[np.float32]:
    masked = np.ma.median(np.ma.array(cube, mask=~good), axis=0)
    return np.ma.filled(masked, 0.0).astype(np.float32)


def checked_angles(values: Values, frames: int, what: str) -> NDArray[np.float64]:
    """One angle per frame in degrees.

    Raises:
        ReaderError: another number of them, NaN, or a course that looks like radians or does not
            turn at all.
    """
    angles = np.asarray(values, dtype=np.float64).squeeze()
    if angles.ndim != 1 or len(angles) != frames:
        raise ReaderError(
            f"{what} holds {angles.size} angles of shape {np.shape(values)} for {frames} frames, "
            "expected one per frame: is a file truncated, or of another sequence?"
        )
    if not np.isfinite(angles).all():
        bad = np.flatnonzero(~np.isfinite(angles)).tolist()
        raise ReaderError(f"{what}: the angles of frames {bad[:12]} are NaN or infinite")
    span = float(np.ptp(np.unwrap(angles, period=360.0)))
    if span == 0:
        raise ReaderError(f"{what}: all angles are {angles[0]:g}: the sky does not turn")
    if float(np.abs(angles).max()) <= 2 * np.pi + 1e-6 and span < np.pi:
        raise ReaderError(
            f"{what}: angles from {angles.min():.4g} to {angles.max():.4g} look like radians, "
            "expected degrees: multiply them by 180/π. If they are degrees, add 360 to each"
        )
    if float(np.abs(angles).max()) > 720:
        raise ReaderError(f"{what}: an angle of {np.abs(angles).max():g}, expected degrees")
    return angles


def checked_pixel_scale(value: float, what: str) -> float:
    """A pixel scale in mas.

    Raises:
        ReaderError: it looks like degrees, radians or arcseconds.
    """
    if not np.isfinite(value) or not 0.5 < value < 500:
        size = abs(value)
        unit = "arcsec, multiply by 1000" if 5e-4 < size <= 0.5 else None
        if 1e-7 < size <= 5e-4:
            unit = "degrees, multiply by 3.6e6"
        elif 1e-10 < size <= 1e-7:
            unit = "radians, multiply by 2.06265e8"
        guess = f" (is it {unit}?)" if unit else ""
        raise ReaderError(f"{what} is {value:g}, expected mas per pixel, such as 12.25{guess}")
    return float(value)


def noise_of_differences(data: Tensor, weights: Tensor | None = None) -> float | None:
    """Robust standard deviation of a pixel: that of differences of frames in turn, over √2."""
    change = data.diff(dim=0)
    if weights is not None:
        change = change[(weights[1:] > 0) & (weights[:-1] > 0)]
    change = change.flatten()
    if not change.numel():
        return None
    change = change[:: max(1, change.numel() // 10**6)]
    sigma = 1.4826 * float(change.abs().median()) / 2**0.5
    return sigma if sigma > 0 else None


def checked_geometry(fields: Mapping[str, Any]) -> CoronagraphGeometry:
    """The geometry, with what is impossible in it as a `ReaderError`."""
    try:
        return CoronagraphGeometry.model_validate(dict(fields))
    except ValidationError as error:
        told = []
        for one in error.errors()[:6]:
            place = ".".join(str(part) for part in one["loc"])
            told.append(f"{place}: {one['msg']}" if place else one["msg"])
        raise ReaderError(f"impossible geometry: {'; '.join(told)}") from error
