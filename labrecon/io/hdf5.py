"""Volumes as HDF5 with the layout of NXtomoproc, which tomography programs open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
from torch import Tensor

import labrecon
from labrecon.io.plain import dumps

__all__ = ["write_hdf5"]


def write_hdf5(
    path: Path, volume: Tensor, info: Mapping[str, Any], *, compression: str | None = None
) -> Path:
    """Write ``path.h5``: ``/entry/data/data`` with axes in mm, and the provenance as JSON.

    The dtype is kept; complex numbers are stored the way h5py and MATLAB-like tools read them,
    as pairs named ``r`` and ``i``.

    Args:
        path: name without suffix.
        volume: the reconstruction.
        info: ``title``, ``axes``, ``voxel_size`` (mm per axis or None), ``unit``, ``provenance``.
        compression: a filter of h5py, such as ``"gzip"``.
    """
    target = path.with_name(path.name + ".h5")
    array = volume.detach().cpu().resolve_conj().numpy()
    with h5py.File(target, "w") as file:
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry", default="data")
        entry["definition"] = "NXtomoproc"
        entry["title"] = str(info.get("title", ""))
        process = _group(entry, "reconstruction", "NXprocess")
        process["program"] = "labrecon"
        process["version"] = labrecon.__version__
        process["date"] = str(info.get("provenance", {}).get("created", ""))
        note = _group(process, "provenance", "NXnote")
        note["type"] = "application/json"
        note["data"] = dumps(info.get("provenance", {}))
        axes = [str(axis) for axis in info.get("axes", ())]
        data = _group(entry, "data", "NXdata", signal="data", axes=axes)
        values = data.create_dataset("data", data=array, compression=compression)
        values.attrs["units"] = str(info.get("unit", ""))
        _write_axes(data, axes, array.shape, info.get("voxel_size"))
    return target


def _group(parent: h5py.Group, name: str, kind: str, **attributes: Any) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    for key, value in attributes.items():
        group.attrs[key] = value
    return group


def _write_axes(data: h5py.Group, axes: list[str], shape: tuple[int, ...], voxel_size: Any) -> None:
    """Coordinates of the voxel centres in mm, zero in the middle; indices without a size."""
    sizes = list(voxel_size) if voxel_size else [None] * len(shape)
    for position, (axis, count, size) in enumerate(zip(axes, shape, sizes, strict=True)):
        middle = (count - 1) / 2 if size else 0.0
        values = [(i - middle) * (size or 1.0) for i in range(count)]
        coordinate = data.create_dataset(axis, data=values)
        coordinate.attrs["units"] = "mm" if size else ""
        data.attrs[f"{axis}_indices"] = position
    if voxel_size:
        data.attrs["voxel_size"] = [float("nan") if size is None else size for size in sizes]
        data.attrs["voxel_size_units"] = "mm"
