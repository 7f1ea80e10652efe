"""Density compensation as weights of the data term, for those who want it there."""

from __future__ import annotations

import torch

from labrecon import Scan
from labrecon_mri.density import pipe_menon
from labrecon_mri.steps.requirements import geometry_of, not_applicable

__all__ = ["density_weights"]


def density_weights(scan: Scan, *, iterations: int = 30) -> Scan:
    """Weigh each sample by the area of k-space it stands for (Pipe and Menon 1999), mean 1.

    Conjugate gradients then need a few iterations instead of tens. The price: the weighted fit is
    not the likelihood of white noise, and samples of the dense middle are partly wasted.

    Args:
        scan: samples along a trajectory.
        iterations: of the fixed point.
    """
    geometry = geometry_of(scan)
    if geometry.trajectory is None:
        return not_applicable(scan, "density_weights", "Cartesian samples are even")
    trajectory = geometry.trajectory.tensor(torch.float64)
    density = pipe_menon(geometry.matrix, geometry.fov, trajectory, iterations=iterations)
    density = (density / density.mean()).unsqueeze(-3)  # the coils are alike
    weights = density if scan.weights is None else density * scan.weights
    return scan.replace(weights=weights).with_step(
        "density_weights", smallest=float(density.min()), largest=float(density.max())
    )
