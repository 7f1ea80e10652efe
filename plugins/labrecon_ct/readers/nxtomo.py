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
    length_in_mm,
    open_hdf5,
    unit_of,
)

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


def _read(file: h5py.File, path: Path) -> Scan:
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
        key: read_frames(frames, index, f"{KEYS.get(key, 'projections')} of {frames.name}")
        if len(index)
        else None
        for key, index in chosen.items()
    }
    assert stacks[0] is not None
    detector = file[str(PurePosixPath(key_name).parent)]
    geometry, found, extra = _geometry(file, detector, frames.shape[2], assumed)
    found = {"frames": str(frames.name), "angle axis": angle_name, **found}
    ignored = {
        reason: f"{len(paths)} links: {_shortened(paths)}" for reason, paths in broken.items()
    }
    ignored |= {
        KEYS[key]: f"{int((keys == key).sum())} frames with image_key {key}"
        for key in (3, -1)
        if (keys == key).any()
    }
    ignored |= _motions(file, key_name)
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
        **extra,
    )


def _detector(file: h5py.File, broken: dict[str, list[str]]) -> tuple[str, h5py.Dataset]:
    """The path of image_key and the frames beside it."""
    known = {name: item for name, item in datasets(file)}
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


def _above(file: h5py.File, start: str, *names: str) -> h5py.Dataset | None:
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


def _angles(
    file: h5py.File,
    key_name: str,
    frames: h5py.Dataset,
    projections: NDArray[np.int64],
    assumed: dict[str, str],
) -> tuple[NDArray[np.float64], str]:
    """Angles of the projections in rad and where they came from."""
    total = frames.shape[0]
    item = _above(file, key_name, "sample/rotation_angle")
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


def _geometry(
    file: h5py.File, detector: h5py.Group, columns: int, assumed: dict[str, str]
) -> tuple[dict[str, float], dict[str, str], dict[str, float | str]]:
    """Fields of the geometry, what the file said, and what goes to the provenance."""
    geometry: dict[str, float] = {}
    found: dict[str, str] = {}
    extra: dict[str, float | str] = {}
    inside = f"{detector.name}/image_key"
    for name, field in (("x_pixel_size", "column_pitch"), ("y_pixel_size", "row_pitch")):
        item = _above(file, inside, name, f"sample/{name}")
        if item is not None and float(np.asarray(item[()]).flat[0]) > 0:
            geometry[field] = length_in_mm(item)
            found[name.replace("_", " ")] = f"{geometry[field]:.6g} mm"
    if "column_pitch" not in geometry:
        assumed["pixel size"] = "1 px = 1 mm (not recorded): lengths are in pixels, values in 1/px"
        geometry.pop("row_pitch", None)
    energy = _above(file, inside, "beam/incident_energy", "beam/energy", "sample/beam/energy")
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
        absolute = value > 0.15 * columns
        geometry["centre_offset"] = value - middle if absolute else value
        found["rotation centre"] = f"column {middle + geometry['centre_offset']:g}"
        if not absolute:
            assumed["rotation centre"] = f"{value:g} is counted from the detector's middle"
    else:
        assumed["rotation centre"] = f"the detector's middle, column {middle:g}"
    return geometry, found, extra


def _motions(file: h5py.File, key_name: str) -> dict[str, str]:
    """Translations of the sample that change during the scan, and mirrored detectors."""
    told = {}
    for axis in "xyz":
        item = _above(file, key_name, f"sample/{axis}_translation")
        values = np.zeros(1) if item is None else np.asarray(item[()], dtype=np.float64)
        if values.size and np.ptp(values) > 0:
            told[f"{axis}_translation"] = (
                f"the sample moved by {np.ptp(values):.4g} {unit_of(item) or 'm'}: not corrected"
            )
    for name in ("x_flipped", "y_flipped"):
        item = _above(file, key_name, name)
        if item is not None and bool(np.asarray(item[()]).any()):
            told[name] = "the detector image is mirrored: the volume will be, too"
    return told


def _files(file: h5py.File, path: Path) -> list[str]:
    """The file and those its frames and angles come from."""
    linked = {item.file.filename for _, item in datasets(file)}
    return [str(path), *sorted(linked - {str(path)})]


def _shortened(paths: list[str], most: int = 4) -> str:
    rest = len(paths) - most
    return ", ".join(paths[:most]) + (f" and {rest} more" if rest > 0 else "")
