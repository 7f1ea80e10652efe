"""The one place that speaks ASTRA's dialect of geometry; imports ASTRA when first used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labrecon_ct.geometry import CTGeometry

__all__ = ["cuda_available", "geometries", "load_astra", "projector_type"]


def load_astra() -> Any:
    """The module ``astra``.

    Raises:
        ImportError: it is not installed; the message has the pip command.
    """
    try:
        import astra
    except ImportError as error:
        raise ImportError(
            'the matrix and ASTRA backends need astra-toolbox: pip install "labrecon[ct]" '
            '(GPL-3), or take backend="rays"'
        ) from error
    return astra


def cuda_available() -> bool:
    """Whether ASTRA can use a GPU. Its 3D code ends the process if called without one."""
    try:
        return bool(load_astra().use_cuda())
    except ImportError:
        return False


def geometries(
    geometry: CTGeometry, poses: NDArray[np.float64], kernel: str = "line"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """ASTRA's projection and volume geometry, in mm.

    ASTRA puts image row 0 at y = +max in 2D as we do, and at y = −max in 3D: there the poses are
    mirrored in y instead of flipping each volume.
    """
    astra = load_astra()
    voxel, shape = geometry.voxel, geometry.volume_shape
    half = [n * h / 2 for n, h in zip(shape, voxel, strict=True)]
    if geometry.ndim == 2:
        ny, nx = shape
        volume = astra.create_vol_geom(ny, nx, -half[1], half[1], -half[0], half[0])
        if geometry.beam == "cone" and kernel == "strip":
            return _plain_fan(astra, geometry), volume
        flat = poses[:, [0, 1, 3, 4, 6, 7]]
        kind = "parallel_vec" if geometry.beam == "parallel" else "fanflat_vec"
        return astra.create_proj_geom(kind, geometry.columns, flat), volume
    nz, ny, nx = shape
    volume = astra.create_vol_geom(
        ny, nx, nz, -half[2], half[2], -half[1], half[1], -half[0], half[0]
    )
    mirrored = poses.copy()
    mirrored[:, [1, 4, 7, 10]] *= -1
    kind = "parallel3d_vec" if geometry.beam == "parallel" else "cone_vec"
    return astra.create_proj_geom(kind, geometry.rows, geometry.columns, mirrored), volume


def _plain_fan(astra: Any, geometry: CTGeometry) -> dict[str, Any]:
    if geometry.vectors is not None or geometry.centre_offset:
        raise ValueError(
            "ASTRA has no strip kernel for a fan with vectors or a centre offset: "
            'take kernel="line"'
        )
    result: dict[str, Any] = astra.create_proj_geom(
        "fanflat",
        geometry.column_pitch,
        geometry.columns,
        np.asarray(geometry.angles),
        geometry.source_origin,
        geometry.origin_detector,
    )
    return result


def projector_type(geometry: CTGeometry, kernel: str) -> str:
    """ASTRA's name of a CPU projector.

    Raises:
        ValueError: the kernel does not exist for the beam.
    """
    kernels = ("line", "strip", "linear") if geometry.beam == "parallel" else ("line", "strip")
    if kernel not in kernels:
        raise ValueError(f"kernel for a {geometry.kind} geometry is one of {kernels}: {kernel!r}")
    return kernel if geometry.beam == "parallel" else f"{kernel}_fanflat"


def ray_crossings(geometry: CTGeometry) -> float:
    """Voxels that the rays of a 2D geometry cross, about: the size of its matrix."""
    ny, nx = geometry.volume_shape
    size = geometry.voxel[-1]
    # A ray over length l crosses up to √2 l / size pixels, 4/π on average over directions.
    reach = geometry.columns * geometry.column_pitch / geometry.magnification
    width = min(1.0, math.hypot(nx, ny) * size / reach)
    rays = len(geometry.angles) * geometry.columns * width
    mean_chord = math.pi / 4 * min(nx, ny, 1e9)
    return rays * 4 / math.pi * max(mean_chord, 1.0) * 1.1
