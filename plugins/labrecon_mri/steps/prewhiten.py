"""Prewhitening: channels with uncorrelated noise of deviation 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labrecon import Gaussian, Scan
from labrecon.instrument import StepError
from labrecon_mri.steps.channels import mix_channels
from labrecon_mri.steps.requirements import geometry_of, not_applicable

__all__ = ["noise_covariance", "prewhiten"]

#: Noise samples per coil, below which the estimate of Ψ is noise itself.
LEAST_SAMPLES = 10


def prewhiten(scan: Scan, *, covariance: str | None = None) -> Scan:
    """``y ← L⁻¹ y`` with ``Ψ = L Lᴴ``, the noise covariance of the coils.

    Data, calibration lines, navigators and given maps are changed alike; the noise is then
    Gaussian with ``σ = 1`` in the real and in the imaginary part, as solvers and ``χ²`` want it.

    Args:
        scan: with a noise scan ``calibration["noise"]`` (coil, sample), whose covariance is that of
            the data after a factor ``calibration["noise_scale"]``: dwell times and bandwidths.
        covariance: file (``.npy``) with ``Ψ`` (coil, coil), per real and imaginary part of a data
            sample, in place of the noise scan.

    Raises:
        StepError: the noise scan is too short, a coil in it is dead or a copy of another; or the
            covariance does not fit.
    """
    geometry = geometry_of(scan)
    if covariance is not None:
        psi, source = _from_file(covariance, geometry.coils), covariance
    elif "noise" in scan.calibration:
        psi = noise_covariance(scan.calibration["noise"], scan.calibration.get("noise_scale"))
        if len(psi) != geometry.coils:
            raise StepError(f"the noise scan has {len(psi)} coils, the data have {geometry.coils}")
        source = f"noise scan of {scan.calibration['noise'].shape[1]} samples"
    else:
        return not_applicable(scan, "prewhiten", "the file holds no noise scan")
    factor = _factor(psi)
    inverse = torch.linalg.solve_triangular(
        factor, torch.eye(len(psi), dtype=factor.dtype), upper=False
    )
    whitened = mix_channels(scan, inverse)
    used = {
        name: values
        for name, values in whitened.calibration.items()
        if name not in ("noise", "noise_scale")
    }
    deviation = psi.diagonal().real.sqrt()
    correlation = (psi / (deviation[:, None] * deviation)).abs() - torch.eye(len(psi))
    return whitened.replace(
        calibration=used,
        noise=Gaussian(1.0),
        geometry=geometry_of(whitened).changed(sigma=1.0),
    ).with_step(
        "prewhiten",
        source=source,
        deviations=[float(f"{value:.4g}") for value in deviation],
        largest_correlation=float(correlation.max()),
    )


def noise_covariance(noise: Tensor, scale: Tensor | None = None) -> Tensor:
    """``Ψ = ½ · scale · mean(n nᴴ)`` (coil, coil) in complex128: per real and imaginary part.

    Args:
        noise: noise scan (coil, sample).
        scale: factor from its covariance to that of the data; 1 where there is none.

    Raises:
        StepError: fewer than 10 samples per coil, or a sample that is not finite.
    """
    coils, samples = noise.shape
    if samples < LEAST_SAMPLES * coils:
        raise StepError(
            f"a noise scan of {samples} samples is too short for {coils} coils: at least "
            f"{LEAST_SAMPLES * coils} are needed. Leave prewhiten out, or give a covariance"
        )
    wide = noise.to(torch.complex128)
    if not bool(torch.isfinite(torch.view_as_real(wide)).all()):
        raise StepError("the noise scan has samples that are NaN or infinite")
    factor = 1.0 if scale is None else float(scale)
    if not 0 < factor < float("inf"):
        raise StepError(f"noise_scale is a positive factor, got {factor}")
    return 0.5 * factor * (wide @ wide.mH) / samples


def _from_file(path: str, coils: int) -> Tensor:
    try:
        psi = torch.as_tensor(np.load(Path(path), allow_pickle=False)).to(torch.complex128)
    except (OSError, ValueError) as error:
        raise StepError(f"{path} can not be read as a covariance (.npy): {error}") from error
    if tuple(psi.shape) != (coils, coils):
        raise StepError(
            f"{path} holds {tuple(psi.shape)}, a covariance of {coils} coils is ({coils}, {coils})"
        )
    if not bool(torch.isfinite(torch.view_as_real(psi)).all()) or not torch.allclose(
        psi, psi.mH, rtol=1e-4, atol=1e-6 * float(psi.abs().max())
    ):
        raise StepError(f"{path}: a covariance is Hermitian and finite")
    return psi


def _factor(psi: Tensor) -> Tensor:
    """``L``, after a look at what makes it meaningless."""
    power = psi.diagonal().real
    dead = (power < 1e-6 * power.median()).nonzero().flatten().tolist()
    if dead or not bool((power > 0).all()):
        raise StepError(
            f"coils {dead} have no noise at all (counted from 0): unplugged, or switched off. Take "
            "them out of the file, or leave prewhiten out"
        )
    values = torch.linalg.eigvalsh(psi / torch.outer(power, power).sqrt())
    if float(values[0]) < 1e-6:
        raise StepError(
            "the noise covariance is singular: a coil is a copy, or a combination, of others. Were "
            "the channels compressed before? Then leave prewhiten out"
        )
    return torch.linalg.cholesky(psi)
