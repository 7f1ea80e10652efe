"""Coil compression: fewer virtual channels that hold nearly all of the signal."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon import Gaussian, Noise, Scan
from labrecon.instrument import Curve, StepError
from labrecon_mri.noise import CoilNoise
from labrecon_mri.steps.channels import coil_axis, mix_channels
from labrecon_mri.steps.requirements import geometry_of, not_applicable

__all__ = ["coil_compression"]


def coil_compression(scan: Scan, *, coils: int | None = None, energy: float = 0.99) -> Scan:
    """Keep the leading singular vectors over the coils (Huang et al. 2008).

    ``y' = Vᴴ y`` with orthonormal columns of ``V``: white noise stays white. One ``V`` for all
    frames, from the calibration lines where the file holds some, else from all samples. Put it
    after ``prewhiten``: singular vectors of channels with unlike noise follow the noise.

    Args:
        scan: Cartesian or not.
        coils: virtual channels to keep; more than there are changes nothing.
        energy: without ``coils``, keep as many as hold this part of ``Σ|y|²``.

    Raises:
        StepError: the options make no sense, or noise or weights differ from coil to coil.
    """
    geometry = geometry_of(scan)
    if coils is not None and coils < 1:
        raise StepError(f"coils is a number of channels from 1 on, got {coils}")
    if not 0 < energy <= 1:
        raise StepError(f"energy is a part of the signal in (0, 1], got {energy}")
    have = geometry.coils
    if have == 1 or (coils is not None and coils >= have):
        return not_applicable(scan, "coil_compression", f"the scan has {have} coil(s)")
    lines = scan.calibration.get("calibration")
    source = "all samples" if lines is None else "calibration lines"
    covariance = _channel_covariance(scan.data, coil_axis(geometry), lines)
    power, vectors = torch.linalg.eigh(covariance)
    kept_energy = power.flip(0).clamp_min(0).cumsum(0) / power.clamp_min(0).sum()
    count = coils if coils is not None else 1 + int((kept_energy < energy).sum())
    count = min(count, have)
    if count == have:
        return not_applicable(
            scan, "coil_compression", f"all {have} coils are needed for {energy:.4g} of the energy"
        )
    mixing = vectors.flip(1)[:, :count].mH
    compressed = mix_channels(scan, mixing)
    curve = Curve(
        "Coil compression",
        list(range(1, have + 1)),
        kept_energy.tolist(),
        "virtual channels",
        "part of the energy",
        float(count),
    )
    return compressed.replace(noise=_mixed_noise(scan.noise, mixing)).with_step(
        "coil_compression",
        curve=curve,
        coils=count,
        of=have,
        energy=float(kept_energy[count - 1]),
        source=source,
    )


def _channel_covariance(data: Tensor, axis: int, lines: Tensor | None) -> Tensor:
    """``Σ y yᴴ`` (coil, coil) in complex128, some samples at a time."""
    samples = data.movedim(axis, 0).flatten(1) if lines is None else lines.flatten(1)
    total = torch.zeros(len(samples), len(samples), dtype=torch.complex128)
    for part in samples.split(2**20, 1):
        wide = part.to(torch.complex128)
        total += wide @ wide.mH
    if not bool(torch.isfinite(torch.view_as_real(total)).all()) or not bool((total != 0).any()):
        raise StepError("the data are all zero, or have samples that are NaN or infinite")
    return total


def _mixed_noise(noise: Noise, mixing: Tensor) -> Noise:
    if isinstance(noise, CoilNoise):
        psi = noise.factor @ noise.factor.mH
        return CoilNoise(mixing @ psi @ mixing.mH, noise.axis)
    if not isinstance(noise, Gaussian) or noise.sigma.numel() > 1:
        raise StepError(
            f"coil_compression knows white noise and CoilNoise, not {type(noise).__name__} of "
            "several deviations: put prewhiten before it"
        )
    return noise
