"""Checks of the adjoint, and of what rests on it: normal, solve, norm, first estimate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from labrecon.operator import GradientError, Operator
from labrecon.space import Space, inner, squared_norm
from labrecon.testing.bench import Bench, check, relative
from labrecon.testing.finding import Finding

MATCHED = 1e-3


@check("adjoint")
def adjoint(bench: Bench) -> Iterator[Finding]:
    """``⟨Ax, y⟩ = ⟨x, Aᴴy⟩`` for white noise ``y`` and for ``y = Ax``."""
    operator = bench.operator
    if not operator.linear:
        yield Finding("skipped", "a nonlinear operator has no adjoint; see gradient")
        return
    complete = bench.is_complex
    x = bench.random_x(6, stream=1)
    with torch.no_grad():
        ax = operator(x)
    size = torch.linalg.vector_norm(ax.flatten(1), dim=1).double()
    errors = []
    # White noise sees every entry; the data of x itself see a scale without scatter.
    for y in (bench.random_y(6), ax):
        try:
            with torch.no_grad():
                z = operator.adjoint(y)
        except GradientError as raised:
            yield Finding("failed", "there is no adjoint", advice=str(raised))
            return
        gap = _products(operator.range, ax, y) - _products(operator.domain, x, z)
        gap = gap if complete else gap.real
        spread = torch.linalg.vector_norm(y.flatten(1), dim=1).double()
        # ⟨Ax, y⟩ of white y scatters by ‖Ax‖·‖y‖/√n: that is its size.
        scale = size * spread / operator.range.size**0.5 if y is not ax else size * spread
        errors.append(float(gap.abs().square().sum().sqrt() / scale.square().sum().sqrt()))
    error = max(errors)
    error = error if error == error else float("inf")
    declared = operator.adjoint_mismatch
    if error <= bench.exact:
        yield Finding("passed", "exact", error, bench.exact)
    elif declared and error <= max(10 * declared, MATCHED):
        yield Finding("passed", f"unmatched, as declared ({declared:g})", error, 10 * declared)
    elif error <= MATCHED:
        yield Finding(
            "warned",
            "matched to 1e-3, not exact",
            error,
            bench.exact,
            f"fine for most solvers; declare adjoint_mismatch = {_rounded(error)}, or look for a "
            "cast, an interpolation or a tolerance that differs between the two",
        )
    else:
        yield Finding(
            "failed",
            "unmatched: this is not the transpose of forward",
            error,
            MATCHED,
            _advice(bench, x, ax),
        )


def _advice(bench: Bench, x: Tensor, ax: Tensor) -> str:
    """The usual mistakes, told apart where that is possible."""
    operator = bench.operator
    mine = operator.adjoint(ax)
    true = _transpose(bench, ax)
    gap = _products(operator.range, ax, ax) - _products(operator.domain, x, true)
    if float(gap.abs().max()) > MATCHED * float(_products(operator.range, ax, ax).abs().max()):
        return (
            "compare with the transpose of a small dense matrix (labrecon.bridge.Columns makes "
            "one); usual causes: a missing conjugate, an index off by one, a scale in one of the "
            "two, another boundary condition"
        )
    scale = complex((inner(true, mine, true.ndim) / inner(true, true, true.ndim)).item())
    if relative(mine, scale * true if mine.is_complex() else scale.real * true) < MATCHED:
        told = f"{scale:.4g}" if abs(scale.imag) > MATCHED else f"{scale.real:.4g}"
        return f"it is {told} times the transpose: the scale belongs into both, or into neither"
    if mine.is_complex() and relative(mine.conj(), true) < MATCHED:
        return "it is the conjugate of the adjoint: conjugate its result"
    if mine.is_complex() and relative(mine, _transpose(bench, ax.conj()).conj()) < MATCHED:
        return "it is the transpose without the conjugate: conjugate the factors of forward in it"
    for axis, name in enumerate(operator.domain.axes, start=1):
        for shift in (-2, -1, 1, 2):
            if relative(mine.roll(shift, axis), true) < 0.3:
                return f"it is shifted by {-shift} along {name!r}: an index is off by {abs(shift)}"
    return (
        "delete adjoint where forward is written in torch: its transpose is then found by "
        "automatic differentiation; else compare with the dense matrix of a small case"
    )


def _transpose(bench: Bench, y: Tensor) -> Tensor:
    """``Aᴴ y`` from the matrix of a small operator, a column per sample, or else by autograd."""
    operator, domain = bench.operator, bench.operator.domain
    if domain.size > 4096:
        return Operator.adjoint(operator, y)
    eye = torch.eye(domain.size, dtype=domain.dtype, device=y.device)
    rows = []
    with torch.no_grad():
        for part in eye.split(128):
            columns = operator(part.reshape(-1, *domain.shape)).flatten(1)
            rows.append(columns.conj() @ y.flatten(1).mT)
    return torch.cat(rows).mT.reshape(y.shape[0], *domain.shape)


@check("normal")
def normal(bench: Bench) -> Iterator[Finding]:
    """`normal` and `solve` agree with ``AᴴWA``."""
    operator = bench.operator
    if not operator.linear:
        yield Finding("skipped", "a nonlinear operator has no normal operator")
        return
    x = bench.random_x(2)
    weights = bench.random_y(stream=6).abs() + 0.1
    tolerance = max(30 * bench.exact, 10 * operator.adjoint_mismatch)
    with torch.no_grad():
        y = operator(x)
        errors = [
            relative(operator.normal(x), operator.adjoint(y)),
            relative(operator.normal(x, weights), operator.adjoint(weights * y)),
            relative(operator.normal_map(weights)(x), operator.normal(x, weights)),
        ]
        rho = float(operator.normal(x).abs().max() / x.abs().max())
        solved = operator.solve(x, rho, iterations=200)
        rest = relative(operator.normal(solved) + rho * solved, x)
    error = max(errors)
    unmatched = bench.unmatched
    if error > tolerance:
        yield Finding(
            "failed",
            "normal(x, weights) is not Aᴴ W A x",
            error,
            tolerance,
            unmatched or "mend the override, or delete it: the default applies both halves",
        )
    elif rest > 1e-3:
        yield Finding(
            "failed",
            "solve(rhs, ρ) does not solve (AᴴA + ρ) x = rhs",
            rest,
            1e-3,
            unmatched or "mend the override, or delete it: the default is conjugate gradients",
        )
    else:
        yield Finding("passed", "both are AᴴWA", error, tolerance)


@check("norm")
def norm(bench: Bench) -> Iterator[Finding]:
    """`norm` bounds ``‖Ax‖/‖x‖``, and not by far."""
    operator = bench.operator
    if not operator.linear:
        yield Finding("skipped", "a nonlinear operator has no norm")
        return
    claimed = bench.fresh().norm()
    ndim = operator.domain.ndim
    seen = 0.0
    with torch.no_grad():
        for x in (bench.random_x(4, stream=7), bench.point(2)):
            for _ in range(30):
                largest = x.abs().flatten(1).amax(1).reshape(-1, *[1] * ndim)
                x = x / torch.where(largest > 0, largest, 1.0)
                size = squared_norm(x, ndim).sqrt().clamp_min(1e-30)
                x = x / size.reshape(-1, *[1] * ndim)
                y = operator(x)
                reached = [float(torch.linalg.vector_norm(_double(each))) for each in y]
                seen = max(seen, *reached)
                x = operator.adjoint(y)
    if seen == 0.0:
        yield Finding("failed", "the operator is zero", 0.0, None, "does forward use its input?")
    elif claimed < seen * (1 - 5e-3):
        yield Finding(
            "failed",
            "norm() is too small: gradient steps would diverge",
            claimed / seen,
            1.0,
            bench.unmatched or "mend the override, or delete it: the default is Lanczos' method",
        )
    elif claimed > 3 * seen:
        yield Finding(
            "warned",
            "norm() is far above ‖Ax‖/‖x‖: steps will be small",
            claimed / seen,
            3.0,
            bench.unmatched or "give a tighter bound, or delete the override",
        )
    else:
        yield Finding("passed", f"‖A‖ = {claimed:.4g}, seen {seen:.4g}", claimed / seen, 3.0)


@check("initial")
def initial(bench: Bench) -> Iterator[Finding]:
    """The first estimate fits better than zero."""
    operator = bench.operator
    x = bench.point()
    with torch.no_grad():
        y = operator(x)
        start = operator.initial(y)
        if not operator.linear and not bool(start.any()):
            yield Finding("skipped", "nonlinear: the first estimate is zero, solvers need a start")
            return
        if start.shape != x.shape or start.dtype != x.dtype:
            yield Finding(
                "failed",
                f"initial returned {tuple(start.shape)} {start.dtype}",
                advice=f"return {tuple(x.shape)} {x.dtype}, as `domain` declares",
            )
            return
        error = relative(operator(start), y)
    if error < 1.0:
        yield Finding("passed", "fits the data better than zero does", error, 1.0)
    else:
        yield Finding(
            "failed",
            "fits the data worse than zero does",
            error,
            1.0,
            "check its scale (‖A·initial(y) − y‖ < ‖y‖), or delete the override",
        )


def _products(space: Space, a: Tensor, b: Tensor) -> Tensor:
    """Inner products in double precision, one per element, as complex numbers."""
    return inner(a.to(torch.complex128), b.to(torch.complex128), space.ndim).cpu()


def _double(x: Tensor) -> Tensor:
    return x.to("cpu", torch.complex128 if x.is_complex() else torch.float64)


def _rounded(error: float) -> str:
    return f"{2 * error:.0e}"
