"""FISTA-Net (Xiang, Dong and Yang 2021): accelerated proximal gradient with one learned prior."""

from __future__ import annotations

import torch
from torch import nn

from labrecon.networks.safe_step import safe_step
from labrecon.networks.softplus_law import MomentumLaw, SoftplusLaw
from labrecon.networks.unrolled import Start, Unrolled
from labrecon.options import whole
from labrecon.priors.channels import channel_count
from labrecon.priors.transform_pair import convolutional_pair
from labrecon.problem import Problem
from labrecon.seeds import seeded
from labrecon.solver import SolverError
from labrecon.solvers.proximal import FISTA

__all__ = ["make_fista_net"]

#: Of the losses that `TransformPair` tells, beside the squared error of the image.
LOSS_WEIGHTS = {"symmetry": 0.01, "sparsity": 0.001}


def make_fista_net(
    problem: Problem,
    *,
    depth: int = 7,
    features: int = 32,
    back: nn.Module | None = None,
    step_size: float | None = None,
    nonneg: bool | None = None,
    start: Start = "initial",
    scale: float = 1.0,
    seed: int = 0,
) -> Unrolled:
    """`labrecon.solvers.FISTA` with a transform pair that all layers share, for any operator.

    Step, threshold and momentum of layer ``k`` are laws with two numbers each
    (`labrecon.networks.softplus_law`): steps and thresholds fall, the momentum rises from 0. With
    32 features of real images that is 74 599 parameters, whatever the depth. The first thresholds
    are far below those published, which silence the features of normalised images, and with them
    the gradient of the prior.

    For few parameters. At the same training it reached less than an ISTA-Net⁺ in our tests; and
    though it runs with any depth, other depths than that of its training are worse.

    Args:
        problem: an example: its operator gives axes, dtype and step size.
        depth: number of layers.
        features: channels of the learned transforms.
        back: takes the place of ``Aᴴ`` in the gradient: published are the analytic weights of
            `labrecon.networks.alista` for a dense matrix.
        step_size: what the law of the step multiplies, 0.74 in the first layer; None for ``1 / L``,
            or with ``back``, which is taken for an inverse of ``A``, for 1 over the curvature of
            the noise (1 for the default noise).
        nonneg: cut at 0, as published; None for real images yes, complex ones no.
        start: as for `Unrolled`.
        scale: typical size of the object's values.
        seed: of the first weights.

    Raises:
        SolverError: a number is wrong, or a nonlinear operator comes without a step size.
    """
    domain = problem.operator.domain
    with seeded(seed):
        prior = convolutional_pair(
            min(2, domain.ndim),
            channel_count(domain.dtype),
            features=features,
            convolutions=4,
            bias=True,
            threshold=SoftplusLaw(-0.5, -5.0),
            nonneg=not domain.dtype.is_complex if nonneg is None else nonneg,
            sparsity=True,
            scale=scale,
        )
    if step_size is None:
        curvature = torch.as_tensor(problem.noise.curvature(problem.data))
        step_size = safe_step(problem) if back is None else 1 / float(curvature.max())
    solver = FISTA(
        prior=prior,
        step_size=SoftplusLaw(-0.2, 0.1, factor=step_size),
        back=back,
        extrapolation=MomentumLaw(0.5, 0.0),
    )
    network = Unrolled(
        solver.to(domain.real_dtype), whole("depth", depth, error=SolverError), start=start
    )
    network.loss_weights = LOSS_WEIGHTS
    return network
