"""A field map for the geometry: from a file, or from the scan's own echoes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labrecon import Array, Scan
from labrecon.instrument import StepError
from labrecon_mri.b0_map import b0_from_echoes
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.nufft import NUFFT
from labrecon_mri.steps.requirements import PLACES, geometry_of, not_applicable

__all__ = ["field_map"]

#: Names of the axis of frames along which the echo time changes.
ECHOES = ("contrast", "echo")


def field_map(
    scan: Scan,
    *,
    file: str | None = None,
    echo_times: Sequence[float] | None = None,
    smoothing: float = 2.0,
    sign: int = 1,
) -> Scan:
    """Put the off-resonance into the geometry, for the time-segmented forward model.

    Args:
        scan: along a trajectory, with the times of its samples.
        file: map (*matrix) in Hz (``.npy``).
        echo_times: without file: of the scan's contrasts in ms. The map is then made from gridded
            coil images, see `labrecon_mri.b0_map`; the first frame of every other axis is taken.
        smoothing: of that map, in pixels.
        sign: -1 for maps of a vendor that counts frequency the other way.

    Raises:
        StepError: options, file or scan do not fit together.
    """
    geometry = geometry_of(scan)
    if sign not in (-1, 1):
        raise StepError(f"sign is 1 or -1, got {sign}")
    if file is None and echo_times is None:
        return not_applicable(scan, "field_map", "neither a file nor echo times were given")
    if geometry.trajectory is None or geometry.times is None:
        raise StepError(
            "a field map is used with a trajectory and the times of its samples, which this scan "
            f"{'lacks' if geometry.trajectory is None else 'has without times'}: leave field_map "
            "out"
        )
    if file is not None:
        values, source = _from_file(file, geometry), file
    else:
        assert echo_times is not None
        values, source = _from_echoes(scan, geometry, echo_times, smoothing), "contrasts"
    values = sign * values
    return scan.replace(geometry=geometry.changed(field_map=Array(values.float()))).with_step(
        "field_map",
        source=source,
        sign=sign,
        lowest_hz=float(values.min()),
        highest_hz=float(values.max()),
    )


def _from_file(path: str, geometry: MRIGeometry) -> Tensor:
    try:
        values = np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StepError(f"{path} can not be read as a field map (.npy): {error}") from error
    if values.shape != geometry.matrix or values.dtype.kind not in "fiu":
        raise StepError(
            f"{path} holds {values.dtype} {values.shape}; a field map is real, in Hz, and has the "
            f"matrix {geometry.matrix}"
        )
    if not np.isfinite(values).all():
        raise StepError(f"{path}: the field map has values that are NaN or infinite")
    return torch.from_numpy(values.astype(np.float64))


def _from_echoes(
    scan: Scan, geometry: MRIGeometry, echo_times: Sequence[float], smoothing: float
) -> Tensor:
    names = list(geometry.frames)
    found = [name for name in ECHOES if name in names]
    if not found:
        raise StepError(f"echo_times need an axis of frames named contrast; the scan has {names}")
    places = {name: n for name, n in geometry.frames.items() if name in PLACES and n > 1}
    if places:
        raise StepError(f"one field map can not serve several places {places}: split the scan")
    axis = names.index(found[0])
    assert geometry.trajectory is not None
    data, paths = scan.data, geometry.trajectory.tensor(torch.float64)
    paths = paths.expand(*geometry.frames.values(), *paths.shape[-3:])
    for position in reversed(range(len(names))):
        if position != axis:
            data, paths = data.select(position, 0), paths.select(position, 0)
    images = []
    for own, path in zip(data, paths, strict=True):
        images.append(NUFFT(geometry.matrix, geometry.fov, path, dtype=own.dtype).initial(own))
    try:
        return b0_from_echoes(
            torch.stack(images), [1e-3 * float(t) for t in echo_times], smoothing=smoothing
        )
    except ValueError as error:
        raise StepError(str(error)) from error
