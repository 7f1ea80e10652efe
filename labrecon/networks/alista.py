"""ALISTA: sparse recovery with analytic weights and two learned numbers per layer."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.networks.lista import require_matrix
from labrecon.networks.unrolled import Unrolled
from labrecon.operators.matrix import Matrix
from labrecon.options import number, whole
from labrecon.priors.support_selection import SupportSelection
from labrecon.problem import Problem, SolverError
from labrecon.schedule import Schedule
from labrecon.solvers.proximal import ISTA

__all__ = ["analytic_weights", "make_alista"]


def analytic_weights(matrix: Tensor) -> Tensor:
    """``argmin ‖WᴴA‖_F`` subject to ``wᵢᴴaᵢ = 1``, in closed form, for ``A (m, n)``.

    ``wᵢ = G⁻¹aᵢ / (aᵢᴴ G⁻¹ aᵢ)`` with ``G = AAᴴ``: the columns of the problem that Liu, Chen, Wang
    and Yin (2019, ALISTA, eq. 16) solve by projected gradients decouple.

    Raises:
        SolverError: the rows of ``A`` are linearly dependent, or a column is zero.

    Example:
        >>> w = analytic_weights(torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))
        >>> (w * torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 1.0]])).sum(0)
        tensor([1., 1., 1.])
    """
    if matrix.ndim != 2:
        raise SolverError(f"analytic weights are of a matrix (m, n), got {tuple(matrix.shape)}")
    if not bool((matrix != 0).any(0).all()):
        raise SolverError("analytic weights: a column of the matrix is zero, nothing sees it")
    factor, failed = torch.linalg.cholesky_ex(matrix @ matrix.mH)
    pivots = factor.diagonal().abs()
    # Rounding may leave a little of a pivot that is zero.
    lost = 16 * len(pivots) * torch.finfo(pivots.dtype).eps * float(pivots.max()) ** 2
    if int(failed) or float(pivots.min()) ** 2 <= lost:
        raise SolverError(
            "analytic weights need linearly independent rows: take fewer than columns, none twice"
        )
    solved = torch.cholesky_solve(matrix, factor)
    return solved / (matrix.conj() * solved).sum(0)


def make_alista(
    problem: Problem,
    *,
    depth: int = 16,
    weight: float = 0.4,
    percent: float = 1.2,
    largest: float = 13.0,
    scale: float = 1.0,
    seed: int = 0,
) -> Unrolled:
    """ALISTA (Liu, Chen, Wang and Yin 2019) for the `Matrix` of this problem.

    ``x ← η_{θ_k, p_k}(x + γ_k Wᴴ(y − A x))`` with `analytic_weights` ``W`` and support selection
    ``η``: ``γ`` and ``θ`` are all that is learned, two numbers per layer. Train it layer by layer.
    Not where the object is less sparse than about a tenth of the number of measurements.

    Args:
        problem: an example, whose operator is a `Matrix` with independent rows and fewer of them
            than columns.
        depth: layers.
        weight: the thresholds before training are ``weight / ‖A‖²``, for objects of size
            one.
        percent: of the samples that more are trusted in each layer.
        largest: the most, in per cent.
        scale: typical size of object values.
        seed: not used: nothing is drawn at random.

    Raises:
        SolverError: the operator is no `Matrix`, its rows depend on each other, or a number is out
            of range.
    """
    depth = whole("ALISTA: depth", depth, error=SolverError)
    weight = number("ALISTA: weight", weight, at_least=0, error=SolverError)
    scale = number("ALISTA: scale", scale, above=0, error=SolverError)
    matrix = require_matrix(problem, "ALISTA")
    domain, measured = problem.operator.domain, problem.operator.range
    bound = float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    # The published step is of a data term without weights and of unit noise.
    step_size = 1.01 * bound / float(torch.as_tensor(problem.lipschitz()).max())
    prior = SupportSelection(
        Schedule(weight * scale / bound, depth, constraint=None, learn=True),
        percent=percent,
        largest=largest,
        ndim=domain.ndim,
    )
    solver = ISTA(
        prior=prior.to(domain.real_dtype),
        step_size=Schedule(step_size, depth, constraint=None, learn=True).to(domain.real_dtype),
        back=Matrix(analytic_weights(matrix).mH.contiguous(), measured, domain),
    )
    return Unrolled(solver, depth)
