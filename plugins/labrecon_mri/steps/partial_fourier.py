"""Partial Fourier: the side of k-space that was left out, from the phase of the middle."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon import Scan
from labrecon.instrument import StepError
from labrecon.operators.fourier import centred_fft, centred_ifft
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.steps.requirements import geometry_of, not_applicable

__all__ = ["partial_fourier"]

#: Samples on the short side of the centre, below which there is no phase to speak of.
LEAST_OVERLAP = 4


def partial_fourier(scan: Scan, *, iterations: int = 10) -> Scan:
    """Fill the missing side of k-space by projections onto convex sets (Haacke et al. 1991).

    The phase ``φ`` of each coil image is that of the symmetric middle of k-space, tapered by a Hann
    window; ``x ← max(Re(x e^{−iφ}), 0) e^{iφ}`` and ``y ← measured samples`` take turns. The
    filled samples are estimates: they are in the data afterwards, and the record says how many.
    Not where the phase varies faster than the middle resolves (long echo times near air).

    Args:
        scan: Cartesian, with one side missing along one axis and everything else measured.
        iterations: of the two projections.

    Raises:
        StepError: ``iterations`` is below 1.
    """
    geometry = geometry_of(scan)
    if iterations < 1:
        raise StepError(f"iterations is a number from 1 on, got {iterations}")
    if geometry.trajectory is not None or geometry.mask is None:
        why = "samples along a trajectory" if geometry.trajectory else "all of k-space was measured"
        return not_applicable(scan, "partial_fourier", why)
    found = _missing_side(geometry)
    if isinstance(found, str):
        return not_applicable(scan, "partial_fourier", found)
    position, measured = found
    n = len(measured)
    places = measured.nonzero().flatten()
    short = min(n // 2 - int(places[0]), int(places[-1]) - n // 2)
    if short < LEAST_OVERLAP:
        why = f"{short} samples beyond the centre are too few for a phase"
        return not_applicable(scan, "partial_fourier", why)
    filled = _projected(scan.data, position - geometry.ndim, measured, short, iterations, geometry)
    return scan.replace(data=filled, geometry=geometry.changed(mask=None)).with_step(
        "partial_fourier",
        method="POCS",
        axis=geometry.axes[position],
        measured=len(places),
        of=n,
        overlap=short,
        iterations=iterations,
        note=f"{n - len(places)} of {n} samples along {geometry.axes[position]} are estimates",
    )


def _missing_side(geometry: MRIGeometry) -> tuple[int, Tensor] | str:
    """The axis that lacks a side, and which samples along it are there; or why there is none."""
    assert geometry.mask is not None
    mask = geometry.mask.tensor() != 0
    mask = mask[(None,) * max(0, geometry.ndim - mask.ndim)]
    mask = mask.reshape(-1, *mask.shape[-geometry.ndim :])
    if not bool((mask == mask[:1]).all()):
        return "the frames were sampled differently"
    whole = mask[0].expand(geometry.matrix)
    if bool(whole.all()):
        return "all of k-space was measured"
    for position, n in enumerate(geometry.matrix):
        others = tuple(axis for axis in range(geometry.ndim) if axis != position)
        along = whole.amax(others) if others else whole
        shape = [1] * geometry.ndim
        shape[position] = n
        if not torch.equal(whole, along.reshape(shape).expand(geometry.matrix)):
            continue
        places = along.nonzero().flatten()
        joined = len(places) == int(places[-1] - places[0]) + 1
        if joined and (int(places[0]) == 0 or int(places[-1]) == n - 1) and len(places) < n:
            return position, along
    return "what is missing is not one side of k-space along one axis"


def _projected(
    data: Tensor, axis: int, measured: Tensor, short: int, iterations: int, geometry: MRIGeometry
) -> Tensor:
    n = len(measured)
    others = tuple(a for a in range(-geometry.ndim, 0) if a != axis)
    shape = (-1, *[1] * (-axis - 1))
    offset = torch.arange(n) - n // 2
    taper = torch.cos(torch.pi * offset / (2 * (short + 1))).clamp_min(0).square()
    taper = torch.where(offset.abs() <= short, taper, 0.0).reshape(shape).to(data.real.dtype)
    there = measured.reshape(shape)
    # The axes that are complete are transformed once.
    hybrid = centred_ifft(data, others) if others else data
    low = centred_ifft(taper * hybrid, (axis,))
    phase = low / low.abs().clamp_min(torch.finfo(low.real.dtype).tiny)
    filled = hybrid
    for _ in range(iterations):
        image = centred_ifft(filled, (axis,))
        # The real part along the phase: what points the other way is no magnitude.
        image = (image * phase.conj()).real.clamp_min(0) * phase
        filled = torch.where(there, hybrid, centred_fft(image, (axis,)))
    return torch.where(there, data, centred_fft(filled, others) if others else filled)
