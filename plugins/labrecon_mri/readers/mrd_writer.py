"""Writing scans as MRD files, for simulations and for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labrecon.errors import OutputError
from labrecon.instrument import Scan
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.readers.border import FRAMES
from labrecon_mri.readers.extras import OWN_GROUP, to_arrays
from labrecon_mri.readers.mrd_lines import FLAGS

__all__ = ["write_mrd"]

Values = NDArray[Any]
#: Counters and numbers of samples have 16 bits.
MOST = 2**16 - 1


class _Table:
    """Acquisitions that are collected, then written at once."""

    def __init__(self, coils: int) -> None:
        from ismrmrd.hdf5 import acquisition_dtype, acquisition_header_dtype

        self.dtype, self.head = acquisition_dtype, acquisition_header_dtype
        self.coils = coils
        self.rows: list[tuple[Values, Values, Values]] = []

    def add(
        self,
        samples: Values,
        path: Values | None = None,
        flags: tuple[str, ...] = (),
        counters: dict[str, int] | None = None,
        **fields: Any,
    ) -> None:
        """One acquisition: samples (coil, sample), path (sample, axis) with x first."""
        n = samples.shape[1]
        head = np.zeros((), self.head)
        head["version"] = 1
        head["flags"] = sum(1 << (FLAGS[name] - 1) for name in flags)
        head["scan_counter"] = len(self.rows)
        head["number_of_samples"] = n
        head["available_channels"] = head["active_channels"] = self.coils
        head["trajectory_dimensions"] = 0 if path is None else path.shape[1]
        for name, value in fields.items():
            head[name] = value
        for name, count in (counters or {}).items():
            head["idx"][name] = count
        flat = np.ascontiguousarray(samples, np.complex64).view(np.float32).ravel()
        k = np.zeros(0, np.float32) if path is None else np.float32(path).ravel()
        self.rows.append((head, k, flat))

    def array(self) -> Values:
        """All of them, the last one flagged as such."""
        table = np.empty(len(self.rows), self.dtype)
        for i, (head, path, samples) in enumerate(self.rows):
            table["head"][i], table["traj"][i], table["data"][i] = head, path, samples
        table["head"]["flags"][-1] |= np.uint64(1 << (FLAGS["last in measurement"] - 1))
        return table


def write_mrd(scan: Scan, path: Path) -> None:
    """Write ``scan`` to ``path``.

    Cartesian lines without a measured sample are left out. Trajectories are in cycles/pixel.

    Raises:
        OutputError: frames that MRD has no counter for, or sizes beyond its 16 bits.
    """
    import h5py

    geometry = scan.geometry
    if not isinstance(geometry, MRIGeometry):
        raise OutputError(f"an MRD file holds MRI scans, got {type(geometry).__name__}")
    unknown = [name for name in geometry.frames if name not in FRAMES]
    if unknown:
        raise OutputError(
            f"MRD has no counter for the frames {', '.join(unknown)}: rename them to one of "
            f"{', '.join(FRAMES)}, or write .npz"
        )
    longest = max(*geometry.matrix, *scan.data.shape, geometry.coils)
    if longest > MOST:
        raise OutputError(f"MRD holds sizes up to {MOST}, this scan has {longest}; write .npz")
    table = _Table(geometry.coils)
    _add_noise(table, scan)
    _add_navigator(table, scan)
    _add_calibration(table, scan, geometry)
    (_add_lines if geometry.trajectory is None else _add_shots)(table, scan, geometry)
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        xml = group.create_dataset("xml", (1,), h5py.special_dtype(vlen=bytes))
        xml[0] = _header(scan, geometry).encode()
        group.create_dataset("data", data=table.array(), maxshape=(None,), chunks=True)
        own = file.create_group(OWN_GROUP)
        for name, values in to_arrays(geometry).items():
            own[f"geometry/{name}"] = str(values) if values.dtype.kind == "U" else values
        if scan.truth is not None:
            own["truth"] = scan.truth.detach().cpu().resolve_conj().numpy()


def _frames(geometry: MRIGeometry) -> list[tuple[tuple[int, ...], dict[str, int]]]:
    names = list(geometry.frames)
    places = np.ndindex(*geometry.frames.values())
    return [(index, dict(zip(names, index, strict=True))) for index in places]


def _common(geometry: MRIGeometry, counters: dict[str, int]) -> dict[str, Any]:
    """Header fields that all lines of a frame have."""
    fields: dict[str, Any] = {"sample_time_us": 1e6 * (geometry.dwell or 0.0)}
    if geometry.directions is None:
        return fields
    x, y, z = (np.array(vector) for vector in geometry.directions)
    fields |= {"read_dir": x, "phase_dir": y, "slice_dir": z}
    if geometry.position is not None:
        middle = (geometry.frames.get("slice", 1) - 1) / 2
        away = (counters.get("slice", 0) - middle) * 1e3 * (geometry.spacing or 0.0)
        fields["position"] = np.array(geometry.position) + away * z
    return fields


def _numpy(values: Any) -> Any:
    array = values.detach().cpu().resolve_conj().numpy()
    return array


def _add_lines(table: _Table, scan: Scan, geometry: MRIGeometry) -> None:
    full = (*geometry.frames.values(), *geometry.matrix)
    mask: Any = np.ones(()) if geometry.mask is None else geometry.mask.values
    mask = np.broadcast_to(mask, full)
    data = _numpy(scan.data)
    for index, counters in _frames(geometry):
        fields = _common(geometry, counters)
        for row in np.ndindex(*geometry.matrix[:-1]):
            if mask[(*index, *row)].any():
                steps = _steps(row) | counters
                samples = data[(*index, slice(None), *row)]
                centre = geometry.matrix[-1] // 2
                table.add(samples, None, (), steps, center_sample=centre, **fields)


def _steps(row: tuple[int, ...]) -> dict[str, int]:
    names = ("kspace_encode_step_2", "kspace_encode_step_1")[-len(row) :]
    return dict(zip(names, row, strict=True))


def _add_shots(table: _Table, scan: Scan, geometry: MRIGeometry) -> None:
    assert geometry.trajectory is not None
    # cycles/m to cycles/pixel, components from image order to (x, y, z).
    k = (geometry.trajectory.values * np.array(geometry.pixel))[..., ::-1]
    framed, data = k.ndim > 3, _numpy(scan.data)
    k = np.broadcast_to(k, (*geometry.frames.values(), *k.shape[-3:])) if framed else k
    backwards = scan.calibration.get("reversed")
    for index, counters in _frames(geometry):
        fields = _common(geometry, counters)
        paths = k[index] if framed else k
        for shot in range(data.shape[-2]):
            flags = ("reversed",) if backwards is not None and bool(backwards[shot]) else ()
            steps = counters | {"kspace_encode_step_1": shot}
            centre = int(np.linalg.norm(paths[shot], axis=-1).argmin())
            samples = data[(*index, slice(None), shot)]
            table.add(samples, paths[shot], flags, steps, center_sample=centre, **fields)


def _add_noise(table: _Table, scan: Scan) -> None:
    noise = scan.calibration.get("noise")
    if noise is not None:
        values = _numpy(noise)
        for start in range(0, values.shape[1], MOST):
            table.add(values[:, start : start + MOST], None, ("noise",))


def _add_navigator(table: _Table, scan: Scan) -> None:
    lines = scan.calibration.get("navigator")
    if lines is None:
        return
    backwards = scan.calibration.get("navigator_reversed")
    for i in range(lines.shape[1]):
        turned = backwards is not None and bool(backwards[i])
        flags = ("phase correction", *(("reversed",) if turned else ()))
        table.add(_numpy(lines[:, i]), None, flags, {"kspace_encode_step_1": i})


def _add_calibration(table: _Table, scan: Scan, geometry: MRIGeometry) -> None:
    values = scan.calibration.get("calibration")
    if values is None:
        return
    grid = _numpy(values)
    places = grid.shape[1 : grid.ndim - geometry.ndim]
    for index in np.ndindex(*places, *grid.shape[-geometry.ndim : -1]):
        samples = grid[(slice(None), *index)]
        if samples.any():
            counters = _steps(index[len(places) :])
            counters |= {"slice": index[0]} if places else {}
            fields = _common(geometry, counters)
            centre = geometry.matrix[-1] // 2
            table.add(samples, None, ("calibration",), counters, center_sample=centre, **fields)


def _header(scan: Scan, geometry: MRIGeometry) -> str:
    recon_matrix = scan.provenance.get("recon_matrix") or geometry.matrix
    recon_fov = scan.provenance.get("recon_fov") or geometry.fov
    steps = list(geometry.matrix[:-1])
    if geometry.trajectory is not None:
        steps = [*([] if geometry.ndim == 2 else [1]), geometry.trajectory.shape[-3]]
    limits = dict(zip(("kspace_encoding_step_2", "kspace_encoding_step_1")[-len(steps) :],
                      steps, strict=True))  # fmt: skip
    limits |= dict(geometry.frames)
    told = "".join(
        f"<{name}><minimum>0</minimum><maximum>{n - 1}</maximum>"
        f"<center>{n // 2 if name.startswith('kspace') else 0}</center></{name}>"
        for name in LIMITS
        if (n := limits.get(name)) is not None
    )
    scale = scan.calibration.get("noise_scale")
    name = "relativeReceiverNoiseBandwidth"
    bandwidth = "" if scale is None else f"<{name}>{1 / float(scale)!r}</{name}>"
    kind = "cartesian" if geometry.trajectory is None else "other"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">\n'
        f"<acquisitionSystemInformation><receiverChannels>{geometry.coils}</receiverChannels>"
        f"{bandwidth}</acquisitionSystemInformation>\n"
        "<experimentalConditions><H1resonanceFrequency_Hz>0</H1resonanceFrequency_Hz>"
        "</experimentalConditions>\n<encoding>\n"
        f"{_space('encodedSpace', geometry.matrix, geometry.fov)}\n"
        f"{_space('reconSpace', recon_matrix, recon_fov)}\n"
        f"<encodingLimits>{told}</encodingLimits>\n<trajectory>{kind}</trajectory>\n"
        "</encoding>\n</ismrmrdHeader>\n"
    )


#: In the order of the schema.
LIMITS = ("kspace_encoding_step_1", "kspace_encoding_step_2", "average", "slice", "contrast",
          "phase", "repetition", "set")  # fmt: skip


def _space(name: str, matrix: Any, fov: Any) -> str:
    size = [*reversed([int(n) for n in matrix]), 1][:3]
    length = [*reversed([round(1e3 * float(a), 9) for a in fov]), 1.0][:3]

    def inside(values: list[Any]) -> str:
        return "".join(f"<{a}>{v!r}</{a}>" for a, v in zip("xyz", values, strict=True))

    return (
        f"<{name}><matrixSize>{inside(size)}</matrixSize>"
        f"<fieldOfView_mm>{inside(length)}</fieldOfView_mm></{name}>"
    )
