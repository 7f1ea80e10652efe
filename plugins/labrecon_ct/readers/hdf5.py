"""Opening HDF5 files of beamlines: truncation, external links, units."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labrecon.instrument import ReaderError

if TYPE_CHECKING:
    import h5py

__all__ = ["SIGNATURE", "dangling", "datasets", "is_hdf5", "length_in_mm", "open_hdf5", "unit_of"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
LENGTHS = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}


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
        ReaderError: it is empty, truncated or not HDF5.
    """
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        size = path.stat().st_size if path.is_file() else 0
        why = "it is truncated" if "truncated" in str(error) else "it is damaged or not HDF5"
        raise ReaderError(
            f"the file has {size} bytes and {why} ({error}); copy it again from the instrument"
        ) from error
    with file:
        yield file


def datasets(group: h5py.Group, *, path: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """All datasets below a group with their paths; dangling links are passed over."""
    import h5py

    for name in group:
        here = f"{path}/{name}"
        link = group.get(name, getlink=True)
        # Soft links lead to things that are met on their own way, and may go round in circles.
        if isinstance(link, h5py.SoftLink):
            continue
        try:
            item = group[name]
        except (KeyError, OSError):
            continue
        if isinstance(item, h5py.Dataset):
            yield here, item
        elif isinstance(item, h5py.Group) and not isinstance(link, h5py.ExternalLink):
            yield from datasets(item, path=here)


def dangling(group: h5py.Group, folder: Path, *, path: str = "") -> dict[str, list[str]]:
    """Links that lead nowhere: reason to the paths of the links."""
    import h5py

    reasons: dict[str, list[str]] = {}
    for name in group:
        here = f"{path}/{name}"
        link = group.get(name, getlink=True)
        try:
            item = group[name]
        except (KeyError, OSError):
            if isinstance(link, h5py.ExternalLink):
                there = (folder / link.filename).is_file()
                reason = (
                    f"the file {link.filename} has no such dataset"
                    if there
                    else f"the file {link.filename} is not there"
                )
            else:
                reason = "the link leads to nothing in this file"
            reasons.setdefault(reason, []).append(here)
            continue
        if isinstance(item, h5py.Group) and isinstance(link, h5py.HardLink):
            for reason, paths in dangling(item, folder, path=here).items():
                reasons.setdefault(reason, []).extend(paths)
    return reasons


def unit_of(dataset: h5py.Dataset) -> str | None:
    """The ``units`` attribute as text."""
    value: Any = dataset.attrs.get("units")
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        value = value.flat[0] if value.size else ""
    return value.decode() if isinstance(value, bytes) else str(value)


def length_in_mm(dataset: h5py.Dataset, *, default: str = "m") -> float:
    """A length in mm; without a unit it is in ``default``.

    Raises:
        ReaderError: the unit is not a length, or the value not a positive number.
    """
    unit = unit_of(dataset) or default
    name = {"meter": "m", "metre": "m", "millimeter": "mm", "micrometer": "um", "μm": "um"}.get(
        unit.strip().lower(), unit.strip()
    )
    if name not in LENGTHS:
        raise ReaderError(f"{dataset.name} has the unit {unit!r}, expected one of {list(LENGTHS)}")
    value = float(np.asarray(dataset[()], dtype=np.float64).flat[0])
    if not (np.isfinite(value) and value >= 0):
        raise ReaderError(f"{dataset.name} is {value} {unit}, expected a length")
    return value * LENGTHS[name]
