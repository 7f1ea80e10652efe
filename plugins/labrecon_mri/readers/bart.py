"""BART: k-space in ``.cfl``/``.hdr`` pairs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labrecon import Array, Gaussian
from labrecon.errors import OutputError
from labrecon.instrument import ReaderError, Scan
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.readers.border import FRAMES, checked_geometry, minimal_mask, sampled
from labrecon_mri.readers.cfl import DIMS, both, read_cfl, read_section, write_cfl
from labrecon_mri.readers.extras import arranged, check_same
from labrecon_mri.readers.trajectories import matrix_of, reversed_lines, shared

__all__ = ["FRAME_DIMS", "BARTReader"]

#: Frames and the dimensions of BART that hold them.
FRAME_DIMS = {"slice": 13, "contrast": 5, "average": 14, "repetition": 10, "phase": 11}
PIXEL = 1e-3
SECTION = "labrecon"
ARRAYS = ("mask", "trajectory", "maps", "field_map", "times")


class BARTReader:
    """Cartesian k-space (x, y, z, coil, …), centred, or samples along a trajectory.

    Samples (1, sample, shot, coil, …) belong to a trajectory (3, sample, shot, …) in
    cycles/FOV, in ``name_traj.cfl`` or ``traj.cfl`` beside ``name.cfl``. Where no coil has a sample
    that is not zero, k-space was not measured. Sensitivities are taken from ``name_maps.cfl``.
    BART stores no lengths: a pixel is taken as 1 mm unless labrecon wrote the file.
    """

    suffix = ".cfl"

    def matches(self, path: Path) -> bool:
        """Whether the path is one of a pair whose header gives dimensions."""
        try:
            data, header = both(path)
            if path.suffix not in (".cfl", ".hdr") or not (data.is_file() and header.is_file()):
                return False
            with header.open("rb") as file:
                return b"# Dimensions" in file.read(4096)
        except OSError:
            return False

    def read(self, path: Path) -> Scan:
        """The scan in the pair of files.

        Raises:
            ReaderError: a file is missing or truncated, or a dimension is none of a scan.
        """
        values = read_cfl(path)
        _check_dims(values)
        own = _own(path)
        found: dict[str, str] = {}
        frames = {name: values.shape[d] for name, d in FRAME_DIMS.items() if values.shape[d] > 1}
        data = _frames_first(values, frames)
        kept = frames if own is None else own.frames
        data = arranged(data, frames, kept)
        beside = _trajectory_file(path) if values.shape[0] == 1 else None
        if beside is None:
            data, fields = _cartesian(data, own, found)
        else:
            cycles = _cycles(read_cfl(beside), values, frames, beside)
            data, fields = data[..., 0], _along(arranged(cycles, frames, kept), own)
            found["trajectory"] = f"{beside.name}, in cycles/FOV"
        if own is not None and own.ndim == len(fields["matrix"]):
            fields["fov"] = own.fov
        files = [path] if beside is None else [path, beside]
        maps = _maps(path, fields["matrix"])
        if maps is not None:
            fields["maps"] = Array(maps)
            files.append(_beside(path, "maps"))
            found["sensitivities"] = both(_beside(path, "maps"))[0].name
        geometry = checked_geometry(frames=kept, coils=values.shape[3], **fields)
        if own is not None:
            arrays = {name: getattr(geometry, name) for name in ("mask", "trajectory", "maps")}
            told = geometry.changed(trajectory=None, mask=None)
            check_same(own, told, both(path)[1].name)
            geometry = checked_geometry(**(dict(own) | arrays))
        found["k-space"] = " × ".join(
            f"{n} {name}" for n, name in zip(values.shape, DIMS, strict=True) if n > 1
        )
        return Scan(
            torch.from_numpy(np.ascontiguousarray(data)),
            geometry,
            Gaussian() if geometry.sigma is None else Gaussian(geometry.sigma),
            calibration=_reversed(geometry),
            found=found,
            assumed={} if own else {"field of view": "1 px = 1 mm (BART stores no lengths)"},
            provenance={
                "source": str(path),
                "format": "BART",
                "files": [str(each) for file in files for each in both(file)],
                "reader": "labrecon_mri.readers.bart:BARTReader",
            },
        )

    def write(self, scan: Scan, path: Path) -> None:
        """Write ``name.cfl`` and ``name.hdr``, and ``name_traj``, ``name_maps`` where there are.

        Lengths are kept in a section of the header that BART passes over. Trajectories are rounded
        to float32 in cycles/FOV.

        Raises:
            OutputError: BART has no place for what the scan holds.
        """
        _write(scan, path)


def _check_dims(values: NDArray[Any]) -> None:
    used = {0, 1, 2, 3, *FRAME_DIMS.values()}
    odd = [f"{n} {DIMS[d]}" for d, n in enumerate(values.shape) if n > 1 and d not in used]
    if odd:
        raise ReaderError(
            f"the array has {', '.join(odd)} (dimensions of BART), expected k-space of x, y, z, "
            "coil, te, time, time2, slice, avg: are these sensitivities or coefficients?"
        )


def _beside(path: Path, what: str) -> Path:
    return both(path)[0].with_name(f"{both(path)[0].stem}_{what}.cfl")


def _trajectory_file(path: Path) -> Path | None:
    own = both(path)[0]
    names = [_beside(path, "traj"), own.with_name("traj.cfl")]
    return next((name for name in names if name.is_file() and name != own), None)


def _frames_first(values: NDArray[Any], frames: dict[str, int]) -> NDArray[Any]:
    """(*frames, coil, z, y, x)."""
    order = [FRAME_DIMS[name] for name in frames]
    rest = [d for d in range(values.ndim) if d not in (*order, 0, 1, 2, 3)]
    moved = values.transpose(*order, 3, 2, 1, 0, *rest)
    return moved.reshape(moved.shape[: len(order) + 4])


def _cartesian(
    data: NDArray[Any], own: MRIGeometry | None, found: dict[str, str]
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Data (*frames, coil, *matrix) of (*frames, coil, z, y, x), and the geometry's fields."""
    sizes = dict(zip(("z", "y", "x"), data.shape[-3:], strict=True))
    encoded = [axis for axis, n in sizes.items() if n > 1]
    if own is not None:
        encoded = list(own.axes)
    if len(encoded) < 2:
        raise ReaderError(
            f"k-space has (z, y, x) = {tuple(sizes.values())}, expected at least two axes; samples "
            "along a trajectory need name_traj.cfl or traj.cfl beside them"
        )
    if len(encoded) == 2 and encoded != ["y", "x"]:
        found["image axes"] = f"(y, x) are {encoded[0]} and {encoded[1]} of the file"
    matrix = tuple(sizes[axis] for axis in encoded)
    if math.prod(matrix) != math.prod(sizes.values()):
        raise ReaderError(f"k-space is {tuple(sizes.values())}, the header tells of {matrix}")
    data = np.ascontiguousarray(data.reshape(*data.shape[:-3], *matrix))
    measured = sampled(torch.from_numpy(data), len(matrix))
    mask = minimal_mask(measured, len(matrix))
    return data, {"matrix": matrix, "fov": tuple(PIXEL * n for n in matrix), "mask": mask}


