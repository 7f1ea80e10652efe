"""ESPIRiT: coil sensitivities from a fully sampled block of k-space."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

__all__ = ["espirit_maps"]

#: Bytes of the matrices of pixels that are decomposed at once.
CHUNK_BYTES = 2**27
#: Kernel entries of all coils: the decomposition of a matrix of this size takes a minute.
MOST_ENTRIES = 6000
#: Part of all neighbourhoods that coil images can span; noise spans all of them, whence every
#: combination of coils would seem consistent.
MOST_SIGNAL = 0.9


def espirit_maps(
    calibration: Tensor,
    matrix: tuple[int, ...],
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.8,
    sets: int = 1,
) -> tuple[Tensor, Tensor]:
    """Sensitivities as eigenvectors of what the calibration data allow (Uecker et al. 2014).

    All ``kernel``-wide neighbourhoods of the block, over all coils, span a space with projector
    ``P = V Vᴴ``. Coil images that are consistent with it satisfy, at each pixel, ``G(r) S = S``
    with ``G(r)_{c'c} = kernel⁻ᵈ Σ_{q',q} P_{c'q', cq} e^{i2π(q'−q)·r}``. The eigenvectors of the
    largest eigenvalues are the maps: of unit norm over the coils, with a phase that makes the
    calibration's principal component over the coils real there. Where an object folds onto itself
    within the field of view, a second eigenvalue is near 1, too: take two sets (soft SENSE).

    Args:
        calibration: fully sampled block of centred k-space (coil, *block); where in k-space does
            not matter.
        matrix: of the maps; the block has the spacing in k-space that belongs to it.
        kernel: width of the neighbourhoods along each axis, in samples.
        threshold: singular values of the calibration matrix below this part of the largest are
            noise.
        crop: maps are zero where their eigenvalue is not above this; 0 keeps all.
        sets: how many.

    Returns:
        maps (set, coil, *matrix) and eigenvalues (set, *matrix).

    Raises:
        ValueError: the block is smaller than the kernel, empty, not finite or noise; or the numbers
            make no sense.
    """
    _check(calibration, matrix, kernel, threshold, crop, sets)
    wide = calibration.to(torch.complex128)
    space = _signal_space(wide, kernel, threshold)
    if len(space) > MOST_SIGNAL * space.shape[1]:
        raise ValueError(
            f"{len(space)} of {space.shape[1]} singular values of the calibration data are above "
            f"{threshold:g} of the largest: noise as strong as that says nothing about the coils. "
            "Raise threshold, or calibrate on a scan with more signal"
        )
    bands = _bands(space, len(wide), kernel, len(matrix))
    virtual = torch.linalg.eigh(wide.flatten(1) @ wide.flatten(1).mH).eigenvectors[:, -1]
    maps, values = _pixelwise(bands.to(torch.complex64), virtual.to(torch.complex64), matrix, sets)
    shown = (values > crop).to(values.dtype)
    return (maps * shown.unsqueeze(1)).to(calibration.dtype), values


def _check(
    calibration: Tensor,
    matrix: tuple[int, ...],
    kernel: int,
    threshold: float,
    crop: float,
    sets: int,
) -> None:
    coils, block = calibration.shape[0], tuple(calibration.shape[1:])
    if len(block) != len(matrix) or not calibration.is_complex():
        raise ValueError(
            f"calibration is complex (coil, *block) with {len(matrix)} axes after the coils for "
            f"matrix {matrix}, got {calibration.dtype} {tuple(calibration.shape)}"
        )
    if kernel < 2 or min(block) < kernel:
        raise ValueError(
            f"a calibration block {block} can not hold a kernel of {kernel} samples along each "
            "axis: a smaller kernel (from 2 on), or more calibration lines"
        )
    if not 0 < threshold < 1 or not 0 <= crop < 1 or not 1 <= sets <= coils:
        raise ValueError(
            f"threshold is in (0, 1), crop in [0, 1) and sets from 1 to the {coils} coils; got "
            f"{threshold}, {crop}, {sets}"
        )
    if coils * kernel ** len(block) > MOST_ENTRIES:
        raise ValueError(
            f"{coils} coils with kernels of {kernel}^{len(block)} samples are too many for a "
            "decomposition: compress the coils (step coil_compression), or take a smaller kernel"
        )
    if not bool(torch.isfinite(torch.view_as_real(calibration)).all()):
        raise ValueError("the calibration data have samples that are NaN or infinite")
    if not bool((calibration != 0).any()):
        raise ValueError("the calibration data are all zero")


def _signal_space(calibration: Tensor, kernel: int, threshold: float) -> Tensor:
    """``Vᴴ`` (component, coil · kernel^d): rows span the neighbourhoods of the block."""
    patches = calibration
    for axis in range(1, calibration.ndim):
        patches = patches.unfold(axis, kernel, 1)
    ndim = calibration.ndim - 1
    # (coil, *place, *kernel) to (place, coil · kernel)
    rows = patches.movedim(0, ndim).flatten(0, ndim - 1).flatten(1)
    if len(rows) < rows.shape[1]:
        _, singular, right = torch.linalg.svd(rows, full_matrices=False)
        return right[singular > threshold * singular[0]]
    power, vectors = torch.linalg.eigh(rows.mH @ rows)
    return vectors[:, power > threshold**2 * power[-1]].mH


def _bands(space: Tensor, coils: int, kernel: int, ndim: int) -> Tensor:
    """Fourier coefficients of ``G``: (coil', coil, *Δ), ``Δ = q' − q`` from ``1 − kernel`` on."""
    projector = (space.mT @ space.conj()).reshape(coils, kernel**ndim, coils, kernel**ndim)
    bands = projector.new_zeros(coils, coils, *(2 * kernel - 1,) * ndim)
    places = list(product(range(kernel), repeat=ndim))
    for i, high in enumerate(places):
        # q runs backwards along Δ.
        block = projector[:, i].reshape(coils, coils, *(kernel,) * ndim)
        part = bands
        for axis, h in enumerate(high):
            part = part.narrow(2 + axis, h, kernel)
        part += block.flip(tuple(range(2, 2 + ndim)))
    return bands / kernel**ndim


def _pixelwise(
    bands: Tensor, virtual: Tensor, matrix: tuple[int, ...], sets: int
) -> tuple[Tensor, Tensor]:
    """Eigenvectors (set, coil, *matrix) and eigenvalues of ``G(r)``, some rows at a time."""
    coils = len(virtual)
    waves = [_waves(n, bands.shape[-1]).to(bands.device) for n in matrix]
    rows = max(1, CHUNK_BYTES // (8 * coils**2 * math.prod(matrix[1:])))
    maps, values = [], []
    for part in waves[0].split(rows):
        g = torch.tensordot(bands, part, dims=([2], [1]))
        for wave in waves[1:]:
            g = torch.tensordot(g, wave, dims=([2], [1]))
        pixels = g.movedim((0, 1), (-2, -1)).flatten(0, -3)
        found = torch.linalg.eigh(pixels.contiguous())
        vectors = found.eigenvectors[..., -sets:].flip(-1)
        along = (virtual.conj()[:, None] * vectors).sum(-2, keepdim=True)
        vectors = vectors * torch.polar(torch.ones_like(along.abs()), -along.angle())
        shape = (sets, len(part), *matrix[1:])
        maps.append(vectors.permute(2, 1, 0).reshape(sets, coils, *shape[1:]))
        values.append(found.eigenvalues[:, -sets:].flip(-1).mT.reshape(shape))
    return torch.cat(maps, 2), torch.cat(values, 1)


def _waves(n: int, width: int) -> Tensor:
    """``e^{i2πΔr/N}`` (pixel, Δ), both counted from their middle."""
    r = torch.arange(n, dtype=torch.float64) - n // 2
    delta = torch.arange(width, dtype=torch.float64) - width // 2
    phase = 2 * math.pi * r[:, None] * delta / n
    return torch.polar(torch.ones_like(phase), phase).to(torch.complex64)
