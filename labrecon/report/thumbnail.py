"""The small picture of an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from labrecon.report.pictures import modulus, planes, window_of
from labrecon.report.png import encode, png

__all__ = ["thumbnail"]

_WIDEST = 256
_LOW = 96


def thumbnail(
    volume: Tensor,
    axes: Sequence[str],
    voxel_size: Sequence[float | None] | None,
    upward: Sequence[str] = (),
) -> bytes:
    """The middle slice as a PNG of at most 256 pixels, in true proportions where they are known.

    The grey window is from the 0.5 to the 99.5 percentile; complex values are shown by their
    modulus, an object of one dimension by a line.

    Args:
        volume: the object, batch axes first.
        axes: a name for each axis.
        voxel_size: size along each axis in mm, as far as it is known.
        upward: axes that grow upwards in pictures.
    """
    if volume.ndim < 2:
        return _line(modulus(volume.detach().cpu().resolve_conj().numpy().reshape(-1)))
    _, image, (down, across) = planes(volume, axes, voxel_size, upward)[0]
    low, high = window_of([image])
    rows, columns = image.shape
    height, width = (rows * down, columns * across) if down and across else (rows, columns)
    factor = min(_WIDEST, max(rows, columns)) / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    level = (image - low) / (high - low)
    if size == (columns, rows):
        return png(level)
    grey = np.clip(np.nan_to_num(level, nan=0.0, posinf=1.0, neginf=0.0), 0, 1).astype(np.float32)
    # Means over the pixels below each: thin lines do not vanish.
    small = Image.fromarray(grey).resize(size, Image.Resampling.BOX)
    return png(np.asarray(small))


def _line(values: NDArray[np.floating[Any]]) -> bytes:
    low, high = window_of([values])
    level = (np.nan_to_num(np.clip(values, low, high), nan=low) - low) / (high - low)
    picture = Image.new("L", (_WIDEST, _LOW))
    x = np.linspace(2, _WIDEST - 3, values.size)
    y = _LOW - 5 - (_LOW - 10) * level
    ImageDraw.Draw(picture).line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=230)
    return encode(picture)
