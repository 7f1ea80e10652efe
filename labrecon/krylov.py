"""Conjugate gradients and Lanczos' method, for maps that are applied and never written down."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from labrecon.functional import Map
from labrecon.space import inner, per_element, squared_norm

__all__ = ["CGState", "cg_start", "cg_step", "largest_eigenvalue"]


def largest_eigenvalue(apply: Map, x: Tensor, iterations: int, tolerance: float) -> float:
    """The largest eigenvalue of a self-adjoint, positive map by Lanczos' method from ``x``.

    Only the three-term recurrence is kept: lost orthogonality repeats converged values, which does
    no harm to the largest.
    """
    diagonal: list[float] = []
    beside: list[float] = []
    value = 0.0
    q, before = x / torch.linalg.vector_norm(x), torch.zeros_like(x)
    for _ in range(iterations):
        w = apply(q)
        diagonal.append(float(inner(q, w, q.ndim).real))
        w = w - diagonal[-1] * q - (beside[-1] if beside else 0.0) * before
        # Squares of 1e-20 are 0 in single precision, those of 1e20 are infinite.
        largest = float(w.abs().max())
        if not math.isfinite(largest) or not math.isfinite(diagonal[-1]):
            raise ArithmeticError(
                "the norm overflows: AᴴA x is not finite. Scale the operator, or compute in float64"
            )
        size = largest * float(torch.linalg.vector_norm(w / largest)) if largest > 0 else 0.0
        n = len(diagonal)
        matrix = torch.zeros(n, n, dtype=torch.float64)
        matrix.diagonal().copy_(torch.tensor(diagonal))
        if n > 1:
            matrix.diagonal(-1).copy_(torch.tensor(beside))
        values, vectors = torch.linalg.eigh(matrix)
        value = max(0.0, float(values[-1]))
        if size * abs(float(vectors[-1, -1])) <= tolerance * value:
            break
        beside.append(size)
        q, before = w / size, q
    return value


class CGState(NamedTuple):
    """Conjugate gradients: iterate, residual, search direction and ``‖r‖²`` per element."""

    x: Tensor
    r: Tensor
    p: Tensor
    rr: Tensor


def cg_start(apply: Map, rhs: Tensor, x0: Tensor | None, ndim: int) -> CGState:
    """Start conjugate gradients for ``apply(x) = rhs`` from ``x0`` (default zero)."""
    x = torch.zeros_like(rhs) if x0 is None else x0
    r = rhs if x0 is None else rhs - apply(x0)
    return CGState(x, r, r, squared_norm(r, ndim))


def cg_step(apply: Map, state: CGState, ndim: int) -> CGState:
    """One conjugate-gradient iteration; a batch element that has converged stays as it is."""
    x, r, p, rr = state
    q = apply(p)
    curvature = inner(p, q, ndim).real
    # Below, the derivatives of the quotients overflow.
    tiny = torch.finfo(rr.dtype).tiny
    moving = (curvature > tiny) & (rr > tiny)
    alpha = per_element(torch.where(moving, rr, 0.0) / torch.where(moving, curvature, 1.0), ndim)
    x = x + alpha * p
    r = r - alpha * q
    rr_next = squared_norm(r, ndim)
    beta = per_element(torch.where(moving, rr_next, 0.0) / torch.where(moving, rr, 1.0), ndim)
    return CGState(x, r, r + beta * p, rr_next)
