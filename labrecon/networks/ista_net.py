"""ISTA-Net and ISTA-Net⁺ (Zhang and Ghanem 2018): proximal gradient with learned transforms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labrecon.networks.safe_step import safe_step
from labrecon.networks.unrolled import Start, Unrolled
from labrecon.operator import Operator
from labrecon.operators.matrix import Matrix
from labrecon.options import whole
from labrecon.priors.channels import channel_count
from labrecon.priors.transform_pair import convolutional_pair
from labrecon.problem import Problem
from labrecon.schedule import Schedule
from labrecon.seeds import seeded
from labrecon.solver import SolverError
from labrecon.solvers.proximal import ISTA

__all__ = ["linear_start", "make_ista_net", "make_ista_net_plus"]

#: Of the loss that `TransformPair` tells, beside the squared error of the image.
LOSS_WEIGHTS = {"symmetry": 0.01}


def make_ista_net(
    problem: Problem,
    *,
    depth: int = 9,
    features: int = 32,
    step_size: float | None = None,
    start: Start = "initial",
    scale: float = 1.0,
    seed: int = 0,
) -> Unrolled:
    """``x ← F̃ₖ(soft(Fₖ(x − ρₖ ∇D(x)), θₖ))``, all learned per layer, for any operator.

    Steps and thresholds may take either sign, as published networks do. Train with the loss
    ``symmetry`` at its weight of 0.01, beside the mean squared error. `make_ista_net_plus` is the
    better of the two. Not for a change of noise level or sampling after training: it is trained
    for one (take a plug-and-play network there).

    Args:
        problem: an example: its operator gives axes, dtype and step size.
        depth: number of layers.
        features: channels of the learned transforms.
        step_size: ``ρₖ`` at first; None for ``½ / L``, the published ½ where ``‖A‖ = 1``.
        start: as for `Unrolled`; for block compressed sensing a `linear_start`.
        scale: typical size of the object's values.
        seed: of the first weights.

    Raises:
        SolverError: a number is wrong, or a nonlinear operator comes without a step size.
    """
    return _made(problem, depth, features, step_size, start, scale, seed, residual=False)


def make_ista_net_plus(
    problem: Problem,
    *,
    depth: int = 9,
    features: int = 32,
    step_size: float | None = None,
    start: Start = "initial",
    scale: float = 1.0,
    seed: int = 0,
) -> Unrolled:
    """``x ← r + Gₖ H̃ₖ(soft(Hₖ Dₖ r, θₖ))`` with ``r = x − ρₖ ∇D(x)``: ISTA-Net⁺.

    `make_ista_net` with transforms that see features of the image and mend it by a correction.

    Args:
        problem: an example: its operator gives axes, dtype and step size.
        depth: number of layers.
        features: channels of the learned transforms.
        step_size: ``ρₖ`` at first; None for ``½ / L``, the published ½ where ``‖A‖ = 1``.
        start: as for `Unrolled`; for block compressed sensing a `linear_start`.
        scale: typical size of the object's values.
        seed: of the first weights.

    Raises:
        SolverError: a number is wrong, or a nonlinear operator comes without a step size.
    """
    return _made(problem, depth, features, step_size, start, scale, seed, residual=True)


def _made(
    problem: Problem,
    depth: int,
    features: int,
    step_size: float | None,
    start: Start,
    scale: float,
    seed: int,
    *,
    residual: bool,
) -> Unrolled:
    domain = problem.operator.domain
    depth = whole("depth", depth, error=SolverError)
    step = 0.5 * safe_step(problem) if step_size is None else step_size
    with seeded(seed):
        pairs = [
            convolutional_pair(
                min(2, domain.ndim),
                channel_count(domain.dtype),
                features=features,
                residual=residual,
                scale=scale,
            )
            for _ in range(depth)
        ]
    steps = Schedule(step, depth, constraint=None, learn=True)
    solver = ISTA(prior=nn.ModuleList(pairs), step_size=steps).to(domain.real_dtype)
    network = Unrolled(solver, depth, start=start)
    network.loss_weights = LOSS_WEIGHTS
    return network


def linear_start(operator: Operator, objects: Tensor) -> Matrix:
    """The linear map from data to objects with the least squared error over examples.

    ``Q = X Yᴴ (Y Yᴴ)⁺`` with ``Y = A X``: a first estimate for a network, of operators as small as
    the blocks of compressed sensing (``Q`` is dense).

    Args:
        operator: linear; its data have the dtype of its objects.
        objects: examples ``(count, *operator.domain.shape)``, better more of them than samples.

    Raises:
        SpaceError: data and objects differ in dtype.
    """
    with torch.no_grad():
        data = operator(objects)
    # In double precision: the condition number of the Gram matrix is a square.
    double = torch.complex128 if data.is_complex() else torch.float64
    x, y = objects.flatten(1).mT.to(double), data.flatten(1).mT.to(double)
    fitted = x @ y.mH @ torch.linalg.pinv(y @ y.mH, hermitian=True)
    return Matrix(fitted.to(data.dtype), operator.range, operator.domain)
