"""Coil sensitivities for the geometry, from the scan itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labrecon import Array, Scan
from labrecon.instrument import StepError
from labrecon_mri.calibration_block import acs_region, covered_width, gridded_block
from labrecon_mri.espirit import espirit_maps
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.steps.requirements import PLACES, geometry_of, not_applicable

__all__ = ["sensitivities"]

#: Frames whose images differ in phase: their mean may vanish, the first one stands for all.
UNLIKE = ("contrast", "echo", "set")


def sensitivities(
    scan: Scan,
    *,
    width: int = 24,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.8,
    sets: int = 1,
    maps: str | None = None,
) -> Scan:
    """ESPIRiT maps of the coils (see `labrecon_mri.espirit`), put into the geometry.

    Calibrated on the file's parallel-calibration lines, else on the fully sampled middle of the
    data; for trajectories, on the middle of k-space after gridding. Slices have their own maps;
    averages, repetitions and phases share those of their mean, contrasts those of the first.

    Args:
        scan: of several coils; maps that the file holds stay.
        width: of the calibration block, in samples along each axis.
        kernel: width of the ESPIRiT kernel.
        threshold: singular values below this part of the largest are noise.
        crop: maps are zero where their eigenvalue is not above this; 0 keeps all.
        sets: 2 for soft SENSE, where the object is wider than the field of view.
        maps: file (``.npy``) with maps (coil, *matrix) or (set, coil, *matrix) to take instead.

    Raises:
        StepError: there is no calibration block, or the options or the file make no sense.
    """
    geometry = geometry_of(scan)
    if maps is not None:
        given = _from_file(maps, geometry)
        return scan.replace(geometry=geometry.changed(maps=given)).with_step(
            "sensitivities", source=maps, shape=list(given.shape)
        )
    if geometry.coils == 1:
        return not_applicable(scan, "sensitivities", "one coil")
    if geometry.maps is not None:
        return not_applicable(scan, "sensitivities", "the file's maps are kept")
    if width < kernel:
        raise StepError(f"a calibration block of {width} samples can not hold kernels of {kernel}")
    made, values, source = [], [], ""
    places = [n if name in PLACES else 1 for name, n in geometry.frames.items()]
    for index in np.ndindex(*places):
        block, source = _calibration(scan, geometry, index, width, kernel)
        try:
            own, eigenvalues = espirit_maps(
                block, geometry.matrix, kernel=kernel, threshold=threshold, crop=crop, sets=sets
            )
        except ValueError as error:
            raise StepError(str(error)) from error
        if not bool((own != 0).any()):
            raise StepError(
                f"no eigenvalue is above crop = {crop}: is there signal in the calibration data "
                f"({source})? Lower crop or threshold"
            )
        made.append(own)
        values.append(eigenvalues)
    shape = (*places, *made[0].shape) if any(n > 1 for n in places) else made[0].shape
    stacked = torch.stack(made).reshape(shape)
    shown = [float((value > crop).float().mean()) for value in torch.stack(values, 1)]
    return scan.replace(geometry=geometry.changed(maps=Array(stacked))).with_step(
        "sensitivities",
        method="ESPIRiT",
        source=source,
        sets=sets,
        kernel=kernel,
        shown=" and ".join(f"{100 * part:.3g} %" for part in shown) + " of the field of view",
        largest_eigenvalue=max(float(value.max()) for value in values),
    )


def _calibration(
    scan: Scan, geometry: MRIGeometry, index: tuple[int, ...], width: int, kernel: int
) -> tuple[Tensor, str]:
    """Calibration block (coil, *block) of a place, and what it was made of."""
    lines = scan.calibration.get("calibration")
    alone = all(n == 1 for name, n in geometry.frames.items() if name in PLACES)
    if lines is not None and alone and lines.ndim == geometry.ndim + 1:
        region = acs_region((lines != 0).any(0), width)
        if min(_size(region)) >= kernel:
            return lines[(slice(None), *region)], f"calibration lines {_told(region)}"
    if geometry.trajectory is not None:
        return _gridded(scan, geometry, index, width, kernel)
    data, mask = _chosen(scan.data, geometry, index), _mask(geometry, index)
    counts = mask.sum(0)
    mean = data.sum(0) / counts.clamp_min(1)
    region = acs_region(counts, width)
    if min(_size(region)) < kernel:
        raise StepError(
            f"the fully sampled middle of k-space is {_told(region)} samples along "
            f"{', '.join(geometry.axes)}, and a kernel needs {kernel} along each: give maps from a "
            "file, a smaller kernel, or scan with calibration lines"
        )
    return mean[(slice(None), *region)], f"middle of the data, {_told(region)}"


def _chosen(values: Tensor, geometry: MRIGeometry, index: tuple[int, ...]) -> Tensor:
    """The frames that share maps, as one axis: (frame, …)."""
    n = len(geometry.frames)
    for position, name in enumerate(geometry.frames):
        if name in PLACES or name in UNLIKE:
            start = index[position] if values.shape[position] > 1 else 0
            values = values.narrow(position, start, 1)
    return values.reshape(math.prod(values.shape[:n]), *values.shape[n:])


def _mask(geometry: MRIGeometry, index: tuple[int, ...]) -> Tensor:
    """Which samples of each frame that shares maps were measured: (frame, *matrix)."""
    full = (*geometry.frames.values(), *geometry.matrix)
    mask = torch.ones(()) if geometry.mask is None else (geometry.mask.tensor() != 0).float()
    return _chosen(mask.expand(full), geometry, index)


def _gridded(
    scan: Scan, geometry: MRIGeometry, index: tuple[int, ...], width: int, kernel: int
) -> tuple[Tensor, str]:
    assert geometry.trajectory is not None
    frames = tuple(geometry.frames.values())
    trajectory = geometry.trajectory.tensor(torch.float64)
    trajectory = trajectory.expand(*frames, *trajectory.shape[-3:])
    own = _chosen(trajectory, geometry, index).flatten(0, 2)
    data = _chosen(scan.data, geometry, index).movedim(1, 0).flatten(1)
    covered = covered_width(own, geometry.fov, width)
    if covered < kernel + 2:
        raise StepError(
            f"the trajectory samples the middle {covered} points of k-space at the Nyquist rate, "
            f"and calibration with a kernel of {kernel} needs {kernel + 2}: give maps from a file, "
            "a smaller kernel, or combine frames that share the coils"
        )
    block = gridded_block(data, own, geometry.fov, covered)
    return (
        block,
        f"gridded middle of the data, {_told(tuple(slice(0, n) for n in block.shape[1:]))}",
    )


def _size(region: tuple[slice, ...]) -> list[int]:
    return [part.stop - part.start for part in region]


def _told(region: tuple[slice, ...]) -> str:
    return " × ".join(str(part.stop - part.start) for part in region)


def _from_file(path: str, geometry: MRIGeometry) -> Array:
    try:
        values = np.load(Path(path), allow_pickle=False)
        maps = Array(values.astype(np.complex64, copy=False))
        geometry.changed(maps=maps)
    except (OSError, ValueError) as error:
        raise StepError(f"{path} can not be taken as coil sensitivities: {error}") from error
    return maps
