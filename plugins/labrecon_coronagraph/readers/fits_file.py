"""FITS files: opened, read whole, in the machine's byte order."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labrecon.instrument import ReaderError

__all__ = ["Image", "axes", "hdus", "image", "is_fits", "native"]

Image = NDArray[Any]
HEAD = b"SIMPLE  ="


def is_fits(path: Path) -> bool:
    """Whether it is a file that begins like FITS; never raises."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(HEAD)) == HEAD
    except OSError:
        return False


def hdus(path: Path) -> list[Any]:
    """All units of a file, headers and data read.

    Raises:
        ReaderError: it is missing, truncated or damaged.
    """
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyUserWarning

    if not path.is_file():
        raise ReaderError(f"there is no file {path.name} in {path.parent}")
    try:
        with warnings.catch_warnings():
            # Odd keywords are no damage, and data that end early are an error once they are read.
            warnings.simplefilter("ignore", AstropyUserWarning)
            # A stream of our own is closed even where astropy gives up on what is in it.
            with (
                path.open("rb") as stream,
                fits.open(stream, memmap=False, lazy_load_hdus=False) as opened,
            ):
                units = [unit.copy() for unit in opened if unit.data is not None or unit.header]
    except Exception as error:  # damaged files raise whatever their bytes make astropy
        raise ReaderError(
            f"{path.name} ({path.stat().st_size} bytes) is truncated or damaged ({error}); copy it "
            "again"
        ) from error
    if not units:
        raise ReaderError(f"{path.name} holds no FITS data")
    return units


def axes(path: Path) -> list[int]:
    """Number of axes of each image of a file, by a look at the headers.

    Raises:
        Exception: whatever damaged bytes make astropy raise.
    """
    from astropy.io import fits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with path.open("rb") as stream, fits.open(stream, memmap=False) as opened:
            return [int(unit.header.get("NAXIS", 0)) for unit in opened if unit.is_image]


def image(path: Path) -> Image:
    """The first image of a file, native byte order.

    Raises:
        ReaderError: it is missing or damaged, or holds no image.
    """
    for unit in hdus(path):
        if unit.is_image and unit.data is not None:
            return native(unit.data)
    raise ReaderError(f"{path.name} holds no image")


def native(values: Any) -> Image:
    """The values in the machine's byte order: FITS is big-endian, which torch does not take."""
    array = np.asarray(values)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
