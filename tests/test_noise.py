"""Noise: samples, likelihood, prox."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from labrecon.noise import (
    Amplitude,
    Gaussian,
    Noise,
    NoiseError,
    Poisson,
    PoissonGaussian,
    Scaled,
)

F64 = torch.float64
NOISES = {
    "gaussian": Gaussian(0.7),
    "poisson": Poisson(),
    "poisson-background": Poisson(3.0),
    "electronic": PoissonGaussian(2.0, 1.0),
    "scaled": Scaled(PoissonGaussian(2.0), 5.0),
    "amplitude": Amplitude(0.05),
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
    # Of photons the variance is the mean, in whatever unit; roots have their own.
    share = {Gaussian: 0.0, Scaled: 1 / 5.0, Amplitude: 4 * 0.05**2}.get(type(noise), 1.0)
    assert float(g) == pytest.approx(12.0 * share, rel=0.06, abs=0.05 * (share or 1))


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
    if isinstance(noise, Amplitude):
        with pytest.raises(NoiseError, match="no closed-form prox"):
            noise.prox(v, y, step)
        return
    u = noise.prox(v, y, step)

    def cost(p: Tensor) -> Tensor:
        return step * noise.density(p, y) + 0.5 * (p - v).square()

    grid = torch.linspace(-10, 60, 70_001, dtype=F64)[:, None].expand(-1, 4)
    assert bool((cost(u) <= cost(grid).min(0).values + 1e-9).all())


@every_noise
def test_curvature_bounds_the_second_derivative(noise: Noise) -> None:
    y = torch.tensor([0.0, 3.0, 50.0], dtype=F64)
    if noise in (NOISES["poisson"], NOISES["amplitude"]):
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


def test_photon_noise_of_intensities() -> None:
    """``Scaled(Poisson(), N)``: counts of mean ``N p`` over ``N``; variance ``p / N``."""
    noise = Scaled(Poisson(), 50.0)
    p = torch.tensor([0.2, 1.0, 3.0], dtype=F64)
    y = noise.sample(p.expand(200_000, 3), generator())
    torch.testing.assert_close(50 * y, (50 * y).round())
    torch.testing.assert_close(y.mean(0), p, rtol=2e-3, atol=0)
    torch.testing.assert_close(y.var(0), p / 50, rtol=0.02, atol=0)
    torch.testing.assert_close(noise.variance(p), p / 50)
    counts = torch.tensor([8.0, 50.0, 163.0], dtype=F64)
    torch.testing.assert_close(
        noise.density(p, counts / 50), Poisson().density(50 * p, counts), rtol=1e-12, atol=1e-12
    )
    with pytest.raises(NoiseError, match="counts are negative"):
        noise.check(-p)
    with pytest.raises(NoiseError, match="positive and finite"):
        Scaled(Poisson(), 0.0)


def test_gain_may_differ_between_exposures() -> None:
    gain = torch.tensor([[10.0], [1000.0]], dtype=F64)
    y = Scaled(Poisson(), gain).sample(torch.ones(2, 100_000, dtype=F64), generator())
    torch.testing.assert_close(y.var(1), 1 / gain[:, 0], rtol=0.03, atol=0)


def test_amplitude_noise_compares_roots() -> None:
    """Half the squared difference of roots over σ²; ``sample`` scatters the root alike everywhere.

    The square of a scattered root is too large by σ² in the mean.
    """
    noise = Amplitude(0.1)
    p, y = (torch.tensor(v, dtype=F64) for v in ([0.09, 1.0, 4.0], [0.25, 1.21, 3.61]))
    expected = torch.tensor([0.2, 0.1, 0.1], dtype=F64).square() / 2 / 0.01
    torch.testing.assert_close(noise.density(p, y), expected, rtol=1e-4, atol=0)
    p = torch.tensor([1.0, 4.0, 25.0], dtype=F64)
    drawn = noise.sample(p.expand(200_000, 3), generator())
    torch.testing.assert_close(
        drawn.sqrt().std(0), torch.full((3,), 0.1, dtype=F64), rtol=0.01, atol=0
    )
    torch.testing.assert_close(drawn.mean(0), p + 0.01, rtol=2e-3, atol=0)
    torch.testing.assert_close(drawn.var(0), noise.variance(p), rtol=0.02, atol=0)


def test_amplitude_noise_is_nearly_that_of_photons() -> None:
    """At σ = ½ the likelihoods of many counts agree near their minimum."""
    counts = torch.tensor([400.0, 2500.0], dtype=F64)
    mean = counts + counts.sqrt()
    torch.testing.assert_close(
        Amplitude(0.5).density(mean, counts), Poisson().density(mean, counts), rtol=0.03, atol=0
    )


def test_amplitude_noise_in_the_dark() -> None:
    dark = torch.zeros(2, dtype=F64, requires_grad=True)
    (g,) = torch.autograd.grad(Amplitude(0.1).density(dark, torch.tensor([0.0, 1.0])).sum(), dark)
    assert bool(torch.isfinite(g).all())
    with pytest.raises(NoiseError, match="1 of 2 intensities are negative"):
        Amplitude().check(torch.tensor([1.0, -0.1]))
    with pytest.raises(NoiseError, match="must be positive"):
        Amplitude(0.0)
