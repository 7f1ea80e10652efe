"""What an NXtomo file says besides frames and angles: lengths, energy, centre, motions."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from labrecon_ct.readers.hdf5 import length_in_mm, unit_of

if TYPE_CHECKING:
    import h5py

__all__ = ["NEAR_EDGE", "above", "geometry_fields", "motions"]

#: A rotation axis below this part of the detector is counted from its middle.
NEAR_EDGE = 0.15


def above(file: h5py.File, start: str, *names: str) -> h5py.Dataset | None:
    """The first of ``names`` found in a group that contains ``start``, nearest first."""
    import h5py

    for folder in PurePosixPath(start).parents:
        for name in names:
            try:
                item = file[str(folder / name)]
            except (KeyError, OSError):
                continue
            if isinstance(item, h5py.Dataset):
                return item
    return None


def geometry_fields(
    file: h5py.File, detector: h5py.Group, columns: int, assumed: dict[str, str]
) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """Fields of the geometry, what the file said, and what goes to the provenance."""
    geometry: dict[str, Any] = {}
    found: dict[str, str] = {}
    extra: dict[str, Any] = {}
    inside = f"{detector.name}/image_key"
    for name, field in (("x_pixel_size", "column_pitch"), ("y_pixel_size", "row_pitch")):
        item = above(file, inside, name, f"sample/{name}")
        if item is not None and float(np.asarray(item[()]).flat[0]) > 0:
            geometry[field] = length_in_mm(item)
            found[name.replace("_", " ")] = f"{geometry[field]:.6g} mm"
    if "column_pitch" not in geometry:
        assumed["pixel size"] = "1 px = 1 mm (not recorded): lengths are in pixels, values in 1/px"
        geometry.pop("row_pitch", None)
    energy = above(file, inside, "beam/incident_energy", "beam/energy", "sample/beam/energy")
    if energy is not None:
        scale = {"ev": 1e-3, "kev": 1.0, "mev": 1e3, "j": 6.241509e15}
        value = float(np.asarray(energy[()]).flat[0])
        extra["energy_kev"] = value * scale.get((unit_of(energy) or "keV").lower(), 1.0)
        found["energy"] = f"{extra['energy_kev']:g} keV"
    distance = detector.get("distance")
    if distance is not None and np.ndim(distance[()]) <= 1 and distance.size == 1:
        extra["distance_mm"] = length_in_mm(distance)
        found["sample–detector distance"] = f"{extra['distance_mm']:g} mm"
    view = detector.get("field_of_view")
    if view is not None:
        word = view[()]
        extra["field_of_view"] = word.decode() if isinstance(word, bytes) else str(word)
        found["field of view"] = str(extra["field_of_view"])
    axis = detector.get("x_rotation_axis_pixel_position")
    middle = (columns - 1) / 2
    value = np.nan if axis is None else float(np.asarray(axis[()]).flat[0])
    if np.isfinite(value):
        # Newer files count from the left edge, older ones from the middle.
        absolute = value > NEAR_EDGE * columns
        geometry["centre_offset"] = value - middle if absolute else value
        found["rotation centre"] = f"column {middle + geometry['centre_offset']:g}"
        if not absolute:
            assumed["rotation centre"] = f"{value:g} is counted from the detector's middle"
    else:
        assumed["rotation centre"] = f"the detector's middle, column {middle:g}"
    return geometry, found, extra


def motions(file: h5py.File, key_name: str) -> dict[str, str]:
    """Translations of the sample that change during the scan, and mirrored detectors."""
    told = {}
    for axis in "xyz":
        item = above(file, key_name, f"sample/{axis}_translation")
        values = np.zeros(1) if item is None else np.asarray(item[()], dtype=np.float64)
        if values.size and np.ptp(values) > 0:
            told[f"{axis}_translation"] = (
                f"the sample moved by {np.ptp(values):.4g} {unit_of(item) or 'm'}: not corrected"
            )
    for name in ("x_flipped", "y_flipped"):
        item = above(file, key_name, name)
        if item is not None and bool(np.asarray(item[()]).any()):
            told[name] = "the detector image is mirrored: the volume will be, too"
    return told
