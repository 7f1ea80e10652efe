"""Noise: samples, likelihood, prox."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from labrecon.noise import Gaussian, Noise, NoiseError, Poisson, PoissonGaussian

F64 = torch.float64
NOISES = {
    "gaussian": Gaussian(0.7),
    "poisson": Poisson(),
    "poisson-background": Poisson(3.0),
    "electronic": PoissonGaussian(2.0, 1.0),
}
every_noise = pytest.mark.parametrize("noise", NOISES.values(), ids=list(NOISES))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def background(noise: Noise) -> float:
    return float(getattr(noise, "background", torch.tensor(0.0)))


@every_noise
def test_samples_have_the_stated_mean_and_variance(noise: Noise) -> None:
    n, clean = 200_000, torch.full((200_000,), 12.0, dtype=F64)
    y = noise.sample(clean, generator())
    variance = float(noise.variance(clean)[0])
    assert float(y.mean()) == pytest.approx(12 + background(noise), abs=5 * (variance / n) ** 0.5)
    assert float(y.var()) == pytest.approx(variance, rel=0.03)


@every_noise
def test_the_likelihood_is_best_at_the_true_mean(noise: Noise) -> None:
    """For many samples of one mean; nll and sample are two sides of one object."""
    y = noise.sample(torch.full((20_000,), 12.0, dtype=F64), generator())
    grid = torch.linspace(11, 13, 41, dtype=F64)
    values = torch.stack([noise.nll(m.expand_as(y), y) for m in grid])
    assert float(grid[values.argmin()]) == pytest.approx(12, abs=0.15)


@every_noise
def test_gradient_of_samples_reaches_the_mean(noise: Noise) -> None:
    """d E[y] / d mean = 1, and the noise grows with the root of the mean."""
    scale = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y = noise.sample(scale * torch.full((200_000,), 12.0, dtype=F64), generator())
    (g,) = torch.autograd.grad(y.mean(), scale)
    assert float(g) == pytest.approx(12, rel=0.01)
    y = noise.sample(scale * torch.full((200_000,), 12.0, dtype=F64), generator())
    (g,) = torch.autograd.grad(y.var(), scale)
    photons = 0.0 if isinstance(noise, Gaussian) else 12.0
    assert float(g) == pytest.approx(photons, rel=0.06, abs=0.05)


def test_counts_are_whole_with_and_without_gradients() -> None:
    clean = torch.linspace(0, 50, 1000, dtype=F64)
    a = Poisson().sample(clean, generator())
    b = Poisson().sample(clean.requires_grad_(), generator())
    assert torch.equal(a, b.detach())
    assert torch.equal(a, a.round())


def test_samples_depend_on_the_generator_alone() -> None:
    clean = torch.full((50,), 4.0, dtype=F64)
    for noise in NOISES.values():
        a, b = (noise.sample(clean, generator(7)) for _ in range(2))
        assert torch.equal(a, b)


def test_complex_noise_has_sigma_in_each_part() -> None:
    y = Gaussian(0.7).sample(torch.zeros(200_000, dtype=torch.complex128), generator())
    assert float(y.real.std()) == pytest.approx(0.7, rel=0.02)
    assert float(y.imag.std()) == pytest.approx(0.7, rel=0.02)
    assert float((y.real * y.imag).mean()) == pytest.approx(0, abs=0.01)


@every_noise
def test_score_is_the_derivative_of_the_density(noise: Noise) -> None:
    p = torch.linspace(0.5, 9, 12, dtype=F64).requires_grad_()
    y = torch.poisson(p.detach(), generator=generator())
    (expected,) = torch.autograd.grad(noise.density(p, y).sum(), p)
    torch.testing.assert_close(noise.score(p, y).detach(), expected)
    assert gradcheck(lambda v: noise.density(v, y), (p,))
    assert gradgradcheck(lambda v: noise.density(v, y), (p,))


@every_noise
def test_density_is_least_zero_where_it_fits(noise: Noise) -> None:
    y = torch.tensor([1.0, 4.0, 30.0], dtype=F64)
    fit = y - background(noise)
    torch.testing.assert_close(noise.density(fit, y), torch.zeros(3, dtype=F64))
    assert bool((noise.density(fit + 0.3, y) > 0).all())


@every_noise
@pytest.mark.parametrize("step", [0.05, 1.0, 20.0])
def test_prox_beats_every_point_of_a_grid(noise: Noise, step: float) -> None:
    v = torch.tensor([-4.0, 0.3, 5.0, 40.0], dtype=F64)
    y = torch.tensor([0.0, 2.0, 9.0, 1.0], dtype=F64)
    u = noise.prox(v, y, step)

    def cost(p: Tensor) -> Tensor:
        return step * noise.density(p, y) + 0.5 * (p - v).square()

    grid = torch.linspace(-10, 60, 70_001, dtype=F64)[:, None].expand(-1, 4)
    assert bool((cost(u) <= cost(grid).min(0).values + 1e-9).all())


@every_noise
def test_curvature_bounds_the_second_derivative(noise: Noise) -> None:
    y = torch.tensor([0.0, 3.0, 50.0], dtype=F64)
    if math.isinf(background(noise)) or noise is NOISES["poisson"]:
        with pytest.raises(NoiseError, match="curvature"):
            noise.curvature(y)
        return
    p = torch.rand(1000, 3, dtype=F64, generator=generator()).mul(20).requires_grad_()
    (second,) = torch.autograd.grad(noise.score(p, y).sum(), p)
    assert bool((second <= torch.as_tensor(noise.curvature(y)) * (1 + 1e-12)).all())


def test_poisson_refuses_what_it_can_not_have_produced() -> None:
    with pytest.raises(NoiseError, match="1 of 3 counts"):
        Poisson().check(torch.tensor([3.0, -1.0, 2.0]))
    PoissonGaussian(1.0).check(torch.tensor([3.0, -1.0, 2.0]))
    with pytest.raises(NoiseError, match="non-negative"):
        Poisson().sample(torch.tensor([-1.0]))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(NoiseError, match="positive"):
        Gaussian(sigma)


def test_what_a_noise_does_not_have_it_says() -> None:
    y = torch.ones(2)
    for call in (
        lambda n: n.sample(y),
        lambda n: n.density(y, y),
        lambda n: n.prox(y, y, 1.0),
        lambda n: n.variance(y),
        lambda n: n.curvature(y),
    ):
        with pytest.raises(NoiseError, match="Noise"):
            call(Noise())


def test_no_count_and_no_light_have_a_finite_derivative() -> None:
    """A ray that misses the object, or a pixel in the dark, must not make a gradient NaN."""
    for noise in (Poisson(), PoissonGaussian(0.0)):
        mean = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
        counts = torch.tensor([0.0, 3.0], dtype=torch.float64)
        (g,) = torch.autograd.grad(noise.nll(mean, counts), mean)
        torch.testing.assert_close(g, torch.tensor([1.0, -0.5], dtype=torch.float64))


def test_a_masked_sample_has_no_say_in_the_derivative() -> None:
    mean = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([9.0, 3.0], dtype=torch.float64)
    weights = torch.tensor([0.0, 1.0], dtype=torch.float64)
    (g,) = torch.autograd.grad(Poisson().nll(mean, counts, weights), mean)
    torch.testing.assert_close(g, torch.tensor([0.0, -0.5], dtype=torch.float64))


def test_rounding_of_an_fft_is_no_negative_mean() -> None:
    mean = torch.tensor([100.0, -1e-6, 3.0])
    counts = torch.tensor([90.0, 0.0, 2.0])
    assert float(Poisson().nll(mean, counts)) < float("inf")
    assert float(Poisson().nll(torch.tensor([100.0, -1.0, 3.0]), counts)) == float("inf")


def test_the_standard_deviation_of_a_state_dict_is_used() -> None:
    noise = Gaussian()
    noise.load_state_dict({"sigma": torch.tensor(2.0)})
    assert float(noise.density(torch.tensor(2.0), torch.tensor(0.0))) == 0.5
