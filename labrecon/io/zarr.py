"""Volumes as a Zarr group, for big ones and for the cloud."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr
from torch import Tensor

from labrecon.io.plain import plain

__all__ = ["write_zarr"]

_CHUNK = 128


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
    group = zarr.open_group(str(target), mode="w")
    chunks = tuple(min(size, _CHUNK) for size in array.shape)
    stored = group.create_array("data", shape=array.shape, dtype=array.dtype, chunks=chunks)
    stored[...] = array
    group.attrs.update(plain(dict(info)))
    return target
