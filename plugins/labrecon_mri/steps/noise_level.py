"""The noise level of k-space, estimated from its edge."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from labrecon import Gaussian, Scan
from labrecon.instrument import StepError
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.noise import CoilNoise
from labrecon_mri.steps.channels import coil_axis, mix_channels
from labrecon_mri.steps.requirements import geometry_of, not_applicable

__all__ = ["noise_level"]

#: Samples per coil that an estimate needs: its standard error is then below 5 %.
LEAST_SAMPLES = 200


def noise_level(
    scan: Scan, *, sigma: float | None = None, part: float = 0.05, whiten: bool = False
) -> Scan:
    """Set the standard deviation of the noise where no noise scan gave it.

    ``σ = median|y| / √(2 ln 2)`` (Rayleigh) over the samples that are farthest from the centre of
    k-space, in units of its edge along each axis; exact zeros are samples that were not measured.
    An object with sharp edges has signal there, too, so that ``σ`` is rather too large (10 % to
    20 % in phantoms). Not for k-space that was filtered or zero-filled by the scanner.

    Args:
        scan: without noise scan. The noise of a scan that has a known level stays.
        sigma: use this value, per real and imaginary part, instead.
        part: of the samples that counts as the edge.
        whiten: divide each coil by its own ``σ``, where coils have unlike gains.

    Raises:
        StepError: ``sigma`` is not positive, or ``part`` not in (0, 0.5].
    """
    geometry = geometry_of(scan)
    if sigma is not None:
        if not 0 < sigma < math.inf:
            raise StepError(f"sigma must be positive, got {sigma}")
        return _with_sigma(scan, sigma, sigma=sigma, given=True)
    if not 0 < part <= 0.5:
        raise StepError(f"part is a part of the samples in (0, 0.5], got {part}")
    if geometry.sigma is not None or isinstance(scan.noise, CoilNoise):
        return not_applicable(scan, "noise_level", "the noise is known", sigma=geometry.sigma)
    edge = _edge_magnitudes(scan, geometry, part)
    counts = [len(values) for values in edge]
    if min(counts) < LEAST_SAMPLES:
        why = f"{min(counts)} samples at the edge of k-space are fewer than {LEAST_SAMPLES}"
        return not_applicable(scan, "noise_level", why)
    levels = [float(values.median()) / math.sqrt(2 * math.log(2)) for values in edge]
    if min(levels) < 1e-7 * float(scan.data.abs().max()):
        return not_applicable(scan, "noise_level", "the edge of k-space holds rounding errors only")
    told: dict[str, Any] = {
        "coils": [float(f"{level:.4g}") for level in levels],
        "samples_per_coil": min(counts),
    }
    if whiten:
        scaled = mix_channels(scan, torch.diag(1 / torch.tensor(levels, dtype=torch.complex128)))
        return _with_sigma(scaled, 1.0, sigma=1.0, whitened=True, **told)
    pooled = math.sqrt(sum(level**2 for level in levels) / len(levels))
    return _with_sigma(scan, pooled, sigma=pooled, **told)


def _with_sigma(scan: Scan, value: float, **told: Any) -> Scan:
    changed = geometry_of(scan).changed(sigma=value)
    return scan.replace(noise=Gaussian(value), geometry=changed).with_step("noise_level", **told)


def _edge_magnitudes(scan: Scan, geometry: MRIGeometry, part: float) -> list[Tensor]:
    """``|y|`` of the measured samples farthest out, for each coil."""
    axis = coil_axis(geometry)
    weights = scan.weights
    data = scan.data if weights is None else torch.where(weights > 0, scan.data, 0)
    coils = data.movedim(axis, 0)
    radius = _radius(geometry).expand(coils.shape[1:])
    measured = (coils != 0).any(0)
    if not bool(measured.any()):
        raise StepError("the data are all zero")
    outer = radius[measured].sort(descending=True).values
    least = outer[max(0, math.ceil(part * len(outer)) - 1)]
    chosen = measured & (radius >= least)
    return [values[values > 0] for values in coils[:, chosen].abs()]


def _radius(geometry: MRIGeometry) -> Tensor:
    """``|k|`` of each sample in units of the edge of k-space along each axis."""
    if geometry.trajectory is not None:
        edge = torch.tensor(geometry.nyquist)
        return (geometry.trajectory.tensor(torch.float64) / edge).norm(dim=-1).float()
    squares = torch.zeros(())
    for position, n in enumerate(geometry.matrix):
        k = (torch.arange(n) - n // 2) / (n / 2)
        squares = squares + k.square().reshape(-1, *[1] * (geometry.ndim - position - 1))
    return squares.sqrt()
