"""NumPy files: what scripts and shared data sets hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon import Gaussian
from labrecon.errors import OutputError
from labrecon.instrument import ReaderError, Scan
from labrecon.operators.fourier import centred_fft
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.readers.border import (
    check_finite,
    checked_geometry,
    complex_samples,
    minimal_mask,
    refuse_navigator,
    sampled,
)
from labrecon_mri.readers.extras import from_arrays, to_arrays
from labrecon_mri.readers.numpy_files import load
from labrecon_mri.readers.numpy_lines import checked_lengths, companion, navigator, read_lines
from labrecon_mri.readers.numpy_settings import (
    NumpySettings,
    arrange,
    guess_axes,
    guess_domain,
    read_settings,
    refuse_corner,
    settings_file,
    sidecar_text,
)
from labrecon_mri.readers.trajectories import reversed_lines

__all__ = ["NumpyReader"]

Values = NDArray[Any]
NPY, ZIP = b"\x93NUMPY", b"PK\x03\x04"
#: Names of arrays that hold k-space.
KSPACE = ("kspace", "ksp", "k_space", "kdata")
FORMAT, VERSION = "labrecon_format", "labrecon MRI scan 1"
PIXEL = 1e-3


class NumpyReader:
    """``.npy`` and ``.npz`` files, in one of three forms.

    - ``kspace`` (line, coil, sample) with ``ktraj_1_per_m`` (3, line, sample), ``fov_m`` (x, y, z)
      and ``dwell_s``: lines along a trajectory. Consecutive lines of the same ky are echoes. The
      navigator ``name_noPE.npz`` beside it is read with it.
    - an array of k-space or coil images. What it does not say is in a sidecar ``name.toml``
      (`labrecon_mri.readers.numpy_settings.NumpySettings`), or inferred: the smallest axis is that
      of the coils, k-space has its energy in the middle.
    - what `write` writes: ``labrecon_format``, ``kspace`` (*frames, coil, …), the geometry's fields
      as ``geometry_<name>`` in SI units (``geometry_frames`` is JSON text), calibration arrays as
      ``calibration_<name>``, and ``truth``.

    Nothing in a file is run: arrays of objects are refused.
    """

    suffix = ".npz"

    def matches(self, path: Path) -> bool:
        """Whether the file begins as its ending says."""
        begin = {".npy": NPY, ".npz": ZIP}.get(path.suffix)
        try:
            if begin is None or not path.is_file():
                return False
            with path.open("rb") as file:
                return file.read(len(begin)) == begin
        except OSError:
            return False

    def read(self, path: Path) -> Scan:
        """The scan in the file.

        Raises:
            ReaderError: truncated, NaN, or arrays whose meaning can not be told.
        """
        refuse_navigator(path)
        arrays = load(path)
        if FORMAT in arrays:
            return _own(arrays, path)
        settings = read_settings(path)
        found: dict[str, str] = {}
        assumed: dict[str, str] = {}
        calibration: dict[str, Tensor] = {}
        files = [path, *(f for f in [settings_file(path)] if f.is_file())]
        if {"kspace", "ktraj_1_per_m"} <= set(arrays):
            used = {"kspace", "ktraj_1_per_m", "fov_m", "dwell_s"}
            values, fields = read_lines(arrays, settings, found, assumed)
            data = torch.from_numpy(values)
            calibration = _reversed(fields["trajectory"].tensor())
            beside = companion(path)
            if beside is not None:
                calibration |= navigator(beside, fields["coils"], found)
                files.append(beside)
        else:
            name = _named(arrays, settings, path)
            used = {name, "fov_m", "dwell_s"}
            data, fields = _bare(arrays, name, settings, path, found, assumed)
        fields["dwell"] = _dwell(arrays, settings)
        geometry = checked_geometry(**fields)
        return Scan(
            data,
            geometry,
            Gaussian(),
            calibration=calibration,
            found=found,
            assumed=assumed,
            ignored={name: "not needed" for name in arrays if name not in used},
            provenance={**_provenance(path, "NumPy"), "files": [str(file) for file in files]},
        )

    def write(self, scan: Scan, path: Path) -> None:
        """Write a scan, all of its arrays by name, compressed.

        Raises:
            OutputError: it is no MRI scan.
        """
        if not isinstance(scan.geometry, MRIGeometry):
            raise OutputError(f"expected an MRI scan, got {type(scan.geometry).__name__}")
        arrays = {FORMAT: np.array(VERSION), "kspace": _numpy(scan.data)}
        arrays |= {f"geometry_{name}": each for name, each in to_arrays(scan.geometry).items()}
        arrays |= {f"calibration_{name}": _numpy(each) for name, each in scan.calibration.items()}
        if scan.truth is not None:
            arrays["truth"] = _numpy(scan.truth)
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _named(arrays: Mapping[str, Values], settings: NumpySettings, path: Path) -> str:
    """Which array is the scan."""
    if settings.key is not None:
        if settings.key not in arrays:
            raise ReaderError(
                f"the sidecar says key = {settings.key!r}, {path.name} holds {', '.join(arrays)}"
            )
        return settings.key
    known = [name for name in KSPACE if name in arrays]
    many = [name for name, values in arrays.items() if values.ndim > 1]
    names = known or many
    if len(names) != 1:
        raise ReaderError(
            f"{path.name} holds the arrays {', '.join(arrays) or 'none'}, expected one named "
            f'kspace, or one alone. Name it by key = "…" in {path.with_suffix(".toml").name}'
        )
    return names[0]


def _bare(
    arrays: Mapping[str, Values],
    name: str,
    settings: NumpySettings,
    path: Path,
    found: dict[str, str],
    assumed: dict[str, str],
) -> tuple[Tensor, dict[str, Any]]:
    """An array without trajectory: data (*frames, coil, *matrix) and the geometry's fields."""
    values = complex_samples(arrays[name], name, found)
    axes = settings.axes or guess_axes(values.shape, path, assumed)
    if len(axes) != values.ndim:
        raise ReaderError(
            f"the sidecar names {len(axes)} axes {list(axes)}, {name} is {values.shape}. "
            f"{sidecar_text(path, values.shape)}"
        )
    ordered, frames = arrange(values, axes)
    ndim = ordered.ndim - len(frames) - 1
    data = torch.from_numpy(ordered)
    domain = settings.domain
    if domain is None and name in KSPACE:
        domain = "k-space"
        refuse_corner(data, ndim)
    elif domain is None:
        domain = guess_domain(data, ndim, path, values.shape)
        share = "in the middle" if domain == "k-space" else "spread, its transform's in the middle"
        assumed["domain"] = f"{domain}: the energy is {share}"
    if domain == "image":
        data = centred_fft(data, tuple(range(-ndim, 0)))
        assumed["k-space"] = "the centred orthonormal Fourier transform of the images"
    matrix = tuple(data.shape[-ndim:])
    found["array"] = f"{name} {values.shape}, axes ({', '.join(axes)})"
    return data, {
        "matrix": matrix,
        "fov": _fov(arrays, settings, matrix, assumed),
        "coils": data.shape[-ndim - 1],
        "frames": {frame: n for frame, n in frames.items() if n > 1},
        "mask": minimal_mask(sampled(data, ndim), ndim),
    }


