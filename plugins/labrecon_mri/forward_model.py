"""The forward model of an MRI acquisition, put together from its geometry."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon import Operator, Space
from labrecon.design import Box, FeasibleSet
from labrecon.operators import MaskedFourier
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.nufft import NUFFT
from labrecon_mri.off_resonance import TimeSegmented
from labrecon_mri.sense import Sense

__all__ = ["forward_model"]


def forward_model(
    geometry: MRIGeometry,
    *,
    backend: str = "auto",
    accuracy: float | None = None,
    tolerance: float = 1e-3,
    segments: int | None = None,
    coil_chunk: int | None = None,
    system: str | None = None,
    acceleration: float | None = None,
    centre: int = 0,
    dtype: torch.dtype = torch.complex64,
) -> Sense:
    """``y_c(t) = Σ_r S_c(r) x(r) e^{−i2π k(t)·r} e^{−i2π f(r) t}``.

    Without a trajectory this is a masked FFT. Design parameters are ``sampling.mask`` (Cartesian)
    or ``sampling.trajectory`` (``sampling.nufft.trajectory`` with a field map). Along a trajectory
    ``sampling.delay``, of the gradients of each axis in samples, is a nuisance.

    Args:
        geometry: the acquisition, with coil sensitivities where there are several coils.
        backend: of the NUFFT.
        accuracy: of the NUFFT.
        tolerance: of the time segmentation.
        segments: of the time segmentation.
        coil_chunk: coils done at once.
        system: gradient system whose limits a learned trajectory keeps (`labrecon_mri.scanners`).
        acceleration: of a learned mask: so many times fewer lines than k-space has; by default,
            where ``centre`` is given, as many lines as the geometry's mask has.
        centre: lines in the middle that a learned mask always has.
        dtype: complex64 or complex128.

    Raises:
        ValueError: several coils without sensitivities, or a system without a dwell time.
    """
    sampling: Operator
    frames = tuple(geometry.frames)
    if geometry.trajectory is None:
        sampling = _cartesian(geometry, acceleration, centre, dtype)
    else:
        nufft = NUFFT(
            geometry.matrix,
            geometry.fov,
            geometry.trajectory.tensor(torch.float64),
            dtype=dtype,
            backend=backend,
            accuracy=accuracy,
            feasible=_gradients(geometry, system),
            frames=frames if geometry.trajectory.ndim > 3 else (),
        )
        sampling = nufft
        if geometry.field_map is not None and geometry.times is not None:
            field, times = geometry.field_map.tensor(), geometry.times.tensor(torch.float64)
            sampling = TimeSegmented(nufft, field, times, tolerance=tolerance, segments=segments)
    return Sense(sampling, _maps(geometry, dtype), geometry.frames, chunk=coil_chunk)


def _cartesian(
    geometry: MRIGeometry, acceleration: float | None, centre: int, dtype: torch.dtype
) -> MaskedFourier:
    mask = torch.ones(()) if geometry.mask is None else geometry.mask.tensor(torch.float32)
    framed = mask.ndim > geometry.ndim
    names = tuple(geometry.frames) if framed else ()
    sizes = tuple(geometry.frames.values()) if framed else ()
    space = Space((*sizes, *geometry.matrix), dtype, (*names, *geometry.axes))
    feasible: FeasibleSet = Box(0.0, 1.0)
    if acceleration is not None or centre:
        from labrecon_mri.masks import line_set

        lines = geometry.matrix[-2]
        count = int((mask != 0).sum()) if acceleration is None else round(lines / acceleration)
        feasible = line_set(lines, min(count, lines), centre)
        mask = mask.broadcast_to(*mask.shape[:-2], lines, 1) if mask.ndim < 2 else mask
        if mask.shape[-1] != 1:
            raise ValueError(
                f"a learned mask chooses lines (ky, 1), the geometry's mask is {tuple(mask.shape)}"
            )
    axes = tuple(range(-geometry.ndim, 0))
    return MaskedFourier(space, mask, axes, feasible)


def _gradients(geometry: MRIGeometry, system: str | None) -> FeasibleSet | None:
    if system is None:
        return None
    if geometry.dwell is None:
        raise ValueError("the limits of a gradient system need the geometry's dwell time in s")
    from labrecon_mri.gradient_slew import GradientSlew

    return GradientSlew.of(system, dwell=geometry.dwell)


def _maps(geometry: MRIGeometry, dtype: torch.dtype) -> Tensor:
    if geometry.maps is None:
        if geometry.coils > 1:
            raise ValueError(
                f"{geometry.coils} coils have no sensitivities: put the step sensitivities into "
                "the recipe, or maps into the geometry"
            )
        return torch.ones(1, 1, *geometry.matrix, dtype=dtype)
    maps = geometry.maps.tensor(dtype)
    return maps[None] if maps.ndim == geometry.ndim + 1 else maps
