"""ISMRMRD / MRD: the vendor-neutral raw data format of MRI, HDF5 files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon import Array, Gaussian
from labrecon.instrument import ReaderError, Scan
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.readers.border import (
    checked_geometry,
    is_hdf5,
    minimal_mask,
    open_hdf5,
    refuse_navigator,
)
from labrecon_mri.readers.extras import OWN_GROUP, arranged, check_same, from_arrays
from labrecon_mri.readers.mrd_grid import frames_of, on_grid
from labrecon_mri.readers.mrd_header import Encoding, Header, header_text, parse_header
from labrecon_mri.readers.mrd_lines import Lines, read_lines, sort_lines
from labrecon_mri.readers.mrd_paths import has_trajectories, shots, trajectory_of
from labrecon_mri.readers.orientation import decimal, orientation
from labrecon_mri.readers.trajectories import reversed_lines

if TYPE_CHECKING:
    import h5py

__all__ = ["MRDReader"]

#: Encodings that are lines on a grid if no trajectory says otherwise.
ON_GRID = ("cartesian", "epi")


class MRDReader:
    """Files of ISMRMRD 1.x: group ``dataset`` with ``xml`` and ``data``.

    Cartesian lines go to the grid of the encoded matrix, readout oversampling included; lines with
    a measured trajectory stay in the order of the file. Repetitions, contrasts, averages … become
    frames, nothing is averaged. Calibration lines are ``calibration["calibration"]``
    (coil, [slice,] *matrix), echo-planar navigators ``calibration["navigator"]``
    (coil, line, sample) in time order with ``navigator_reversed`` (line), readouts that ran
    backwards ``calibration["reversed"]``, (shot), or (*matrix[:-1]) on a grid.

    The noise scan is ``calibration["noise"]`` (coil, sample); its covariance is that of the data
    after multiplication by ``noise_scale = (dwell_noise / dwell_data) / b``, with
    ``b = relativeReceiverNoiseBandwidth``: noise power goes with the bandwidth ``1/dwell``, of
    which the filter leaves the noise scan the part ``b``.
    """

    suffix = ".mrd.h5"

    def matches(self, path: Path) -> bool:
        """Whether the file is HDF5 with an MRD header and acquisitions in a group, or truncated."""
        if not is_hdf5(path):
            return False
        try:
            with open_hdf5(path) as file:
                return bool(_groups(file))
        except ReaderError:
            # Damaged HDF5: most likely ours, and `read` says what is wrong with it.
            return True
        except (OSError, RuntimeError, KeyError):
            return False

    def read(self, path: Path) -> Scan:
        """The scan in the file.

        Raises:
            ReaderError: truncated, a header that contradicts the data, lines that do not fit
                together, NaN, or a trajectory in an unknown unit.
        """
        refuse_navigator(path)
        with open_hdf5(path) as file:
            return _read(file, path)

    def write(self, scan: Scan, path: Path) -> None:
        """Write a scan; the geometry's other fields and the object go to the group ``labrecon``.

        Raises:
            OutputError: frames that MRD has no counter for, or sizes beyond its 16 bits.
        """
        from labrecon_mri.readers.mrd_writer import write_mrd

        write_mrd(scan, path)


@dataclass
class _Notes:
    found: dict[str, str] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)


def _groups(file: h5py.File) -> list[str]:
    import h5py

    names = sorted(file, key=lambda name: (name != "dataset", name))
    return [
        name
        for name in names
        if isinstance(file.get(name), h5py.Group) and {"xml", "data"} <= set(file[name])
    ]


def _read(file: h5py.File, path: Path) -> Scan:
    groups = _groups(file)
    if not groups:
        raise ReaderError(
            f"no group has both 'xml' and 'data', the file holds {', '.join(file) or 'nothing'}: "
            "expected an MRD file with the group 'dataset'"
        )
    notes, group = _Notes(), file[groups[0]]
    if len(groups) > 1:
        notes.ignored["other groups"] = f"{', '.join(groups[1:])}: scans of their own"
    header = parse_header(header_text(group["xml"]))
    parts = sort_lines(read_lines(group["data"]), notes.found, notes.ignored)
    for name in group:
        if name not in ("xml", "data"):
            notes.ignored[name] = "not needed"
    encoding, imaging = header.encodings[0], parts["imaging"]
    notes.found |= header.told
    if len(header.encodings) > 1:
        notes.ignored["encodings"] = f"{len(header.encodings) - 1} further ones in the header"
    frames, places = frames_of(imaging.heads)
    ndim = _ndim(encoding, imaging, frames, notes)
    fields: dict[str, Any] = {
        "matrix": encoding.matrix[:ndim][::-1],
        "fov": encoding.fov[:ndim][::-1],
        "coils": int(imaging.heads["active_channels"][0]),
        "frames": frames,
        "dwell": _dwell(imaging),
    }
    fields |= orientation(imaging.heads, _indices(frames, places, "slice"), notes.ignored)
    own, truth = _own(file)
    calibration: dict[str, Tensor] = {}
    along = has_trajectories(imaging)
    if along:
        data = _along_trajectories(imaging, encoding, places, fields, calibration, own, notes)
    else:
        data = _on_grid(imaging, encoding, places, fields, calibration, notes)
    geometry = checked_geometry(**fields)
    _describe(geometry, encoding, notes)
    if own is not None:
        check_same(own, geometry, f"the group {OWN_GROUP!r}")
        data, geometry = arranged(data, frames, own.frames), own
    calibration |= _calibration_lines(parts["calibration"], encoding, ndim, imaging, notes)
    calibration |= _navigator(parts["navigator"], notes)
    calibration |= _noise(parts["noise"], header, geometry.dwell, notes)
    return Scan(
        torch.from_numpy(data),
        geometry,
        Gaussian() if geometry.sigma is None else Gaussian(geometry.sigma),
        truth=truth,
        calibration=calibration,
        found=notes.found,
        assumed=notes.assumed,
        ignored=notes.ignored,
        provenance={
            "source": str(path),
            "format": "ISMRMRD",
            "reader": "labrecon_mri.readers.mrd:MRDReader",
            "recon_matrix": list(encoding.recon_matrix[:ndim])[::-1],
            "recon_fov": list(encoding.recon_fov[:ndim])[::-1],
        },
    )


def _ndim(encoding: Encoding, imaging: Lines, frames: Mapping[str, int], notes: _Notes) -> int:
    """2 or 3 encoded axes."""
    depth = encoding.matrix[2]
    if depth == 1:
        return 2
    steps = imaging.heads["idx"]["kspace_encode_step_2"]
    if steps.any() or imaging.heads["trajectory_dimensions"][0] == 3:
        return 3
    if frames.get("slice") == depth:
        notes.assumed["encoding"] = f"2D, {depth} slices (matrixSize z counts them)"
        return 2
    raise ReaderError(
        f"the encoded matrix has {depth} pixels along z, and no line has a kspace_encode_step_2 "
        "above 0: a scan in 2D has matrixSize z = 1, one in 3D counts its partitions"
    )


def _dwell(lines: Lines) -> float | None:
    times = np.unique(lines.heads["sample_time_us"])
    if len(times) > 1:
        raise ReaderError(f"lines have different sample_time_us ({times[:4]}): expected one")
    if not times[0] > 0:
        return None
    return round(decimal(times[0]) / 1e6, 15)


def _indices(frames: Mapping[str, int], places: NDArray[Any], name: str) -> NDArray[Any]:
    if name not in frames:
        return np.zeros(len(places), int)
    return places[:, list(frames).index(name)]


def _along_trajectories(
    imaging: Lines,
    encoding: Encoding,
    places: NDArray[Any],
    fields: dict[str, Any],
    calibration: dict[str, Tensor],
    own: MRIGeometry | None,
    notes: _Notes,
) -> NDArray[Any]:
    if encoding.trajectory == "cartesian":
        notes.assumed["trajectory"] = "the measured one, though the header says cartesian"
    frames = fields["frames"]
    order, data = shots(imaging, frames, places)
    if own is not None and own.trajectory is not None:
        # Exactly as written, whatever its unit.
        fields["trajectory"] = own.trajectory
        fields["frames"] = own.frames
        if own.trajectory.shape[-3:-1] != data.shape[-2:]:
            raise ReaderError(
                f"the trajectory in the group {OWN_GROUP!r} is {own.trajectory.shape}, the lines "
                f"are (shot, sample) = {data.shape[-2:]}: was the file edited?"
            )
    else:
        k = trajectory_of(imaging, order, encoding, len(fields["matrix"]), notes.assumed)
        fields["trajectory"] = Array(k)
    flagged = imaging.flagged("reversed")[order].reshape(-1, order.shape[-1])
    run = fields["trajectory"].tensor()
    seen = reversed_lines(run) if run.ndim == 3 else None
    if flagged.any() and (flagged == flagged[0]).all():
        calibration["reversed"] = torch.from_numpy(flagged[0].astype(np.uint8))
        if seen is not None and not torch.equal(seen, calibration["reversed"]):
            notes.assumed["reversed lines"] = (
                "the trajectory does not run backwards where the flags say so; it is believed, "
                "samples are not turned round"
            )
    elif not flagged.any() and seen is not None and bool(seen.any()):
        calibration["reversed"] = seen
    return data


def _on_grid(
    imaging: Lines,
    encoding: Encoding,
    places: NDArray[Any],
    fields: dict[str, Any],
    calibration: dict[str, Tensor],
    notes: _Notes,
) -> NDArray[Any]:
    if encoding.trajectory not in ON_GRID:
        raise ReaderError(
            f"the header says the trajectory is {encoding.trajectory!r}, and the lines have none: "
            "convert the scan again with trajectories in the acquisitions"
        )
    frames, ndim = fields["frames"], len(fields["matrix"])
    grid = on_grid(imaging, encoding, ndim, frames, places, notes.assumed)
    fields["mask"] = minimal_mask(torch.from_numpy(grid.measured), ndim)
    turned = grid.backwards.reshape(-1, *grid.backwards.shape[len(frames) :])
    if turned.any():
        notes.found["reversed lines"] = (
            f"{int(imaging.flagged('reversed').sum())}, turned round (no trajectory)"
        )
        notes.assumed["readout"] = "samples evenly spaced in k, also in reversed lines"
        if (turned == turned[0]).all():
            calibration["reversed"] = torch.from_numpy(turned[0].astype(np.uint8))
    return grid.values


def _calibration_lines(
    lines: Lines, encoding: Encoding, ndim: int, imaging: Lines, notes: _Notes
) -> dict[str, Tensor]:
    if not len(lines):
        return {}
    if has_trajectories(lines):
        notes.ignored["calibration lines"] = f"{len(lines)} along trajectories"
        return {}
    slices = np.unique(imaging.heads["idx"]["slice"])
    own = lines.heads["idx"]["slice"]
    frames = {"slice": len(slices)} if len(slices) > 1 else {}
    try:
        if not np.isin(own, slices).all():
            raise ReaderError("they are of other slices than the imaging lines")
        places = np.searchsorted(slices, own)[:, None][:, : len(frames)]
        grid = on_grid(lines, encoding, ndim, frames, places, notes.assumed, average=True)
    except ReaderError as error:
        notes.ignored["calibration lines"] = f"{len(lines)}: {error}"
        return {}
    values = np.moveaxis(grid.values, len(frames), 0)
    notes.found["calibration lines"] = f"{len(lines)}, on the grid of k-space"
    return {"calibration": torch.from_numpy(np.ascontiguousarray(values))}


def _navigator(lines: Lines, notes: _Notes) -> dict[str, Tensor]:
    if not len(lines):
        return {}
    idx = lines.heads["idx"]
    first = np.ones(len(lines), bool)
    for name in ("slice", "repetition", "phase", "set"):
        first &= idx[name] == idx[name][0]
    if not first.all():
        notes.ignored["navigators"] = f"{int((~first).sum())} lines of later frames"
    chosen = lines.chosen(first)
    kept = [chosen.samples[i][:, chosen.kept(i)] for i in range(len(chosen))]
    if len({part.shape for part in kept}) > 1:
        notes.ignored["navigators"] = f"{len(lines)} lines of different lengths"
        return {}
    backwards = chosen.flagged("reversed")
    notes.found["navigator"] = f"{len(kept)} lines, {int(backwards.sum())} reversed"
    return {
        "navigator": torch.from_numpy(np.stack(kept, 1)),
        "navigator_reversed": torch.from_numpy(backwards.astype(np.uint8)),
    }


def _noise(lines: Lines, header: Header, dwell: float | None, notes: _Notes) -> dict[str, Tensor]:
    if not len(lines):
        return {}
    own = _dwell(lines)
    if own is None or dwell is None:
        notes.assumed["noise scan"] = "dwell time of the imaging lines (no sample_time_us)"
    ratio = 1.0 if own is None or dwell is None else own / dwell
    if header.noise_bandwidth is None:
        notes.assumed["noise bandwidth"] = "1 (no relativeReceiverNoiseBandwidth)"
    scale = ratio / (header.noise_bandwidth or 1.0)
    values = np.concatenate(lines.samples, 1)
    notes.found["noise scan"] = f"{values.shape[1]} samples, covariance × {scale:.4g}"
    return {"noise": torch.from_numpy(values), "noise_scale": torch.tensor(scale)}


def _describe(geometry: MRIGeometry, encoding: Encoding, notes: _Notes) -> None:
    pixels = " × ".join(str(n) for n in geometry.matrix)
    size = " × ".join(f"{1e3 * length:.4g}" for length in geometry.fov)
    notes.found["encoded"] = f"{pixels} pixels over {size} mm along ({', '.join(geometry.axes)})"
    notes.found["coils"] = str(geometry.coils)
    if geometry.frames:
        notes.found["frames"] = ", ".join(f"{n} × {name}" for name, n in geometry.frames.items())
    if "average" in geometry.frames:
        notes.assumed["averages"] = "kept apart as frames, not averaged"
    if geometry.dwell is not None:
        notes.found["dwell"] = f"{1e6 * geometry.dwell:.6g} µs"
    x, recon = encoding.matrix[0], encoding.recon_matrix[0]
    if encoding.fov[0] > 1.01 * encoding.recon_fov[0]:
        notes.found["readout"] = f"{x} samples, {recon} pixels: oversampled"


def _own(file: h5py.File) -> tuple[MRIGeometry | None, Tensor | None]:
    """What `MRDReader.write` kept beside the MRD part."""
    import h5py

    group = file.get(OWN_GROUP)
    if not isinstance(group, h5py.Group) or not isinstance(group.get("geometry"), h5py.Group):
        return None, None
    arrays = {}
    for name, item in group["geometry"].items():
        value = item[()]
        arrays[name] = np.asarray(value.decode() if isinstance(value, bytes) else value)
    truth = group.get("truth")
    return from_arrays(arrays), None if truth is None else torch.from_numpy(np.asarray(truth[()]))
