"""Volumes as a TIFF stack, which ImageJ and every viewer open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tifffile
from torch import Tensor

from labrecon.io.plain import dumps

__all__ = ["write_tiff"]


def write_tiff(
    path: Path, volume: Tensor, info: Mapping[str, Any], *, compression: str | None = None
) -> Path:
    """Write ``path.tif``: a page per slice, float32 kept, voxel size and provenance inside.

    The resolution tags hold the pixels per centimetre; the description of the first page is JSON
    with the voxel size along every axis and the provenance. BigTIFF is used beyond 4 GB.

    Args:
        path: name without suffix.
        volume: the reconstruction; leading axes become pages.
        info: ``axes``, ``voxel_size`` (mm per axis or None), ``unit``, ``provenance``.
        compression: of tifffile, such as ``"zlib"``.

    Raises:
        ValueError: the volume is complex, which TIFF viewers do not read.
    """
    if volume.is_complex():
        raise ValueError(
            "TIFF holds no complex numbers that viewers read; set output.format to 'hdf5' or 'zarr'"
        )
    target = path.with_name(path.name + ".tif")
    array = volume.detach().cpu().numpy()
    sizes = info.get("voxel_size")
    in_plane = sizes[-2:] if sizes and all(sizes[-2:]) else None
    tifffile.imwrite(
        target,
        array,
        photometric="minisblack",
        compression=compression,
        bigtiff=array.nbytes > 4_000_000_000,
        resolution=(10 / in_plane[1], 10 / in_plane[0]) if in_plane else None,
        resolutionunit="CENTIMETER" if in_plane else None,
        # ASCII is what the tag holds; json escapes the rest.
        description=dumps(dict(info), indent=None).encode("ascii", "backslashreplace").decode(),
        metadata=None,
    )
    return target
