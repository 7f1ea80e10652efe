"""Arrays as pictures inside a page: PNG as data URI, with grey-scale and length bars."""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from labrecon.report.png import png

__all__ = ["Picture", "data_picture", "modulus", "picture", "planes", "slices", "window_of"]

_WIDEST = 900
_SMALL = 300
#: Values from which percentiles are taken; more change nothing that one could see.
_SAMPLED = 500_000
Array = NDArray[np.floating]


@dataclass(frozen=True)
class Picture:
    """One picture with what stands around it.

    Attributes:
        title: above it.
        source: the PNG as data URI.
        bar: the colours from low to high, as data URI.
        low: value of the first colour, formatted.
        high: value of the last.
        unit: of the values.
        aspect: width by height.
        scale: label of a length bar and its share of the width.
        note: below it.
        crisp: few pixels, which should not be blurred when enlarged.
    """

    title: str
    source: str
    bar: str
    low: str
    high: str
    unit: str
    aspect: float
    scale: tuple[str, float] | None = None
    note: str = ""
    crisp: bool = False


def slices(
    x: NDArray[np.generic],
    axes: Sequence[str],
    voxel_size: Sequence[float | None] | None,
    upward: Sequence[str] = (),
) -> list[tuple[str, NDArray[np.generic], tuple[float | None, float | None]]]:
    """Central slices in three planes; each slice of a thin stack; or the one image.

    Args:
        x: the object, of two dimensions or more.
        axes: a name for each axis.
        voxel_size: along each axis.
        upward: axes that grow upwards: as axis of the rows, the first row is at the bottom.

    Returns:
        Title, image, and the size of its pixels (down, across) for each.
    """
    sizes = list(voxel_size) if voxel_size else [None] * x.ndim
    lead = ""
    while x.ndim > 3:
        lead += f"{axes[0]} {x.shape[0] // 2}, "
        x, axes, sizes = x[x.shape[0] // 2], axes[1:], sizes[1:]

    def upright(image: NDArray[np.generic], axis: int) -> NDArray[np.generic]:
        return image[::-1] if axes[axis] in upward else image

    if x.ndim == 2:
        return [(lead.rstrip(", "), upright(x, 0), (sizes[0], sizes[1]))]
    each = [(f"{lead}{axes[0]} {i}", upright(x[i], 1), (sizes[1], sizes[2])) for i in range(len(x))]
    if len(x) <= 4:
        return each
    found = []
    for axis in range(3):
        rest = [i for i in range(3) if i != axis]
        if min(x.shape[i] for i in rest) >= 8:
            middle = x.shape[axis] // 2
            plane = upright(np.take(x, middle, axis=axis), rest[0])
            found.append((f"{lead}{axes[axis]} {middle}", plane, (sizes[rest[0]], sizes[rest[1]])))
    return found or [each[len(each) // 2]]


def modulus(image: NDArray[np.generic]) -> Array:
    """What can be shown in grey: the values, or the modulus of complex ones."""
    return np.abs(image) if np.iscomplexobj(image) else cast("Array", image)


def planes(
    x: Tensor,
    axes: Sequence[str],
    voxel_size: Sequence[float | None] | None,
    upward: Sequence[str] = (),
) -> list[tuple[str, Array, tuple[float | None, float | None]]]:
    """`slices` of an object, as can be shown in grey."""
    values = x.detach().cpu().resolve_conj().numpy()
    found = slices(values, axes, voxel_size, upward)
    return [(title, modulus(image), pixel) for title, image, pixel in found]


def window_of(images: Sequence[Array]) -> tuple[float, float]:
    """Grey window from the 0.5 to the 99.5 percentile of finite values."""
    values = np.concatenate([image[np.isfinite(image)].ravel() for image in images])
    # An odd step meets all columns of a picture whose width is even.
    values = values[:: values.size // _SAMPLED | 1]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def picture(
    title: str,
    image: Array,
    window: tuple[float, float],
    *,
    unit: str = "",
    colours: str = "gray",
    pixel: tuple[float | None, float | None] = (None, None),
    note: str = "",
) -> Picture:
    """A picture with true proportions and, where the pixel size is known, a length bar."""
    rows, columns = image.shape
    down, across = pixel
    height, width = rows * (down or 1.0), columns * (across or 1.0)
    scale = _length_bar(width) if across else None
    return _make(title, image, window, unit, colours, width / height, scale, note)


def data_picture(
    title: str,
    image: Array,
    window: tuple[float, float],
    *,
    unit: str = "",
    colours: str = "gray",
    note: str = "",
) -> Picture:
    """A picture of data, whose two axes have no common unit: extreme shapes are stretched."""
    aspect = min(max(image.shape[1] / image.shape[0], 0.8), 2.5)
    return _make(title, image, window, unit, colours, aspect, None, note)


def _make(
    title: str,
    image: Array,
    window: tuple[float, float],
    unit: str,
    colours: str,
    aspect: float,
    scale: tuple[str, float] | None,
    note: str,
) -> Picture:
    low, high = window
    crisp = max(image.shape) < _SMALL
    level = (_shrink(image) - low) / (high - low)
    return Picture(
        title,
        _uri(png(level, colours)),
        _bar(colours),
        f"{low:.3g}",
        f"{high:.3g}",
        unit,
        aspect,
        scale,
        note,
        crisp,
    )


@functools.cache
def _bar(colours: str) -> str:
    return _uri(png(np.linspace(0, 1, 256)[None], colours))


def _uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _shrink(image: Array) -> Array:
    """Block means, so that a page stays small and thin lines do not vanish."""
    for axis in (0, 1):
        factor = math.ceil(image.shape[axis] / _WIDEST)
        if factor > 1:
            size = image.shape[axis] // factor * factor
            kept = np.moveaxis(image, axis, 0)[:size]
            means = kept.reshape(size // factor, factor, -1).mean(1)
            image = np.moveaxis(means, 0, axis)
    return image


def _length_bar(width: float) -> tuple[str, float]:
    """A round length near a quarter of the width in mm."""
    target = width / 4
    power = 10.0 ** math.floor(math.log10(target))
    length = max(step * power for step in (1, 2, 5) if step * power <= target)
    for factor, unit in ((1.0, "mm"), (1e3, "µm"), (1e6, "nm"), (1e9, "pm")):
        if length * factor >= 1 or unit == "pm":
            return f"{length * factor:g} {unit}", length / width
    raise AssertionError("unreachable")
