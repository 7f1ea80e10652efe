"""What data tell of the nuisances when the object is unknown, too: the Schur complement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.calibration.linearised import Linearised
from labrecon.krylov import cg_start, cg_step

__all__ = ["Information", "information"]

#: Conjugate-gradient iterations between looks at the convergence.
BLOCK = 10
#: Relative change of what is left of the information, in a block, that is converged; and the
#: share of the information below which nothing is left.
SETTLED, NOTHING = 2e-3, 1e-7


@dataclass(frozen=True, eq=False)
class Information:
    """Fisher information of the nuisances ``p`` of ``A(x; p)``, the object ``x`` unknown.

    With ``J_x = ∂A/∂x``, ``J_p = ∂A/∂p``, the weights ``W`` and the prior's Hessian ``R``:
    ``S = J_pᴴWJ_p − J_pᴴWJ_x (J_xᴴWJ_x + R)⁻¹ J_xᴴWJ_p``. It is computed as
    ``(J_p − J_x z)ᴴ W (J_p − J_x z) + zᴴ R z``, which cancels nothing and falls to ``S`` while the
    responses ``z`` are solved for.

    Attributes:
        schur: ``S`` (number, number).
        from_data: its first term: what comes from the data and not from the prior.
        object_known: ``J_pᴴWJ_p``, the information if the object were known.
        gradient: of ``min_x`` of the objective by ``p``, to first order in what ``x`` lacks.
        responses: ``z``: by how much the object follows each number.
        settled: whether the solves have converged.
    """

    schur: Tensor
    from_data: Tensor
    object_known: Tensor
    gradient: Tensor
    responses: list[Tensor]
    settled: bool


def information(
    here: Linearised,
    x: Tensor,
    columns: Sequence[Tensor],
    iterations: int,
    start: Sequence[Tensor] | None = None,
) -> Information:
    """The information at a point.

    Args:
        here: the data term around ``x``, with the prior's Hessian.
        x: the object.
        columns: ``J_p``, each shaped as the data.
        iterations: conjugate-gradient iterations per number, at most.
        start: responses of a point nearby.
    """
    given = [None] * len(columns) if start is None else start
    solved = [_response(here, c, iterations, z) for c, z in zip(columns, given, strict=True)]
    responses = [z for z, _ in solved]
    left = [c - here.tangent(z) for c, z in zip(columns, responses, strict=True)]
    held = [here.regular(z) for z in responses]
    from_data = _gram(left, [here.weights * c for c in left])
    gradient = [
        _dot(c, here.score) - _dot(z, here.regular(x)) for c, z in zip(left, responses, strict=True)
    ]
    return Information(
        from_data + _gram(responses, held),
        from_data,
        _gram(columns, [here.weights * c for c in columns]),
        torch.tensor(gradient, dtype=torch.float64),
        responses,
        all(done for _, done in solved),
    )


def _response(
    here: Linearised, column: Tensor, iterations: int, start: Tensor | None
) -> tuple[Tensor, bool]:
    """``(JᴴWJ + R)⁻¹ JᴴW c``, and whether more iterations would change the information."""
    ndim = here.tangent.domain.ndim
    right = here.tangent.adjoint(here.weights * column)
    known = _dot(column, here.weights * column)
    state = cg_start(here.hessian, right, start, ndim)
    before = None
    for k in range(iterations):
        if k % BLOCK == 0:
            # rightᴴ H⁻¹ right from below, for any x: (right + r)ᴴ x.
            explained = _dot(right + state.r, state.x)
            enough = SETTLED * max(known - explained, 0.0) + NOTHING * known
            if before is not None and explained - before <= enough:
                return state.x, True
            before = explained
        state = cg_step(here.hessian, state, ndim)
    return state.x, known == 0


def _gram(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    rows = [[_dot(a, b) for b in right] for a in left]
    made = torch.tensor(rows, dtype=torch.float64)
    return (made + made.mT) / 2


def _dot(a: Tensor, b: Tensor) -> float:
    """``Re Σ conj(a) b`` of whole arrays, in double precision."""
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return float((a.double() * b.double()).sum())
