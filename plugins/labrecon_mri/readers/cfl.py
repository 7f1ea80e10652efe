"""Arrays of BART: ``.cfl`` (complex64, first axis fastest) with a text header ``.hdr``."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labrecon.instrument import ReaderError
from labrecon_mri.readers.border import check_finite, check_memory

__all__ = ["DIMS", "both", "read_cfl", "read_section", "write_cfl"]

#: Dimensions of BART.
DIMS = ("x", "y", "z", "coil", "maps", "te", "coeff", "coeff2", "iter", "cshift", "time", "time2",
        "level", "slice", "avg", "batch")  # fmt: skip


def both(path: Path) -> tuple[Path, Path]:
    """The ``.cfl`` and the ``.hdr`` of an array, from either name or the name without ending."""
    stem = path.name
    if path.suffix in (".cfl", ".hdr"):
        stem = stem[: -len(path.suffix)]
    return path.with_name(stem + ".cfl"), path.with_name(stem + ".hdr")


def read_cfl(path: Path) -> NDArray[Any]:
    """The array with 16 dimensions, in BART's order.

    Raises:
        ReaderError: one of the two files is missing, or they do not fit together; NaN.
    """
    data, header = both(path)
    for file, other in ((data, header), (header, data)):
        if not file.is_file():
            raise ReaderError(f"{file.name} is missing beside {other.name}: BART arrays have both")
    shape = _shape(header)
    size, expected = data.stat().st_size, 8 * math.prod(shape)
    if size != expected:
        told = "truncated" if size < expected else "too long"
        sizes = " × ".join(str(n) for n in shape if n > 1) or "1"
        raise ReaderError(
            f"{data.name} has {size} bytes and is {told}: {header.name} says {sizes} complex64 "
            f"numbers, {expected} bytes. Copy both files again"
        )
    check_memory(math.prod(shape), data.name)
    try:
        values = np.fromfile(data, "<c8").reshape(shape, order="F")
    except (OSError, ValueError) as error:
        raise ReaderError(f"{data.name} can not be read: {error}") from error
    check_finite(values, data.name, ", ".join(DIMS))
    return values.astype(np.complex64, copy=False)


def _shape(header: Path) -> tuple[int, ...]:
    text = read_section(header, "Dimensions")
    try:
        sizes = [int(word) for word in text.split()]
    except ValueError:
        sizes = []
    if not 0 < len(sizes) <= len(DIMS) or min(sizes) < 1:
        raise ReaderError(
            f"{header.name} has the dimensions {text!r}, expected up to 16 whole numbers after a "
            "line '# Dimensions'"
        )
    return (*sizes, *(1,) * (len(DIMS) - len(sizes)))


def read_section(header: Path, name: str) -> str:
    """The line after ``# name``; empty without one."""
    try:
        lines = header.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ReaderError(f"{header.name} is no text header of BART: {error}") from error
    for title, line in itertools.pairwise(lines):
        if title.strip() == f"# {name}":
            return line
    return ""


def write_cfl(path: Path, values: NDArray[Any], **sections: str) -> Path:
    """Write ``path`` (ending in ``.cfl``) and its header; sections are further lines of text.

    Args:
        path: of the ``.cfl``.
        values: up to 16 dimensions in BART's order; stored as complex64.
        sections: title and one line of text each.
    """
    data, header = both(path)
    shape = (*values.shape, *(1,) * (len(DIMS) - values.ndim))
    values.astype("<c8").ravel(order="F").tofile(data)
    told = "".join(f"# {name}\n{text}\n" for name, text in sections.items())
    header.write_text(f"# Dimensions\n{' '.join(map(str, shape))} \n{told}", encoding="utf-8")
    return data
