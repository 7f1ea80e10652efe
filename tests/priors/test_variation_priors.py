"""TV and TGV against other programs and their defining properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from labrecon.prior import PriorError
from labrecon.priors import TGV, TV

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(9, 8), (5, 6, 4)], ids=["2D", "3D"])
def test_prox_of_scikit_image(shape: tuple[int, ...]) -> None:
    x = draw(*shape)
    theirs = denoise_tv_chambolle(x.numpy(), weight=0.4, eps=1e-12, max_num_iter=20000)
    ours = TV(0.4, ndim=len(shape), iterations=2000).prox(x, 1.0)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4)


def test_accelerated_dual_steps_converge_as_published() -> None:
    """The dual objective's gap falls as 1/k²: 4 times the steps, a 16th of the gap or less."""
    x, prior = draw(12, 12), TV(0.5)

    def primal(iterations: int) -> float:
        u = TV(0.5, iterations=iterations).prox(x, 1.0)
        return float(prior.penalty(u) + 0.5 * (u - x).square().sum())

    best = primal(5000)
    gaps = [primal(k) - best for k in (10, 40, 160)]
    assert gaps[0] > gaps[1] > gaps[2] >= -1e-12
    assert gaps[2] < gaps[0] / 50


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
@pytest.mark.parametrize("spacing", [None, (1.0, 2.0)])
@pytest.mark.parametrize("shape", [(), (3, 1, 1)])
@pytest.mark.parametrize("nonneg", [False, True])
def test_the_backward_pass_of_tv_is_that_of_its_iteration(dtype, spacing, shape, nonneg):
    if nonneg and dtype.is_complex:
        return
    generator = torch.Generator().manual_seed(0)
    x, against = torch.randn(2, 3, 7, 6, dtype=dtype, generator=generator)
    strength = torch.full(shape, 0.2, dtype=F64)
    prior = TV(1.0, nonneg=nonneg, spacing=spacing, iterations=15)
    found = []
    for prox in (prior.prox, prior._by_autograd):
        leaves = x.clone().requires_grad_(), strength.clone().requires_grad_()
        u = prox(*leaves)
        loss = (u * against).real.sum() + u.abs().square().sum()
        found.append((u.detach(), *torch.autograd.grad(loss, leaves)))
    for ours, followed in zip(*found, strict=True):
        torch.testing.assert_close(ours, followed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nonneg", [False, True])
def test_the_gradients_of_tv_where_nothing_is_and_of_tiny_numbers(nonneg: bool) -> None:
    """An empty object is on the bound; squares of single numbers below 1e-19 are 0."""
    for scale, strength in ((0.0, 0.2), (1e-21, 0.0), (1e-21, 1e-22)):
        found = []
        prior = TV(1.0, nonneg=nonneg, iterations=10)
        for prox in (prior.prox, prior._by_autograd):
            x = (scale * draw(7, 6)).float().requires_grad_()
            radius = torch.tensor(strength, requires_grad=True)
            u = prox(x, radius)
            found.append(torch.autograd.grad((u * draw(7, 6, seed=1).float()).sum(), (x, radius)))
        for ours, followed in zip(*found, strict=True):
            torch.testing.assert_close(ours, followed)


def test_tv_can_be_differentiated_by_torch_func() -> None:
    prior, x = TV(0.3, iterations=10), draw(5, 6)

    def energy(u: Tensor) -> Tensor:
        return prior.prox(u, 1.0).square().sum()

    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(
        torch.func.grad(energy)(x), torch.autograd.grad(energy(leaf), leaf)[0]
    )


def test_a_ramp_costs_its_height_and_a_constant_nothing() -> None:
    ramp = torch.arange(6, dtype=F64).expand(4, 6)
    assert float(TV().penalty(ramp)) == pytest.approx(4 * 5)
    assert float(TV().penalty(torch.full((4, 6), 3.0, dtype=F64))) == 0


def test_spacing_is_the_sample_distance() -> None:
    ramp = torch.arange(6, dtype=F64)[:, None].expand(6, 4)
    assert float(TV(spacing=(2.0, 1.0)).penalty(ramp)) == pytest.approx(4 * 5 / 2)


def test_other_axes_are_batch() -> None:
    x = draw(3, 5, 6)
    torch.testing.assert_close(TV(0.3).prox(x, 1.0), torch.stack([TV(0.3).prox(s, 1.0) for s in x]))
    with pytest.raises(PriorError, match="ndim"):
        TV(ndim=3).prox(draw(5, 6), 1.0)


def test_a_weight_per_sample_spares_a_region() -> None:
    x = draw(8, 8)
    weight = torch.ones(8, 8, dtype=F64)
    weight[:, :4] = 0
    u = TV(weight, iterations=300).prox(x, 1.0)
    torch.testing.assert_close(u[:, :3], x[:, :3])
    assert float(u[:, 5:].std()) < 0.6 * float(x[:, 5:].std())


@pytest.mark.slow
def test_tgv_of_an_affine_image_is_zero() -> None:
    i, j = torch.meshgrid(torch.arange(8, dtype=F64), torch.arange(7, dtype=F64), indexing="ij")
    plane = 0.3 * i - 0.5 * j + 2
    assert float(TGV(iterations=4000).penalty(plane)) < 1e-6
    assert float(TV().penalty(plane)) > 10
    torch.testing.assert_close(TGV(2.0, iterations=4000).prox(plane, 1.0), plane, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_tgv_prox_against_cvxpy() -> None:
    import cvxpy

    x, n, weight, ratio = draw(6, 6), 6, 0.5, 1.5
    d = np.diff(np.eye(n), axis=0, append=np.eye(n)[-1:])
    there = np.ones(n)
    there[-1] = 0
    u, a, b = (cvxpy.Variable((n, n)) for _ in range(3))
    first = [d @ u - np.diag(there) @ a, u @ d.T - b @ np.diag(there)]
    mixed = 0.5 * (a @ d.T + d @ b)
    second = [d @ a, b @ d.T, mixed, mixed]

    def length(parts):
        return cvxpy.sum(cvxpy.norm(cvxpy.vstack([cvxpy.vec(p, order="C") for p in parts]), 2, 0))

    cost = weight * (length(first) + ratio * length(second))
    exact = cvxpy.Problem(cvxpy.Minimize(cost + 0.5 * cvxpy.sum_squares(u - x.numpy())))
    best = exact.solve(cvxpy.CLARABEL)
    prior = TGV(weight, ratio=ratio, iterations=3000)
    found = prior.prox(x, 1.0)
    np.testing.assert_allclose(found.numpy(), u.value, atol=1e-4)
    value = float(prior.penalty(found) + 0.5 * (found - x).square().sum())
    assert value == pytest.approx(best, rel=1e-4)


def test_tgv_keeps_a_slope_that_tv_turns_into_stairs() -> None:
    truth = (torch.arange(24, dtype=F64) / 6).expand(24, 24)
    noisy = truth + 0.2 * draw(24, 24)
    errors = [
        min(float((make(w).prox(noisy, 1.0) - truth).square().mean()) for w in (0.1, 0.3, 1.0))
        for make in (lambda w: TV(w, iterations=100), lambda w: TGV(w, iterations=300))
    ]
    assert errors[1] < 0.5 * errors[0]
