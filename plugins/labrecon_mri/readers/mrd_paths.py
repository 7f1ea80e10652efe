"""MRD lines along measured trajectories."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labrecon.instrument import ReaderError
from labrecon_mri.readers.border import check_finite, check_memory
from labrecon_mri.readers.mrd_header import Encoding
from labrecon_mri.readers.mrd_lines import Lines
from labrecon_mri.readers.trajectories import shared, unit_of

__all__ = ["has_trajectories", "shots", "trajectory_of"]

Values = NDArray[Any]


def has_trajectories(lines: Lines) -> bool:
    """Whether the lines come with trajectories that are not all zero.

    Raises:
        ReaderError: some have one, others have none.
    """
    dims = lines.heads["trajectory_dimensions"]
    if (dims != dims[0]).any():
        odd = int((dims != dims[0]).argmax())
        raise ReaderError(
            f"line {lines.numbers[odd]} has {dims[odd]} trajectory components, line "
            f"{lines.numbers[0]} has {dims[0]}: expected the same for all imaging lines"
        )
    return bool(dims[0]) and any(path.any() for path in lines.paths)


def shots(lines: Lines, frames: Mapping[str, int], places: Values) -> tuple[Values, Values]:
    """Lines of each frame in the order of the file, and their samples.

    Returns:
        Line numbers (*frames, shot), and samples (*frames, coil, shot, sample).

    Raises:
        ReaderError: frames with different numbers of lines.
    """
    shape = tuple(frames.values())
    flat = np.ravel_multi_index(tuple(places.T), shape) if shape else np.zeros(len(lines), int)
    counts = np.bincount(flat, minlength=math.prod(shape))
    if (counts != counts[0]).any():
        odd = np.unravel_index(int((counts != counts[0]).argmax()), shape)
        told = ", ".join(f"{name} {i}" for name, i in zip(frames, odd, strict=True))
        raise ReaderError(
            f"{told} has {counts[np.ravel_multi_index(odd, shape)]} lines, the first frame has "
            f"{counts[0]}: the scan was stopped early, or lines were lost. Leave incomplete frames "
            "out of the file"
        )
    cuts = {(lines.kept(i).start, lines.kept(i).stop) for i in range(len(lines))}
    if len(cuts) > 1:
        raise ReaderError(f"lines keep different samples {sorted(cuts)[:4]}, expected one length")
    order = np.argsort(flat, kind="stable").reshape(*shape, counts[0])
    (cut,) = cuts
    coils = len(lines.samples[0])
    check_memory(len(lines) * coils * (cut[1] - cut[0]), f"{len(lines)} lines of {coils} coils")
    values = np.stack([lines.samples[i][:, slice(*cut)] for i in order.ravel()])
    values = values.reshape(*order.shape, *values.shape[1:])
    return order, np.ascontiguousarray(np.moveaxis(values, -3, -2))


def trajectory_of(
    lines: Lines,
    order: Values,
    encoding: Encoding,
    ndim: int,
    assumed: dict[str, str],
) -> Values:
    """([*frames,] shot, sample, axis) in cycles/m, components in the order of the image axes.

    Args:
        lines: with trajectories.
        order: of `shots`.
        encoding: gives matrix and field of view, by which the unit is told.
        ndim: 2 or 3; in 3D a trajectory of two components is stacked along kz by encoding steps.
        assumed: is told the unit.

    Raises:
        ReaderError: unknown unit, or a number of components that does not fit the encoding.
    """
    dims = lines.paths[0].shape[1]
    if dims not in (2, 3):
        raise ReaderError(f"trajectories have {dims} components, expected (kx, ky) or (kx, ky, kz)")
    values = np.stack([lines.paths[i][lines.kept(i)] for i in order.ravel()])
    check_finite(values, "the trajectory", "line, sample, component")
    if ndim == 2 and dims == 3:
        if values[..., 2].any():
            raise ReaderError(
                f"the trajectory has kz up to {np.abs(values[..., 2]).max():.4g}, and the encoded "
                "matrix is one pixel along z: correct matrixSize in the header"
            )
        assumed["kz"] = "third trajectory component left out, it is all zero"
        values = values[..., :2]
    n = values.shape[-1]
    unit, factors = unit_of(
        np.abs(values).reshape(-1, n).max(0),
        encoding.matrix[:n],
        encoding.fov[:n],
        encoding.recon_fov[:n],
    )
    assumed["trajectory unit"] = f"{unit}, told by its largest |k| (the file names no unit)"
    k = values.astype(np.float64) * factors
    if n < ndim:
        k = np.concatenate([k, _stacked(lines, order, encoding, k.shape, assumed)], -1)
    flipped = k[..., ::-1].astype(np.float32).reshape(*order.shape, *k.shape[1:2], ndim)
    return shared(flipped, order.ndim - 1)


def _stacked(
    lines: Lines,
    order: Values,
    encoding: Encoding,
    shape: tuple[int, ...],
    assumed: dict[str, str],
) -> Values:
    """The kz of a stack of stars or spirals: (line, sample, 1) in cycles/m."""
    limits = encoding.limits.get("kspace_encoding_step_2")
    centre = encoding.matrix[2] // 2 if limits is None else limits.centre
    steps = lines.heads["idx"]["kspace_encode_step_2"].astype(int)[order.ravel()]
    assumed["kz"] = f"by kspace_encode_step_2, centre {centre} (trajectories have kx and ky only)"
    kz = (steps - centre) / encoding.fov[2]
    return np.broadcast_to(kz[:, None, None], (*shape[:2], 1))
