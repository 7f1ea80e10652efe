"""Writing scans as NXtomo files, for simulations and for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labrecon.instrument import Scan
from labrecon_ct.readers.nxtomo_metadata import NEAR_EDGE
from labrecon_ct.readers.recording import Recording, new_hdf5, recording, write_own

if TYPE_CHECKING:
    import h5py

__all__ = ["write_nxtomo"]

PROJECTION, FLAT, DARK = 0, 1, 2


def write_nxtomo(scan: Scan, path: Path) -> None:
    """Write ``scan`` to ``path``, lengths in mm and angles in degrees.

    Raises:
        OutputError: see `labrecon_ct.readers.recording.recording`.
    """
    frames = recording(scan, "NXtomo")
    geometry = frames.geometry
    stack, keys = _in_order(frames)
    # Frames without a projection before them were taken at the angle of the first.
    view = np.clip(np.cumsum(keys == PROJECTION) - 1, 0, None)
    with new_hdf5(path) as file:
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry")
        entry["definition"] = "NXtomo"
        detector = _group(_group(entry, "instrument", "NXinstrument"), "detector", "NXdetector")
        detector["data"] = stack
        detector["image_key"] = keys
        lengths = {"x_pixel_size": geometry.column_pitch, "y_pixel_size": geometry.row_pitch}
        for name, value in lengths.items():
            if value is not None:
                detector[name] = value
                detector[name].attrs["units"] = "mm"
        column, offset = geometry.centre_column, geometry.centre_offset
        absolute = column > NEAR_EDGE * geometry.columns
        detector["x_rotation_axis_pixel_position"] = column if absolute else offset
        sample = _group(entry, "sample", "NXsample")
        sample["rotation_angle"] = np.rad2deg(geometry.angles)[view]
        sample["rotation_angle"].attrs["units"] = "degree"
        energy, distance = (scan.provenance.get(n) for n in ("energy_kev", "distance_mm"))
        if energy is not None:
            beam = _group(entry, "beam", "NXbeam")
            beam["incident_energy"] = energy
            beam["incident_energy"].attrs["units"] = "keV"
        if distance is not None:
            detector["distance"] = distance
            detector["distance"].attrs["units"] = "mm"
        said = {name: getattr(geometry, name) for name in ("column_pitch", "row_pitch")}
        write_own(file, geometry, {**said, "centre_offset": offset})


def _group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    return group


def _in_order(frames: Recording) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """All frames as one stack, and what each is."""
    darks = [] if frames.darks is None else [frames.darks]
    flats = [] if frames.flats is None else [frames.flats]
    views = np.linspace(0, 1, len(frames.views))
    times = np.concatenate([frames.flat_time, views])
    # Where times are equal, flats come before the first half of the projections and after the rest.
    turn = np.concatenate([np.where(frames.flat_time > 0.5, 1, -1), np.zeros(len(views))])
    order = np.lexsort((turn, times))
    kinds = np.repeat([FLAT, PROJECTION], [len(frames.flat_time), len(views)])[order]
    stack = np.concatenate([*darks, np.concatenate([*flats, frames.views])[order]])
    return stack, np.concatenate([np.full(len(stack) - len(kinds), DARK), kinds])