def _fov(
    arrays: Mapping[str, Values],
    settings: NumpySettings,
    matrix: tuple[int, ...],
    assumed: dict[str, str],
) -> tuple[float, ...]:
    """Along the image axes in m."""
    if settings.fov_mm is not None:
        if len(settings.fov_mm) != len(matrix):
            raise ReaderError(
                f"fov_mm has {len(settings.fov_mm)} lengths, the image {len(matrix)} axes {matrix}"
            )
        return tuple(length / 1000 for length in settings.fov_mm)
    if "fov_m" in arrays:
        fov = np.asarray(arrays["fov_m"], np.float64).ravel()
        if len(fov) < len(matrix):
            raise ReaderError(f"fov_m is {fov}, expected {len(matrix)} lengths, x first, in m")
        return tuple(checked_lengths(fov)[: len(matrix)][::-1].tolist())
    assumed["field of view"] = "1 px = 1 mm (the file names none): lengths are in pixels"
    return tuple(PIXEL * n for n in matrix)


def _dwell(arrays: Mapping[str, Values], settings: NumpySettings) -> float | None:
    if settings.dwell_us is not None:
        return settings.dwell_us / 1e6
    if "dwell_s" not in arrays:
        return None
    values = np.asarray(arrays["dwell_s"], np.float64).ravel()
    if len(values) != 1 or not 0 < values[0] < 1:
        raise ReaderError(f"dwell_s is {values}, expected one time in s")
    return float(values[0])


def _reversed(trajectory: Tensor) -> dict[str, Tensor]:
    back = reversed_lines(trajectory) if trajectory.ndim == 3 else None
    return {} if back is None or not bool(back.any()) else {"reversed": back}


def _own(arrays: Mapping[str, Values], path: Path) -> Scan:
    """What `NumpyReader.write` wrote."""
    if str(arrays[FORMAT]) != VERSION:
        raise ReaderError(
            f"{FORMAT} is {str(arrays[FORMAT])!r}, this version of labrecon reads {VERSION!r}"
        )
    if "kspace" not in arrays:
        raise ReaderError("there is no kspace; was the file written whole?")
    parts: dict[str, dict[str, Values]] = {"geometry": {}, "calibration": {}}
    for name, values in arrays.items():
        kind, _, rest = name.partition("_")
        if kind in parts:
            if values.dtype.kind in "fc":
                check_finite(values, name)
            parts[kind][rest] = values
    geometry = from_arrays(parts["geometry"])
    data = torch.from_numpy(complex_samples(arrays["kspace"], "kspace", {}))
    samples = geometry.matrix
    if geometry.trajectory is not None:
        samples = geometry.trajectory.shape[-3:-1]
    expected = (*geometry.frames.values(), geometry.coils, *samples)
    if tuple(data.shape) != expected:
        raise ReaderError(
            f"kspace is {tuple(data.shape)}, expected (*frames, coil, …) = {expected} by the "
            "geometry in the file: was it edited?"
        )
    return Scan(
        data,
        geometry,
        Gaussian() if geometry.sigma is None else Gaussian(geometry.sigma),
        truth=torch.from_numpy(arrays["truth"]) if "truth" in arrays else None,
        calibration={name: torch.from_numpy(v) for name, v in parts["calibration"].items()},
        found={"format": VERSION},
        provenance=_provenance(path, VERSION),
    )


def _provenance(path: Path, form: str) -> dict[str, Any]:
    return {
        "source": str(path),
        "format": form,
        "reader": "labrecon_mri.readers.numpy_kspace:NumpyReader",
    }


def _numpy(values: Tensor) -> Values:
    array: Values = values.detach().cpu().resolve_conj().resolve_neg().numpy()
    return array
