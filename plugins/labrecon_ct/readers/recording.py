"""A scan as a detector records it, for those who write files: counts, flats, darks."""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon.errors import OutputError
from labrecon.instrument import Scan
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.noise import FLOOR
from labrecon_ct.steps.requirements import has_counts

if TYPE_CHECKING:
    import h5py

__all__ = ["OWN", "Recording", "new_hdf5", "own_fields", "recording", "rows_in", "write_own"]

#: Group for fields of the geometry that a format has no place for.
OWN = "labrecon/geometry"
#: What others may pass over and still see the scan as it is.
_EXTRA = (
    "open_beam",
    "centre_offset",
    "row_pitch",
    "volume_shape",
    "voxel_size",
    "slice_thickness",
)


@dataclass(frozen=True)
class Recording:
    """Frames ``(frame, row, column)``: of 16 bits where they are counts of 16 bits, else float32.

    Attributes:
        geometry: the acquisition.
        views: the projections.
        flats: open beam.
        darks: no beam.
        flat_time: when flats were taken: 0 at the first projection, 1 at the last.
    """

    geometry: CTGeometry
    views: NDArray[Any]
    flats: NDArray[Any] | None
    darks: NDArray[Any] | None
    flat_time: NDArray[np.float64]


def recording(scan: Scan, form: str) -> Recording:
    """The frames of a scan; of line integrals ``p``, the counts ``N₀ e^{−p}``.

    Flats of line integrals are the geometry's open beam ``N₀`` and darks are 0, so that
    `labrecon_ct.steps.flat_field` gives ``p`` again. Counts are not rounded then.

    Args:
        scan: raw counts with their flats and darks, or line integrals.
        form: name of the format, for messages.

    Raises:
        OutputError: not parallel rays, or something else that the format can not say; samples
            that are no counts; line integrals without an open beam, or beyond one photon.
    """
    geometry = scan.geometry
    if not isinstance(geometry, CTGeometry):
        raise OutputError(f"{form} holds CT scans, got {type(geometry).__name__}")
    _require_plain(geometry, form)
    if tuple(scan.data.shape) != geometry.data_shape:
        raise OutputError(
            f"the geometry has data {geometry.data_shape}, got {tuple(scan.data.shape)}"
        )
    if scan.weights is not None and (has_counts(scan) or bool((scan.weights == 0).any())):
        raise OutputError(f"{form} can not say which samples are bad: give a scan without weights")
    flats, darks = scan.calibration.get("flats"), scan.calibration.get("darks")
    data = scan.data
    if not has_counts(scan):
        data, flats, darks = _counts(scan, geometry)
    flat_time = scan.calibration.get("flat_time", torch.zeros(0 if flats is None else len(flats)))
    flat = geometry.rows is None
    return Recording(
        geometry,
        _frames(data[:, None] if flat else data.transpose(0, 1), "projections"),
        None if flats is None else _frames(flats[:, None] if flat else flats, "flats"),
        None if darks is None else _frames(darks[:, None] if flat else darks, "darks"),
        flat_time.double().numpy(),
    )


def _require_plain(geometry: CTGeometry, form: str) -> None:
    """Raise `OutputError` on what other programs would take for something else."""
    told = {
        "a fan or cone beam": geometry.beam != "parallel",
        "poses by vectors": geometry.vectors is not None,
        "a detector tilt": geometry.detector_tilt != 0,
        "a dose per view": geometry.dose is not None,
        "a 3D scan of one row": geometry.rows == 1,
    }
    for what, has in told.items():
        if has:
            raise OutputError(
                f"{form} has no place for {what}; it holds parallel scans with one dose. Keep the "
                "scan in memory (`labrecon demo`, reconstruct_scan)"
            )


def _counts(scan: Scan, geometry: CTGeometry) -> tuple[Tensor, Tensor, Tensor]:
    beam = geometry.open_beam
    if beam is None:
        raise OutputError(
            "line integrals are written as counts, which needs the open_beam of the geometry: "
            "photons per pixel and view"
        )
    data = beam * torch.exp(-scan.data.double())
    # An integral of exactly log N₀ is one count, up to rounding.
    dim = data < (1 - 1e-4) * FLOOR
    if bool(dim.any()):
        raise OutputError(
            f"{int(dim.sum())} of {dim.numel()} line integrals are above "
            f"{math.log(beam / FLOOR):.3g}, where less than one photon is left of an open_beam of "
            f"{beam:g}: give a larger open_beam"
        )
    pixels = (geometry.columns,) if geometry.rows is None else (geometry.rows, geometry.columns)
    flats = torch.full((1, *pixels), float(beam), dtype=torch.float64)
    return data, flats, torch.zeros_like(flats)


def _frames(values: Tensor, what: str) -> NDArray[Any]:
    if not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise OutputError(f"{what} hold samples that are no counts: NaN, infinite or below 0")
    array = values.detach().cpu().contiguous().numpy()
    whole = bool((array == np.rint(array)).all()) and array.max() < 2**16
    return array.astype(np.uint16 if whole else np.float32)


@contextlib.contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """A file to write; it takes its name when the block ends without an error."""
    import h5py

    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with h5py.File(partial, "w") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_own(file: h5py.File, geometry: CTGeometry, said: dict[str, Any]) -> None:
    """Write the fields that the format does not say.

    Args:
        file: is added to.
        geometry: of the scan.
        said: fields of the geometry that the file says already.
    """
    plain = CTGeometry(angles=geometry.angles, columns=geometry.columns, rows=geometry.rows, **said)
    for name in _EXTRA:
        value = getattr(geometry, name)
        if value is not None and value != getattr(plain, name):
            file[f"{OWN}/{name}"] = value


def own_fields(file: h5py.File, found: dict[str, str], rows: slice | None = None) -> dict[str, Any]:
    """The fields of `write_own`, told in ``found``; ``rows`` see as many slices."""
    fields: dict[str, Any] = {}
    for name in _EXTRA:
        if f"{OWN}/{name}" not in file:
            continue
        value = np.asarray(file[f"{OWN}/{name}"][()])
        fields[name] = tuple(value.tolist()) if value.ndim else value.item()
        found[name.replace("_", " ")] = f"{fields[name]} (in {OWN})"
    if rows is not None and "volume_shape" in fields:
        fields["volume_shape"] = (rows.stop - rows.start, *fields["volume_shape"][1:])
    return fields


def rows_in(file: h5py.File, frames: h5py.Dataset) -> int | None:
    """The number of rows that may be read apart; None for one, or on another grid of slices."""
    rows = int(frames.shape[1]) if frames.ndim == 3 else 1
    grid = file.get(f"{OWN}/volume_shape")
    other = grid is not None and int(grid[0]) != rows
    return None if rows < 2 or other else rows
