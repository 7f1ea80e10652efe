"""The image of a star over an exposure that is long against the turbulence."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon_coronagraph.chunks import in_chunks
from labrecon_coronagraph.fourier import Grid
from labrecon_coronagraph.propagation import Coronagraph, intensity, plane_wave

__all__ = ["long_exposure"]


def long_exposure(
    coronagraph: Coronagraph,
    psd: Tensor,
    grid: Grid,
    *,
    wave: Tensor | None = None,
    wavelength: float = 1.0,
    jitter: Tensor | float = 0.0,
    chunk: int = 8,
) -> Tensor:
    """``Ī = ⟨|C{E}|²⟩ e^{−σ²} + Σ_f W(f) |C{E exp(2πi f·x)}|²`` (…, v, u) of a star on the axis.

    To second order in a stationary phase of power spectrum ``W`` and variance ``σ² = Σ W``: right
    to 0.2 % at σ = 0.1 rad and to some 4 % at 0.3 rad. It is linear in the spectrum but for
    ``e^{−σ²}``, and differentiable in it, in the wave, the jitter and the optics. The brackets are
    the mean over a normally distributed jitter of the pointing, by three nodes along each axis.

    Args:
        coronagraph: the optics.
        psd: ``W(f) = W(−f)`` (…, f_y, f_x) in rad² per sample, at λ0.
        grid: of ``f``, in cycles per telescope diameter.
        wave: static complex wave ``E`` (y, x) at this wavelength; 1 where not given.
        wavelength: ``λ/λ0``; phases are those at λ0 times ``λ0/λ``.
        jitter: root mean square along each axis, in λ0/D.
        chunk: frequencies to be treated together; where a gradient is recorded, each chunk is
            computed again in the backward pass, so that memory is that of one chunk.

    Raises:
        ValueError: a spectrum that is not on the grid, is below 0 or NaN; a wave of another shape
            than the pupil or another precision than the spectrum.

    Example:
        >>> from labrecon_coronagraph.focal_masks import LyotDisc
        >>> from labrecon_coronagraph.pupils import circular
        >>> optics = Coronagraph(circular(32), LyotDisc(2.0), image=Grid.centred(16, 1.0))
        >>> grid = Grid.centred(9, 1.0)
        >>> calm, seeing = (long_exposure(optics, torch.full((9, 9), w), grid) for w in (0.0, 1e-3))
        >>> bool((seeing.mean() > calm.mean()).all())
        True
    """
    _check(psd, grid)
    n = len(coronagraph.pupil)
    if wave is None:
        wave = torch.ones(n, n, dtype=psd.dtype.to_complex(), device=psd.device)
    elif tuple(wave.shape) != (n, n) or wave.dtype != psd.dtype.to_complex():
        raise ValueError(
            f"a wave of {wave.dtype} with shape {tuple(wave.shape)}, expected "
            f"{psd.dtype.to_complex()} (y, x) = {(n, n)}, in the precision of the power spectrum"
        )
    weights = psd.flatten(-2) / wavelength**2
    fy, fx = (axis.flatten() for axis in torch.broadcast_tensors(*grid.meshed()))
    frequencies = torch.stack([fy, fx], -1).to(psd)
    if not psd.requires_grad:
        used = (weights != 0).reshape(-1, len(frequencies)).any(0)
        frequencies, weights = frequencies[used], weights[..., used]

    def spread(offset: Tensor, share: Tensor) -> Tensor:
        # A phase exp(2πi f·x) is a tilt, of as many λ0/D at λ0.
        tilted = wave * plane_wave(offset, n)
        images = intensity(coronagraph.image_field(tilted, wavelength))
        return torch.tensordot(share.movedim(0, -1), images, 1)

    variance = weights.sum(-1)[..., None, None]
    places, shares = _pointing(torch.as_tensor(jitter).to(psd), wavelength)
    coherent = sum(in_chunks(spread, (places, shares), chunk), torch.zeros_like(variance))
    if not len(frequencies):
        return coherent * (-variance).exp()
    halo = in_chunks(spread, (frequencies, weights.movedim(-1, 0)), chunk)
    return coherent * (-variance).exp() + sum(halo[1:], halo[0])


def _pointing(jitter: Tensor, wavelength: float) -> tuple[Tensor, Tensor]:
    """Tilts (node, 2) in cycles per diameter and their weights: Gauss and Hermite's rule."""
    if not jitter.requires_grad and float(jitter) == 0:
        return jitter.new_zeros(1, 2), jitter.new_ones(1)
    nodes = jitter.new_tensor([-math.sqrt(3), 0.0, math.sqrt(3)])
    weights = jitter.new_tensor([1 / 6, 2 / 3, 1 / 6])
    places = torch.cartesian_prod(nodes, nodes) * jitter / wavelength
    return places, torch.outer(weights, weights).flatten()


def _check(psd: Tensor, grid: Grid) -> None:
    if psd.is_complex() or tuple(psd.shape[-2:]) != grid.shape:
        raise ValueError(
            f"a power spectrum of {psd.dtype} with shape {tuple(psd.shape)}, expected real "
            f"(…, f_y, f_x) with (f_y, f_x) = {grid.shape}"
        )
    if not bool((psd.detach() >= 0).all()):
        raise ValueError("the power spectrum has values below 0 or NaN")
