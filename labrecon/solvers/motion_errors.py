"""Error bars of motions: what the noise of a burst leaves unknown (Cramér and Rao)."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.noise import Gaussian
from labrecon.operators.burst import Burst
from labrecon.problem import Problem, SolverError
from labrecon.solvers.motion_step import masked, normal_equations

__all__ = ["motion_errors"]


@torch.no_grad()
def motion_errors(
    problem: Problem,
    x: Tensor,
    motion: Tensor,
    *,
    known_image: bool = False,
    ridge: float = 1e-3,
    iterations: int = 60,
) -> Tensor:
    """Standard deviations of the motions of a burst, ``(*batch, frame, number)``, in pixels.

    Roots of the diagonal of the inverse Fisher information; infinite for frames without weight.
    With ``known_image`` that of the motions alone, ``JᴴWJ``. Else the image is unknown, too:
    ``JᴴWJ − JᴴWU (UᴴWU + ρ)⁻¹ UᴴWJ``, where ``ρ``, a share of ``‖UᴴWU‖``, stands for a weak prior.
    The motion of frame 0 is known: its own bar is 0. A prior that knows the image better makes
    motions better known than this; an image that is wrong makes them worse.

    Args:
        problem: of a `Burst`, with the standard deviation of its noise.
        x: the image ``(*batch, *domain.shape)``.
        motion: ``(*batch, frame, number)``.
        known_image: see above.
        ridge: ``ρ / ‖UᴴWU‖``.
        iterations: of conjugate gradients at most; too few make bars too small, not too large. A
            smaller ``ridge`` needs more.

    Raises:
        SolverError: the operator is no burst, or the noise is of unit standard deviation, which
            says that it is unknown.
    """
    operator = problem.operator
    if not isinstance(operator, Burst):
        raise SolverError(f"motion_errors needs a Burst, got {operator.name}")
    if isinstance(problem.noise, Gaussian) and problem.noise.unit:
        raise SolverError(
            "error bars need the noise level: give the problem Gaussian(sigma), in units of the "
            "data"
        )
    seen = masked(operator, problem.weights, motion)
    information = normal_equations(operator, problem, x, motion, seen).matrix
    if known_image:
        bars = _bars(information).to(x.real.dtype)
    else:
        batch = problem.batch
        images = x.reshape(-1, *operator.domain.shape)
        motions = motion.expand(*batch, *motion.shape[-2:]).reshape(-1, *motion.shape[-2:])
        certainty = seen / problem.noise.variance(operator(x, motion=motion))
        certainties = certainty.reshape(-1, *operator.range.shape)
        blocks = information.reshape(-1, *information.shape[-3:])
        parts = zip(images, motions, certainties, blocks, strict=True)
        bars = torch.stack([_marginal(operator, *part, ridge, iterations) for part in parts])
        bars = bars.reshape(*batch, *motion.shape[-2:])
    bars[..., 0, :] = 0
    return bars


def _marginal(
    operator: Burst,
    x: Tensor,
    motion: Tensor,
    certainty: Tensor,
    information: Tensor,
    ridge: float,
    iterations: int,
) -> Tensor:
    """Bars of one burst; the image is eliminated by a solve for each number but frame 0's."""
    frames, numbers = motion.shape
    columns = operator.jacobian(x, motion)
    # Each number moves the data of its own frame only.
    single = columns.new_zeros(frames, numbers, *operator.range.shape)
    each = torch.arange(frames, device=x.device)
    single[each, :, each] = columns
    single = single[1:].flatten(0, 1)
    moved = operator.at(motion=motion)
    pulled = moved.adjoint(certainty * single)
    largest = float(certainty.amax()) * frames * operator.camera.norm() ** 2
    solved = moved.solve(
        pulled, ridge * largest, weights=certainty, iterations=iterations, tolerance=1e-6
    )
    # BᴴX + XᴴB − XᴴAX ≤ BᴴA⁻¹B for whatever X: a solve that ends early leaves what is left of the
    # information positive, where BᴴX alone may not.
    back = moved.normal(solved, certainty) + ridge * largest * solved
    b, x, ax = (t.flatten(1) for t in (pulled, solved, back))
    told = (b.conj() @ x.mT).real.double()
    lost = told + told.mT - (x.conj() @ ax.mT).real.double()
    own = torch.block_diag(*information[1:])
    bars = _bars(own.double() - lost).to(own.dtype).reshape(frames - 1, numbers)
    return torch.cat([torch.zeros_like(bars[:1]), bars])


def _bars(information: Tensor) -> Tensor:
    """Roots of the diagonal of the inverse; infinite for numbers of frames without weight."""
    information = information.double()
    diagonal = information.diagonal(dim1=-2, dim2=-1)
    told = diagonal > 0
    values, vectors = torch.linalg.eigh(information + torch.diag_embed((~told).double()))
    least = torch.finfo(values.dtype).eps * values.amax(-1, keepdim=True)
    variance = (vectors.square() / values.clamp_min(least).unsqueeze(-2)).sum(-1)
    return torch.where(told, variance.sqrt(), torch.inf)