def _cycles(
    trajectory: NDArray[Any], values: NDArray[Any], frames: dict[str, int], beside: Path
) -> NDArray[Any]:
    """The trajectory in cycles/FOV, (*frames, shot, sample, axis) in the order of image axes."""
    expected = (3, values.shape[1], values.shape[2], 1)
    fits = all(trajectory.shape[d] in (1, values.shape[d]) for d in range(4, 16))
    if trajectory.shape[:4] != expected or not fits:
        raise ReaderError(
            f"{beside.name} is {_sizes(trajectory)}, expected {expected[:3]} (and the data's "
            f"frames) for data of {_sizes(values)}: is it the trajectory of another scan?"
        )
    if trajectory.imag.any():
        raise ReaderError(f"{beside.name} has imaginary parts, expected real cycles/FOV")
    # Components lie along x; there is one coil.
    k = _frames_first(trajectory.real, frames).squeeze(len(frames))
    k = k[..., : 3 if k[..., 2].any() else 2][..., ::-1]
    return np.broadcast_to(k, (*frames.values(), *k.shape[-3:]))


def _along(cycles: NDArray[Any], own: MRIGeometry | None) -> dict[str, Any]:
    """The geometry's fields for samples along a trajectory in cycles/FOV."""
    ndim = cycles.shape[-1]
    if own is None:
        matrix = matrix_of((2 * np.abs(cycles).reshape(-1, ndim).max(0)).tolist())
        fov = tuple(PIXEL * n for n in matrix)
    else:
        matrix, fov = own.matrix, own.fov
        if len(matrix) != ndim:
            raise ReaderError(f"the trajectory has {ndim} axes, the header {len(matrix)}")
    k = shared((cycles / np.array(fov)).astype(np.float32), cycles.ndim - 3)
    return {"matrix": matrix, "fov": fov, "trajectory": Array(k)}


def _reversed(geometry: MRIGeometry) -> dict[str, torch.Tensor]:
    if geometry.trajectory is None or geometry.trajectory.ndim > 3:
        return {}
    back = reversed_lines(geometry.trajectory.tensor())
    return {} if back is None or not bool(back.any()) else {"reversed": back}


