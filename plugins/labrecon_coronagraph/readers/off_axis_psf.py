"""The off-axis PSF as geometries hold it: of odd size, centred, 1 in its middle pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labrecon.instrument import ReaderError

__all__ = ["centred_psf", "peak_position"]


def centred_psf(values: NDArray[np.generic], what: str) -> tuple[NDArray[np.float64], str]:
    """The PSF centred, of odd size and a peak of 1, and what was done to it.

    Several images (frame, y, x) are averaged by their median. The peak is the maximum of a
    parabola in ``log I`` through the brightest pixel and its neighbours (exact for a Gaussian); the
    image is moved there by the shift theorem, and cut to the largest odd size around it.

    Raises:
        ReaderError: not an image, NaN, no single peak inside, or cut too close to it.
    """
    image = np.asarray(values, dtype=np.float64)
    if image.ndim == 3:
        image = np.median(image, axis=0)
    if image.ndim != 2 or min(image.shape) < 5 or not np.isfinite(image).all():
        raise ReaderError(
            f"{what} has shape {np.shape(values)}, expected a finite image (y, x), or some, of an "
            "off-axis star, of at least 5 pixels"
        )
    given = image.shape
    y, x = peak_position(image, what)
    whole = round(y), round(x)
    half = min(min(at, size - 1 - at) for at, size in zip(whole, image.shape, strict=True))
    if half < 2:
        raise ReaderError(f"{what}: the star at (y, x) = {whole} is at the edge of {image.shape}")
    image = image[whole[0] - half : whole[0] + half + 1, whole[1] - half : whole[1] + half + 1]
    move = y - whole[0], x - whole[1]
    if max(abs(move[0]), abs(move[1])) > 0.02:
        image = _moved(image, (-move[0], -move[1]))
    peak = image[half, half]
    if image.max() > 1.001 * peak:
        raise ReaderError(
            f"{what} is brighter beside its peak after centring: is it saturated, or not one star?"
        )
    size = 2 * half + 1
    cut = (
        "" if given == (size, size) else f" (cut from {given[0]} × {given[1]}, odd around the star)"
    )
    told = f"{size}² pixels{cut}, peak {peak:.4g}, moved by ({-move[0]:.3f}, {-move[1]:.3f}) px"
    return image / peak, told


def peak_position(image: NDArray[np.float64], what: str) -> tuple[float, float]:
    """(y, x) of the maximum between the pixels.

    Raises:
        ReaderError: it lies on the edge, or is flat, as that of a saturated star.
    """
    y, x = (int(i) for i in np.unravel_index(int(image.argmax()), image.shape))
    if not (0 < y < image.shape[0] - 1 and 0 < x < image.shape[1] - 1) or image[y, x] <= 0:
        raise ReaderError(f"{what}: the brightest pixel (y, x) = {(y, x)} is on its edge")
    if int((image >= image[y, x] * (1 - 1e-6)).sum()) > 2:
        raise ReaderError(
            f"{what} has several pixels at its maximum {image[y, x]:g}: the star is saturated; "
            "take an exposure that is shorter, or through a neutral density filter"
        )
    floor = image[y, x] * 1e-6
    logs = np.log(np.maximum(image[y - 1 : y + 2, x - 1 : x + 2], floor))
    return y + _vertex(logs[:, 1]), x + _vertex(logs[1, :])


def _vertex(three: NDArray[np.float64]) -> float:
    curvature = three[0] - 2 * three[1] + three[2]
    return float(0.5 * (three[0] - three[2]) / curvature) if curvature < 0 else 0.0


def _moved(image: NDArray[np.float64], by: tuple[float, float]) -> NDArray[np.float64]:
    ky, kx = (np.fft.fftfreq(n) for n in image.shape)
    ramp = np.exp(-2j * np.pi * (ky[:, None] * by[0] + kx * by[1]))
    return np.fft.ifft2(np.fft.fft2(image) * ramp).real
