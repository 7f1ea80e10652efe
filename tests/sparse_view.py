"""Sparse-view CT as Adler and Öktem set it up (30 views, 5 % noise), and short trainings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from labrecon.metrics import psnr
from labrecon.operator import Operator
from labrecon.priors import TV
from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import PDHG

if TYPE_CHECKING:
    from labrecon_ct.projector import CTProjector

VIEWS = 30


def projector(size: int, filter: str = "ramp", views: int = VIEWS) -> CTProjector:
    """Pixels of side 1 and the detector that ODL gives them: 183 cells for 128 pixels.

    The kernel is Joseph's, as that of ASTRA on CUDA, which the published figures are from.
    """
    # Here, so that a machine without the plugin's dependencies can use the rest.
    from labrecon_ct.geometry import CTGeometry
    from labrecon_ct.projector import CTProjector

    radius = size / math.sqrt(2)
    columns = 2 * math.ceil(radius) + 1
    geometry = CTGeometry(
        angles=tuple((k + 0.5) * math.pi / views for k in range(views)),
        columns=columns,
        column_pitch=2 * radius / columns,
        voxel_size=1.0,
        volume_shape=(size, size),
    )
    return CTProjector(geometry, backend="matrix", kernel="linear", filter=filter)


def of_norm_one(operator: Operator) -> Operator:
    """``A / ‖A‖``."""
    return (1 / operator.norm(tolerance=1e-5)) * operator


def measured(operator: Operator, objects: Tensor, generator: torch.Generator) -> Tensor:
    """Data ``(n, *range)`` with white noise of 5 % of each object's mean modulus."""
    with torch.no_grad():
        clean = operator(objects)
    level = 0.05 * clean.abs().mean((-2, -1), keepdim=True)
    return clean + level * torch.randn(clean.shape, generator=generator, device=clean.device)


def mean_psnr(estimates: Tensor, truths: Tensor) -> float:
    """Mean over images of the PSNR whose peak is each truth's max − min."""
    pairs = zip(estimates, truths, strict=True)
    return sum(psnr(x, t) for x, t in pairs) / len(truths)


def total_variation(operator: Operator, data: Tensor, weight: float, iterations: int) -> Tensor:
    """The minimiser of ``½‖Ax − y‖² + weight · TV(x)``, for ``‖A‖ = 1``."""
    # Steps for objects of size 1 and residuals of a few hundredths.
    solver = PDHG(prior=TV(weight), ratio=50.0)
    return solve(solver, Problem(operator, data), iterations=iterations, check_every=iterations).x


def best_total_variation(
    operator: Operator, data: Tensor, truths: Tensor, weights: list[float], iterations: int = 300
) -> float:
    """PSNR of TV with the weight that the truths ask for, which lies inside the list."""
    scores = [
        mean_psnr(total_variation(operator, data, weight, iterations), truths) for weight in weights
    ]
    best = max(range(len(scores)), key=scores.__getitem__)
    assert 0 < best < len(weights) - 1, f"the best weight is at an end: {scores}"
    return scores[best]


def train(
    network: nn.Module,
    operator: Operator,
    objects: Tensor,
    *,
    steps: int,
    batch: int,
    rate: float = 1e-3,
    clip: float = 1.0,
) -> None:
    """Adam (β₂ 0.99, cosine to 0, clipped) on the mean square error of flipped, noisy objects."""
    generator = torch.Generator(objects.device).manual_seed(1)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        chosen = torch.randint(len(objects), (batch,), generator=generator, device=objects.device)
        truth = objects[chosen]
        for axis, turned in ((-1, step & 1), (-2, step & 2)):
            truth = truth.flip(axis) if turned else truth
        data = measured(operator, truth, generator)
        loss = nn.functional.mse_loss(network(Problem(operator, data)), truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimiser.step()
        schedule.step()


def estimated(network: Callable[[Problem], Tensor], operator: Operator, data: Tensor) -> Tensor:
    """The network's estimates, without gradients and in evaluation mode."""
    if isinstance(network, nn.Module):
        network.eval()
    with torch.no_grad():
        return network(Problem(operator, data))
