"""Lines with a measured trajectory in .npz files: ``kspace`` and ``ktraj_1_per_m``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon import Array
from labrecon.instrument import ReaderError
from labrecon_mri.readers.border import NAVIGATOR_NAME, check_finite, complex_samples
from labrecon_mri.readers.numpy_files import load
from labrecon_mri.readers.numpy_settings import NumpySettings
from labrecon_mri.readers.trajectories import matrix_of, reversed_lines, shared

__all__ = ["checked_lengths", "companion", "navigator", "read_lines"]

Values = NDArray[Any]
#: An axis is encoded where k goes through more than that many cycles/FOV.
ENCODED = 0.01
#: Field of view in m that no scanner has.
LONGEST = 2.0
#: Pixels that an image has at least.
SMALLEST = 4


def companion(path: Path) -> Path | None:
    """The navigator ``name_noPE.npz`` beside ``name.npz``."""
    file = path.with_name(f"{path.stem}_noPE{path.suffix}")
    return file if file.is_file() and not NAVIGATOR_NAME.search(path.name) else None


def read_lines(
    arrays: Mapping[str, Values],
    settings: NumpySettings,
    found: dict[str, str],
    assumed: dict[str, str],
) -> tuple[Values, dict[str, Any]]:
    """Data (*frames, coil, shot, sample) and the geometry's fields.

    Args:
        arrays: ``kspace`` (line, coil, sample), ``ktraj_1_per_m`` (3, line, sample) with
            components (kx, ky, kz), ``fov_m`` (x, y, z).
        settings: of the sidecar; its field of view wins.
        found: is told the matrix and echoes.
        assumed: is told what was guessed.

    Raises:
        ReaderError: shapes that do not fit, no field of view, nothing encoded.
    """
    kspace = complex_samples(arrays["kspace"], "kspace", found)
    k = _components(arrays["ktraj_1_per_m"], kspace)
    fov = _fov(arrays, settings)
    extent = np.ptp(k, axis=(1, 2)) * fov
    encoded = [axis for axis in range(3) if extent[axis] > ENCODED]
    if encoded not in ([0, 1], [0, 1, 2]):
        told = ", ".join(f"{a} {v:.3g}" for a, v in zip(("kx", "ky", "kz"), extent, strict=True))
        raise ReaderError(
            f"the trajectory encodes no image: its extent in cycles/FOV is {told}, expected kx and "
            "ky (and kz). Lines without phase encoding are a navigator: give the file of the scan"
        )
    if 2 not in encoded:
        assumed["kz"] = f"left out: constant, {float(k[2].flat[0]):.3g} 1/m"
    # To the order of image axes.
    k, fov = k[encoded][::-1], fov[encoded][::-1]
    matrix = matrix_of((2 * np.abs(k).max(axis=(1, 2)) * fov).tolist())
    pixels = " × ".join(map(str, matrix))
    if min(matrix) < SMALLEST:
        raise ReaderError(
            f"trajectory and field of view {tuple(fov.tolist())} m make an image of {pixels} "
            "pixels: is ktraj_1_per_m in another unit than 1/m?"
        )
    assumed["matrix"] = f"{pixels}, from the extent of the trajectory and the field of view"
    n = _echoes(k[-2] * fov[-2])
    frames = {}
    trajectory = np.moveaxis(k, 0, -1)
    if n > 1:
        frames["contrast"] = n
        assumed["echoes"] = f"{n}: consecutive lines have the same ky"
        kspace = kspace.reshape(-1, n, *kspace.shape[1:]).swapaxes(0, 1)
        trajectory = trajectory.reshape(-1, n, *trajectory.shape[1:]).swapaxes(0, 1)
    trajectory = shared(trajectory.astype(np.float32), len(frames))
    fields: dict[str, Any] = {
        "matrix": matrix,
        "fov": tuple(fov.tolist()),
        "coils": kspace.shape[-2],
        "frames": frames,
        "trajectory": Array(trajectory),
    }
    found["lines"] = f"{kspace.shape[-3]} of {kspace.shape[-1]} samples along a trajectory"
    return np.ascontiguousarray(np.moveaxis(kspace, -2, -3)), fields


def navigator(path: Path, coils: int, found: dict[str, str]) -> dict[str, Tensor]:
    """``navigator`` (coil, line, sample) and ``navigator_reversed`` (line) of a companion file.

    Raises:
        ReaderError: it does not fit the scan.
    """
    arrays = load(path)
    if not {"kspace", "ktraj_1_per_m"} <= set(arrays):
        raise ReaderError(
            f"the navigator {path.name} holds {', '.join(arrays)}, expected kspace and "
            "ktraj_1_per_m; rename it if it is none"
        )
    values = complex_samples(arrays["kspace"], path.name, {})
    k = _components(arrays["ktraj_1_per_m"], values)
    if values.shape[1] != coils:
        raise ReaderError(
            f"the navigator {path.name} has {values.shape[1]} coils, the scan {coils}: are they of "
            "one examination?"
        )
    backwards = reversed_lines(torch.from_numpy(np.moveaxis(k[:1], 0, -1).copy()))
    if backwards is None:
        raise ReaderError(f"the lines of the navigator {path.name} run neither forth nor back")
    found["navigator"] = f"{path.name}, {len(values)} lines, {int(backwards.sum())} reversed"
    return {
        "navigator": torch.from_numpy(np.ascontiguousarray(values.swapaxes(0, 1))),
        "navigator_reversed": backwards,
    }


def _components(k: Values, kspace: Values) -> Values:
    if kspace.ndim != 3 or k.shape != (3, kspace.shape[0], kspace.shape[2]):
        raise ReaderError(
            f"kspace is {kspace.shape} and ktraj_1_per_m {k.shape}, expected (line, coil, sample) "
            "and (3, line, sample)"
        )
    if k.dtype.kind != "f":
        raise ReaderError(f"ktraj_1_per_m holds {k.dtype}, expected real numbers")
    check_finite(k, "ktraj_1_per_m", "component, line, sample")
    return k.astype(np.float64)


def checked_lengths(fov: Values) -> Values:
    """A field of view in m.

    Raises:
        ReaderError: not positive, or as large as only lengths in mm are.
    """
    if not (np.isfinite(fov) & (fov > 0)).all() or fov.max() > LONGEST:
        raise ReaderError(
            f"fov_m is {fov}, expected positive lengths in m up to {LONGEST:g}: are they in mm?"
        )
    return fov


def _fov(arrays: Mapping[str, Values], settings: NumpySettings) -> Values:
    """Along (x, y, z) in m."""
    if settings.fov_mm is not None:
        lengths = np.array(settings.fov_mm[::-1]) * 1e-3
        return lengths if len(lengths) == 3 else np.append(lengths, 1e-3)
    if "fov_m" not in arrays:
        raise ReaderError(
            "there is no fov_m, expected the field of view (x, y, z) in m: without it the size of "
            "a pixel is unknown. Add it, or a sidecar .toml with fov_mm = [y, x]"
        )
    fov = np.asarray(arrays["fov_m"], np.float64).ravel()
    if fov.shape != (3,):
        raise ReaderError(f"fov_m is {fov}, expected three lengths (x, y, z) in m")
    return checked_lengths(fov)


def _echoes(ky: Values) -> int:
    """How often each phase-encoding step is repeated by consecutive lines; 1 for other lines.

    Args:
        ky: (line, sample) in cycles/FOV.
    """
    if np.ptp(ky, axis=1).max() > ENCODED:
        return 1
    change = np.flatnonzero(np.abs(np.diff(ky[:, 0])) > ENCODED) + 1
    runs = np.diff([0, *change, len(ky)])
    return int(runs[0]) if len(runs) > 1 and (runs == runs[0]).all() else 1
