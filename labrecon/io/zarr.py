"""Volumes as a Zarr group, for big ones and for the cloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from torch import Tensor

from labrecon.io.plain import plain

__all__ = ["CHUNK", "create_zarr", "describe_zarr", "open_zarr", "write_zarr"]

#: Most samples of a chunk along an axis.
CHUNK = 128


def write_zarr(path: Path, volume: Tensor, info: Mapping[str, Any]) -> Path:
    """Write ``path.zarr`` with the array ``data``; voxel size and provenance are attributes.

    The dtype is kept, complex included. Chunks have at most 128 samples along each axis.

    Args:
        path: name without suffix.
        volume: the reconstruction.
        info: ``axes``, ``voxel_size`` (mm per axis or None), ``unit``, ``provenance``.
    """
    target = path.with_name(path.name + ".zarr")
    array = volume.detach().cpu().resolve_conj().numpy()
    stored = create_zarr(target, array.shape, array.dtype)
    stored[...] = array
    describe_zarr(target, info)
    return target


def create_zarr(
    target: Path, shape: Sequence[int], dtype: np.dtype[Any], rows: int = CHUNK
) -> zarr.Array[Any]:
    """The array of a new volume, to be filled; ``rows`` are those of a chunk."""
    group = zarr.open_group(str(target), mode="w")
    chunks = tuple(min(size, most) for size, most in zip(shape, _chunk(rows, shape), strict=True))
    return group.create_array("data", shape=tuple(shape), dtype=dtype, chunks=chunks)


def describe_zarr(target: Path, info: Mapping[str, Any]) -> None:
    """Write voxel size, provenance and the rest of ``info`` as attributes."""
    zarr.open_group(str(target), mode="r+").attrs.update(plain(dict(info)))


def open_zarr(target: Path) -> zarr.Array[Any]:
    """The array of a volume, to be read or filled."""
    found = zarr.open_group(str(target), mode="r+")["data"]
    assert isinstance(found, zarr.Array)
    return found


def _chunk(rows: int, shape: Sequence[int]) -> tuple[int, ...]:
    return (rows, *[CHUNK] * (len(shape) - 1)) if len(shape) else ()