def _sizes(values: NDArray[Any]) -> tuple[int, ...]:
    last = max((d for d, n in enumerate(values.shape) if n > 1), default=0)
    return values.shape[: last + 1]


def _maps(path: Path, matrix: tuple[int, ...]) -> NDArray[Any] | None:
    file = _beside(path, "maps")
    if not file.is_file():
        return None
    values = read_cfl(file)
    odd = [DIMS[d] for d in range(5, 16) if values.shape[d] > 1]
    if odd:
        raise ReaderError(f"{file.name} has several {', '.join(odd)}, expected x, y, z, coil, maps")
    moved = values.reshape(values.shape[:5]).transpose(4, 3, 2, 1, 0)
    inside: tuple[int, ...] = moved.shape[2:]
    if [size for size in inside if size > 1] != [size for size in matrix if size > 1]:
        raise ReaderError(
            f"{file.name} has (z, y, x) = {inside}, expected the matrix {matrix} of the "
            "scan: is it of another one? Rename it if so"
        )
    several = moved if len(moved) > 1 else moved[0]
    return np.ascontiguousarray(several.reshape(*several.shape[:-3], *matrix))


def _own(path: Path) -> MRIGeometry | None:
    """The geometry that `BARTReader.write` put into the header, without its arrays."""
    header = both(path)[1]
    text = read_section(header, SECTION)
    if not text:
        return None
    try:
        fields = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ReaderError(f"the section {SECTION} of {header.name} is damaged: {error}") from error
    return checked_geometry(**fields)


def _write(scan: Scan, path: Path) -> None:
    geometry = scan.geometry
    if not isinstance(geometry, MRIGeometry):
        raise OutputError(f"expected an MRI scan, got {type(geometry).__name__}")
    _check_writable(geometry)
    data = scan.data.detach().cpu().resolve_conj().numpy()
    count = len(geometry.frames)
    if geometry.trajectory is None:
        along = (None,) * (3 - geometry.ndim)
        body = data[(*(slice(None),) * (count + 1), *along)]
    else:
        body = data[..., None]
    write_cfl(path, _bart_order(body, list(geometry.frames)), **{SECTION: _record(geometry)})
    if geometry.trajectory is not None:
        k = geometry.trajectory.values * np.array(geometry.fov)
        padded = np.zeros((*k.shape[:-1], 3))
        padded[..., : geometry.ndim] = k[..., ::-1]
        names = list(geometry.frames) if k.ndim > 3 else []
        # (…, 1, shot, sample, component) takes the places of (…, coil, z, y, x).
        write_cfl(_beside(path, "traj"), _bart_order(padded[..., None, :, :, :], names))
    if geometry.maps is not None:
        values = geometry.maps.values
        values = values if values.ndim == geometry.ndim + 2 else values[None]
        sizes = (*(1,) * (3 - geometry.ndim), *geometry.matrix)
        maps = values.reshape(*values.shape[:2], *sizes)
        write_cfl(_beside(path, "maps"), maps.transpose(4, 3, 2, 1, 0))


def _check_writable(geometry: MRIGeometry) -> None:
    unknown = [name for name in geometry.frames if name not in FRAME_DIMS]
    if unknown:
        raise OutputError(
            f"BART has no dimension for the frames {', '.join(unknown)} (known: "
            f"{', '.join(name for name in FRAMES if name in FRAME_DIMS)}); write .npz"
        )
    if geometry.field_map is not None or geometry.times is not None:
        raise OutputError("BART has no place for a field map or sample times; write .npz")
    if geometry.maps is not None and geometry.maps.ndim > geometry.ndim + 2:
        raise OutputError("sensitivities that differ between frames: write .npz")


def _record(geometry: MRIGeometry) -> str:
    fields = geometry.model_dump(mode="json", exclude=set(ARRAYS), exclude_none=True)
    return json.dumps(fields)


def _bart_order(values: NDArray[Any], frames: list[str]) -> NDArray[Any]:
    """(*frames, coil, z, y, x) to BART's 16 dimensions."""
    n = len(frames)
    moved = values.transpose(n + 3, n + 2, n + 1, n, *range(n))
    shape = [1] * len(DIMS)
    shape[:4] = moved.shape[:4]
    order = sorted(range(n), key=lambda i: FRAME_DIMS[frames[i]])
    moved = moved.transpose(0, 1, 2, 3, *(4 + i for i in order))
    for i in order:
        shape[FRAME_DIMS[frames[i]]] = values.shape[i]
    return moved.reshape(shape)
