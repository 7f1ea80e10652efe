"""Levels between 0 and 1 as a PNG."""

from __future__ import annotations

import functools
import io
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["encode", "png"]


def png(level: NDArray[np.floating[Any]], colours: str = "gray") -> bytes:
    """A picture ``(rows, columns)`` in 256 colours, from the first at 0 to the last at 1.

    Args:
        level: what is below 0, above 1 or infinite has the colour at that end, NaN the first.
        colours: name of a colour map of matplotlib.
    """
    shown = np.clip(np.nan_to_num(level, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    index = (255 * shown + 0.5).astype(np.uint8)
    picture = Image.frombytes("P", (index.shape[1], index.shape[0]), index.tobytes())
    picture.putpalette(_palette(colours))
    return encode(picture)


def encode(picture: Image.Image) -> bytes:
    """The file. Noise hardly compresses: run lengths cost a tenth of the time of more."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_type=zlib.Z_RLE)
    return stream.getvalue()


@functools.cache
def _palette(colours: str) -> bytes:
    if colours == "gray":
        return bytes(value for value in range(256) for _ in range(3))
    import matplotlib  # slow to import, which pages in grey need not wait for

    ramp = np.linspace(0, 1, 256)
    return matplotlib.colormaps[colours](ramp, bytes=True)[:, :3].tobytes()
