"""NXtomo: the NeXus layout of synchrotron tomography (ESRF, Diamond, …)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from labrecon.instrument import ReaderError, Scan
from labrecon_ct.readers.border import angles_in_rad, check_views
from labrecon_ct.readers.frames import count_scan, read_frames
from labrecon_ct.readers.hdf5 import (
    dangling,
    datasets,
    is_hdf5,
    open_hdf5,
    unit_of,
)
from labrecon_ct.readers.nxtomo_metadata import above, geometry_fields, motions
from labrecon_ct.readers.nxtomo_writer import write_nxtomo
from labrecon_ct.readers.recording import own_fields, rows_in

if TYPE_CHECKING:
    import h5py

__all__ = ["NXtomoReader"]

SUFFIXES = (".nxs", ".nx", ".h5", ".hdf5")
KEYS = {1: "flats", 2: "darks", 3: "invalid frames", -1: "alignment frames"}


class NXtomoReader:
    """One stream of frames told apart by ``image_key``; parallel beam.

    Keys are 0 projection, 1 flat, 2 dark, 3 invalid, −1 alignment (the last two are left out).
    Angles are those of ``sample/rotation_angle``, or the rotation axis that the detector's NXdata
    names (Diamond). External links are followed relative to the file; those that lead nowhere are
    listed in ``ignored``. Any HDF5 file that no other reader knows comes here, to be explained.
    """

    suffix = ".nxs"

    def matches(self, path: Path) -> bool:
        """Whether the file is HDF5, or is called as if it were."""
        return path.is_file() and (is_hdf5(path) or path.suffix.lower() in SUFFIXES)

    def read(self, path: Path) -> Scan:
        """The scan in the file.

        Raises:
            ReaderError: truncated, not NXtomo, without angles, or frames that do not match them.
        """
        with open_hdf5(path) as file:
            return _read(file, path)

    def parts(self, path: Path) -> int | None:
        """The number of detector rows, each of which sees its own slice; None for one."""
        with open_hdf5(path) as file:
            return rows_in(file, _detector(file, {})[1])

    def read_part(self, path: Path, start: int, stop: int) -> Scan:
        """The rows ``start`` to ``stop − 1``; nothing else is read.

        Raises:
            ReaderError: see `read`; or rows are no slices.
        """
        with open_hdf5(path) as file:
            return _read(file, path, slice(start, stop))

    def write(self, scan: Scan, path: Path) -> None:
        """Write darks, then flats and projections in the order of time, with angles in degrees.

        Raises:
            OutputError: a fan, a cone, or whatever else has no place in the format.
        """
        write_nxtomo(scan, path)


def _read(file: h5py.File, path: Path, rows: slice | None = None) -> Scan:
    broken = dangling(file, path.parent)
    key_name, frames = _detector(file, broken)
    keys = np.asarray(file[key_name][()]).astype(np.int64).ravel()
    if len(keys) != frames.shape[0]:
        raise ReaderError(
            f"{key_name} has {len(keys)} entries for {frames.shape[0]} frames of {frames.name}, "
            "expected one per frame: the scan was aborted or the file is truncated"
        )
    chosen = {key: np.flatnonzero(keys == key) for key in (0, 1, 2)}
    if not len(chosen[0]):
        raise ReaderError(f"{key_name} marks no frame as a projection (key 0); it has {set(keys)}")
    assumed = {"beam": "parallel"}
    angles, angle_name = _angles(file, key_name, frames, chosen[0], assumed)
    stacks = {
        key: read_frames(
            frames, index, f"{KEYS.get(key, 'projections')} of {frames.name}", rows=rows
        )
        if len(index)
        else None
        for key, index in chosen.items()
    }
    assert stacks[0] is not None
    detector = file[str(PurePosixPath(key_name).parent)]
    geometry, found, extra = geometry_fields(file, detector, frames.shape[2], assumed)
    geometry |= own_fields(file, found, rows)
    found = {
        "frames": str(PurePosixPath(key_name).parent / "data"),
        "angle axis": angle_name,
        **found,
    }
    ignored = {
        reason: f"{len(paths)} links: {_shortened(paths)}" for reason, paths in broken.items()
    }
    ignored |= {
        KEYS[key]: f"{int((keys == key).sum())} frames with image_key {key}"
        for key in (3, -1)
        if (keys == key).any()
    }
    ignored |= motions(file, key_name)
    first, last = chosen[0][[0, -1]]
    span = max(int(last - first), 1)
    times = {"view_time": torch.from_numpy((chosen[0] - first) / span)}
    if len(chosen[1]):
        times["flat_time"] = torch.from_numpy((chosen[1] - first) / span)
    return count_scan(
        stacks[0],
        stacks[1],
        stacks[2],
        angles,
        geometry,
        path=path,
        form="NXtomo",
        found=found,
        assumed=assumed,
        ignored=ignored,
        times=times,
        files=_files(file, path),
        solid=rows is not None,
        **extra,
    )


def _detector(file: h5py.File, broken: dict[str, list[str]]) -> tuple[str, h5py.Dataset]:
    """The path of image_key and the frames beside it."""
    known = dict(datasets(file))
    keys = [name for name in known if PurePosixPath(name).name == "image_key"]
    keys += [name for name in known if PurePosixPath(name).name == "image_key_control"]
    for name in keys:
        data = known.get(str(PurePosixPath(name).parent / "data"))
        if data is not None and data.ndim == 3:
            return name, data
    lost = [p for paths in broken.values() for p in paths if p.endswith("/data")]
    if keys:
        raise ReaderError(
            f"{keys[0]} is there but no 3D dataset 'data' beside it"
            + (f"; {lost[0]} is a link to a file that is missing: copy it too" if lost else "")
        )
    shown = ", ".join(f"{name} {item.shape}" for name, item in list(known.items())[:8])
    raise ReaderError(
        "the HDF5 file is neither APS Data Exchange (exchange/data) nor NXtomo (a detector with "
        f"data and image_key); it holds {shown or 'no datasets'}"
    )


def _angles(
    file: h5py.File,
    key_name: str,
    frames: h5py.Dataset,
    projections: NDArray[np.int64],
    assumed: dict[str, str],
) -> tuple[NDArray[np.float64], str]:
    """Angles of the projections in rad and where they came from."""
    total = frames.shape[0]
    item = above(file, key_name, "sample/rotation_angle")
    if item is None:
        group = PurePosixPath(key_name).parent.name
        candidates = {
            name: dataset
            for name, dataset in datasets(file)
            if any(word in PurePosixPath(name).name.lower() for word in ("theta", "angle"))
            and dataset.shape == (total,)
        }
        beside = [name for name in candidates if PurePosixPath(name).parent.name == group]
        names = beside or list(candidates)
        if not names:
            raise ReaderError(
                "there are no rotation angles: expected sample/rotation_angle, or a dataset "
                f"called …theta… or …angle… with {total} values; without angles nothing can be "
                "reconstructed"
            )
        item = candidates[names[0]]
        where = names[0]
        assumed["angle axis"] = f"{where} (there is no sample/rotation_angle)"
    else:
        where = str(item.name)
    values = np.asarray(item[()], dtype=np.float64).ravel()
    if len(values) == total:
        values = values[projections]
    elif len(values) != len(projections):
        raise ReaderError(
            f"{where} holds {len(values)} angles for {total} frames ({len(projections)} "
            "projections), expected one per frame or one per projection"
        )
    check_views(values, len(projections), where)
    return angles_in_rad(values, unit_of(item), assumed), where


def _files(file: h5py.File, path: Path) -> list[str]:
    """The file and those its frames and angles come from."""
    linked = {item.file.filename for _, item in datasets(file)}
    return [str(path), *sorted(linked - {str(path)})]


def _shortened(paths: list[str], most: int = 4) -> str:
    rest = len(paths) - most
    return ", ".join(paths[:most]) + (f" and {rest} more" if rest > 0 else "")
