"""APS Data Exchange: ``exchange/data``, ``data_white``, ``data_dark`` and ``theta``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labrecon.instrument import ReaderError, Scan
from labrecon_ct.readers.border import angles_in_rad, check_views
from labrecon_ct.readers.frames import count_scan, read_frames
from labrecon_ct.readers.hdf5 import datasets, is_hdf5, length_in_mm, open_hdf5, unit_of
from labrecon_ct.readers.recording import OWN, new_hdf5, own_fields, recording, rows_in, write_own

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

    suffix = ".h5"

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

    def parts(self, path: Path) -> int | None:
        """The number of detector rows, each of which sees its own slice; None for one."""
        with open_hdf5(path) as file:
            return rows_in(file, file["exchange/data"])

    def read_part(self, path: Path, start: int, stop: int) -> Scan:
        """The rows ``start`` to ``stop − 1``; nothing else is read.

        Raises:
            ReaderError: see `read`; or rows are no slices.
        """
        with open_hdf5(path) as file:
            return _read(file, path, slice(start, stop))

    def write(self, scan: Scan, path: Path) -> None:
        """Write counts, flats and darks, and angles in degrees.

        The format does not say when flats were taken: reading averages those before and after.

        Raises:
            OutputError: a fan, a cone, or whatever else has no place in the format.
        """
        frames = recording(scan, "Data Exchange")
        with new_hdf5(path) as file:
            file["implements"] = "exchange:measurement"
            exchange = file.create_group("exchange")
            for name, values in (
                ("data", frames.views),
                ("data_white", frames.flats),
                ("data_dark", frames.darks),
            ):
                if values is not None:
                    exchange[name] = values
                    exchange[name].attrs["units"] = "counts"
            exchange["theta"] = np.rad2deg(frames.geometry.angles)
            exchange["theta"].attrs["units"] = "degrees"
            pitch = frames.geometry.column_pitch
            file[PIXEL_SIZES[0]] = pitch
            file[PIXEL_SIZES[0]].attrs["units"] = "mm"
            write_own(file, frames.geometry, {"column_pitch": pitch})


def _read(file: h5py.File, path: Path, rows: slice | None = None) -> Scan:
    assumed: dict[str, str] = {"beam": "parallel", "rotation centre": "the detector's middle"}
    projections = read_frames(file["exchange/data"], None, "exchange/data", rows=rows)
    if "exchange/theta" not in file:
        raise ReaderError(
            "there is no exchange/theta, expected one angle in degrees per projection; add it "
            "to the file: without angles nothing can be reconstructed"
        )
    theta = np.asarray(file["exchange/theta"][()], dtype=np.float64)
    check_views(theta, len(projections), "exchange/theta")
    angles = angles_in_rad(theta, unit_of(file["exchange/theta"]), assumed)
    frames = {
        key: read_frames(file[name], None, name, rows=rows) if name in file else None
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
    geometry = {"column_pitch": pitch, **own_fields(file, found, rows)}
    if "centre_offset" in geometry:
        del assumed["rotation centre"]
    others = [name[1:] for name, _ in datasets(file) if name[1:] not in USED]
    ignored = {
        name: "not needed"
        for name in others
        if name not in ("measurement/sample/name", "implements", sized)
        and not name.startswith(f"{OWN}/")
    }
    return count_scan(
        projections,
        frames["flats"],
        frames["darks"],
        angles,
        geometry,
        path=path,
        form="APS Data Exchange",
        found=found,
        assumed=assumed,
        ignored=ignored,
        solid=rows is not None,
    )
