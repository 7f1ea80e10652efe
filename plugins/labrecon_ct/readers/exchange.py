"""APS Data Exchange: ``exchange/data``, ``data_white``, ``data_dark`` and ``theta``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labrecon.instrument import ReaderError, Scan
from labrecon_ct.readers.border import angles_in_rad, check_views
from labrecon_ct.readers.frames import count_scan, read_frames
from labrecon_ct.readers.hdf5 import datasets, is_hdf5, length_in_mm, open_hdf5, unit_of

if TYPE_CHECKING:
    import h5py

__all__ = ["DataExchangeReader"]

USED = ("exchange/data", "exchange/data_white", "exchange/data_dark", "exchange/theta")
PIXEL_SIZES = (
    "measurement/instrument/detection_system/objective/resolution",
    "measurement/instrument/detector/pixel_size",
    "measurement/instrument/detector/pixel_size_x",
)


class DataExchangeReader:
    """HDF5 files in the Data Exchange layout (De Carlo et al. 2014), parallel beam.

    The layout has no fixed place for the pixel size: without one, a pixel is taken as 1 mm, so
    that lengths are in pixels and attenuation in 1/pixel.
    """

    def matches(self, path: Path) -> bool:
        """Whether the file is HDF5 with a group ``exchange``."""
        if not is_hdf5(path):
            return False
        try:
            with open_hdf5(path) as file:
                return "exchange/data" in file
        except (ReaderError, OSError):
            return False

    def read(self, path: Path) -> Scan:
        """The scan in the file.

        Raises:
            ReaderError: truncated, without angles, or with data that can not be counts.
        """
        with open_hdf5(path) as file:
            return _read(file, path)


def _read(file: h5py.File, path: Path) -> Scan:
    assumed: dict[str, str] = {"beam": "parallel", "rotation centre": "the detector's middle"}
    projections = read_frames(file["exchange/data"], None, "exchange/data")
    if "exchange/theta" not in file:
        raise ReaderError(
            "there is no exchange/theta, expected one angle in degrees per projection; add it "
            "to the file: without angles nothing can be reconstructed"
        )
    theta = np.asarray(file["exchange/theta"][()], dtype=np.float64)
    check_views(theta, len(projections), "exchange/theta")
    angles = angles_in_rad(theta, unit_of(file["exchange/theta"]), assumed)
    frames = {
        key: read_frames(file[name], None, name) if name in file else None
        for key, name in (("flats", "exchange/data_white"), ("darks", "exchange/data_dark"))
    }
    if frames["flats"] is not None:
        assumed["time of flats"] = "unknown: all are averaged"
    found = {}
    sized = next((name for name in PIXEL_SIZES if name in file and unit_of(file[name])), None)
    if sized is None:
        pitch = 1.0
        assumed["pixel size"] = "1 px = 1 mm (not recorded): lengths are in pixels, values in 1/px"
    else:
        pitch = length_in_mm(file[sized])
        found["pixel size"] = f"{pitch:g} mm"
    if "measurement/sample/name" in file:
        name = file["measurement/sample/name"][()]
        found["sample"] = name.decode() if isinstance(name, bytes) else str(name)
    others = [name[1:] for name, _ in datasets(file) if name[1:] not in USED]
    ignored = {
        name: "not needed" for name in others if name not in ("measurement/sample/name", sized)
    }
    return count_scan(
        projections,
        frames["flats"],
        frames["darks"],
        angles,
        {"column_pitch": pitch},
        path=path,
        form="APS Data Exchange",
        found=found,
        assumed=assumed,
        ignored=ignored,
    )
