"""Total variation and wavelets against known solutions and sigpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from labrecon.operators import FiniteDifference, Identity, MaskedFourier
from labrecon.operators.fourier import centred_ifft
from labrecon.prior import Prior
from labrecon.priors import L1, TV, WaveletL1
from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import ADMM, FISTA, PDHG
from labrecon.space import Space

F64 = torch.float64


def two_steps() -> tuple[Tensor, float, Tensor]:
    """A step, and its TV-denoised version: each side moves by weight / length to the other."""
    y = torch.cat([torch.zeros(6, dtype=F64), torch.full((4,), 5.0, dtype=F64)])
    weight = 1.2
    expected = torch.cat(
        [torch.full((6,), weight / 6, dtype=F64), torch.full((4,), 5 - weight / 4, dtype=F64)]
    )
    return y, weight, expected


SPLIT = [
    ("fista", lambda prior: FISTA(prior=prior), 15),
    ("admm", lambda prior: ADMM(prior=prior, rho=1.0, inner=12), 400),
    ("pdhg", lambda prior: PDHG(prior=prior), 3000),
]


@pytest.mark.parametrize(("name", "make", "iterations"), SPLIT, ids=[s[0] for s in SPLIT])
def test_a_step_has_its_analytic_solution(name: str, make, iterations: int) -> None:
    y, weight, expected = two_steps()
    problem = Problem(Identity(Space((10,), F64)), y)
    solver = make(TV(weight, ndim=1, iterations=200))
    torch.testing.assert_close(
        solve(solver, problem, iterations=iterations).x, expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("name", "make", "iterations"), SPLIT, ids=[s[0] for s in SPLIT])
def test_nonnegative_tv_against_cvxpy(name: str, make, iterations: int) -> None:
    import cvxpy

    generator = torch.Generator().manual_seed(3)
    y = torch.randn(12, dtype=F64, generator=generator) + 0.3
    u = cvxpy.Variable(12)
    cost = 0.5 * cvxpy.sum_squares(u - y.numpy()) + 0.4 * cvxpy.tv(u)
    exact = cvxpy.Problem(cvxpy.Minimize(cost), [u >= 0])
    exact.solve(cvxpy.CLARABEL)
    prior = TV(0.4, ndim=1, nonneg=True, iterations=400)
    x = solve(make(prior), Problem(Identity(Space((12,), F64)), y), iterations=iterations).x
    np.testing.assert_allclose(x.numpy(), u.value, atol=1e-5)


def scan(n: int = 32) -> tuple[np.ndarray, np.ndarray, Problem]:
    """k-space of two discs at half of the samples, in sigpy's and in labrecon's hands."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(*2 * [torch.linspace(-1, 1, n, dtype=F64)], indexing="ij"))
    image = (grid.square().sum(0) < 0.6).to(F64)
    image = image + ((grid - 0.2).square().sum(0) < 0.1).to(F64)
    mask = torch.rand(n, n, generator=generator) < 0.5
    mask[n // 2 - 3 : n // 2 + 3, n // 2 - 3 : n // 2 + 3] = True
    operator = MaskedFourier(Space((n, n), torch.complex128), mask)
    noise = torch.randn(n, n, dtype=torch.complex128, generator=generator)
    data = operator(image.to(torch.complex128)) + 0.02 * mask * noise
    return data.numpy()[None], mask.numpy().astype(float), Problem(operator, data)


@pytest.mark.slow
def test_isotropic_complex_tv_against_cvxpy() -> None:
    import cvxpy

    data, mask, _ = scan(10)
    n, weight = data.shape[-1], 0.05
    operator = MaskedFourier(Space((n, n), torch.complex128), torch.as_tensor(mask))
    problem = Problem(operator, torch.as_tensor(data[0]))
    eye = torch.eye(n * n, dtype=torch.complex128).reshape(-1, n, n)
    dense = operator(eye).reshape(n * n, n * n).mT.numpy()
    u = cvxpy.Variable((n, n), complex=True)
    across = cvxpy.vstack([u[1:] - u[:-1], np.zeros((1, n))])
    along = cvxpy.hstack([u[:, 1:] - u[:, :-1], np.zeros((n, 1))])
    pair = cvxpy.vstack([cvxpy.vec(across, order="C"), cvxpy.vec(along, order="C")])
    misfit = dense @ cvxpy.vec(u, order="C") - problem.data.numpy().ravel()
    cost = 0.5 * cvxpy.sum_squares(misfit) + weight * cvxpy.sum(cvxpy.norm(pair, 2, axis=0))
    best = cvxpy.Problem(cvxpy.Minimize(cost)).solve(cvxpy.CLARABEL)
    for make, iterations, close in (
        # A prox of 100 dual steps is not exact.
        (lambda prior: FISTA(prior=prior), 200, 1e-4),
        (lambda prior: ADMM(prior=prior, rho=1.0), 400, 1e-5),
        (lambda prior: PDHG(prior=prior, ratio=0.3), 4000, 1e-5),
    ):
        solver = make(TV(weight, iterations=100))
        found = float(solver.objective(problem, solve(solver, problem, iterations=iterations).x))
        assert found == pytest.approx(best, rel=close)


class SigpysTV(Prior):
    """sigpy's total variation: anisotropic, periodic."""

    def split(self, domain: Space):
        return [(FiniteDifference(domain, boundary="periodic"), L1(0.02))]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sigpys_total_variation_reconstruction() -> None:
    from sigpy.mri.app import TotalVariationRecon

    data, mask, problem = scan()
    ones = np.ones((1, *mask.shape), complex)
    app = TotalVariationRecon(data, ones, 0.02, weights=mask, max_iter=1000, show_pbar=False)
    theirs = torch.as_tensor(app.run())
    nabla = FiniteDifference(problem.operator.domain, boundary="periodic")

    def objective(x: Tensor) -> float:
        return float(problem.loss(x) + 0.02 * nabla(x).abs().sum())

    for solver, iterations in (
        (PDHG(prior=SigpysTV(), ratio=0.3), 3000),
        (ADMM(prior=SigpysTV(), rho=1.0), 400),
    ):
        ours = solve(solver, problem, iterations=iterations).x
        assert objective(ours) == pytest.approx(objective(theirs), rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sigpys_wavelet_reconstruction() -> None:
    """The same objective to 1e-6 as sigpy.mri.app.L1WaveletRecon with the Haar wavelet."""
    import sigpy
    from sigpy.mri.app import L1WaveletRecon

    data, mask, problem = scan()
    ones = np.ones((1, *mask.shape), complex)
    app = L1WaveletRecon(
        data, ones, 0.02, weights=mask, wave_name="haar", max_iter=300, show_pbar=False
    )
    theirs = torch.as_tensor(sigpy.to_device(app.run()))
    solver = FISTA(prior=WaveletL1(0.02, wavelet="haar", levels=5))
    ours = solve(solver, problem, iterations=300).x
    mine, other = (float(solver.objective(problem, x)) for x in (ours, theirs))
    assert mine == pytest.approx(other, rel=1e-6)


def test_tv_fills_in_what_was_not_measured() -> None:
    _, _, problem = scan()
    truth = centred_ifft(problem.data, (-2, -1))
    x = solve(FISTA(prior=TV(0.02)), problem, iterations=100).x
    misfit = float(problem.loss(x)) / float(problem.loss(torch.zeros_like(x)))
    assert misfit < 1e-2
    assert float(TV().penalty(x)) < 0.6 * float(TV().penalty(truth))
