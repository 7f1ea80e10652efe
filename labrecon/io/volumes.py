"""Volumes read back from the files that writers made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon.errors import OutputError
from labrecon.io.objects import READERS

__all__ = ["EXACT", "read_volume"]


def read_volume(path: Path, shape: Sequence[int] | None = None) -> Tensor:
    """The values in a volume's file, with their dtype.

    HDF5, TIFF and Zarr hold the volume as it was; other formats what their writer made of it: NIfTI
    turns the axes, and keeps a part of complex numbers.

    Args:
        path: of `write_hdf5`, `write_tiff`, `write_zarr`, or another format of
            `labrecon.io.objects`, such as NIfTI.
        shape: of the volume. TIFF knows pages only: values of another shape but equal number are
            brought to it.

    Raises:
        OutputError: there is no such file, it is damaged, or nobody reads the format.
    """
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
    read = EXACT.get(suffix) or _other(suffix)
    if read is None:
        raise OutputError(f"{path.name}: volumes {suffix} can be written, but not read back")
    if not path.exists():
        raise OutputError(f"{path} does not exist")
    try:
        array = read(path)
    except Exception as error:
        # A damaged file can break any library in its own way.
        raise OutputError(f"{path} can not be read: {type(error).__name__}: {error}") from error
    values = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    if suffix == ".tif" and shape is not None and values.numel() == np.prod(shape):
        return values.reshape(tuple(shape))
    return values


def _hdf5(path: Path) -> NDArray[Any]:
    with h5py.File(path) as file:
        return np.asarray(file["entry/data/data"][()])


def _tiff(path: Path) -> NDArray[Any]:
    import tifffile

    return np.asarray(tifffile.imread(path))


def _zarr(path: Path) -> NDArray[Any]:
    import zarr

    group: Any = zarr.open_group(str(path), mode="r")
    return np.asarray(group["data"][...])


def _other(suffix: str) -> Callable[[Path], NDArray[Any]] | None:
    read = READERS.get(suffix)
    return None if read is None else lambda path: read(path, None)


#: Formats that hold a volume as it was.
EXACT: Mapping[str, Callable[[Path], NDArray[Any]]] = {
    ".h5": _hdf5,
    ".tif": _tiff,
    ".zarr": _zarr,
}
