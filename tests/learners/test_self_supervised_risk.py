"""SURE: unbiased for denoisers whose error is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from self_supervised_cases import Linear, Ramp, passed, stage

from labrecon import Gaussian, Poisson, Problem, Space
from labrecon.learners.self_supervised import Risk
from labrecon.noise import Amplitude, Noise, PoissonGaussian, Scaled
from labrecon.operators import Identity

N, DRAWS = 12, 2000


def shrinkage(n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """No multiple of the identity, so that a trace and a sum of entries differ."""
    generator = torch.Generator().manual_seed(1)
    return 0.6 * torch.eye(n, dtype=dtype) + 0.1 * torch.randn(
        n, n, dtype=dtype, generator=generator
    )


def draws(noise: Noise, clean: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return noise.sample(clean.expand(DRAWS, *clean.shape), generator)


def require_mean(values: torch.Tensor, expected: float) -> None:
    error = float(values.std()) / math.sqrt(len(values))
    assert float(values.mean()) == pytest.approx(expected, abs=3 * error)
    # The test sees a seventh of what it is about.
    assert 3 * error < 0.15 * expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("step", [0.1, 3.0])
def test_gaussian_risk_is_the_error_of_a_linear_denoiser(dtype, step):
    """``E|C y − x|² = |(C − 1) x|² + σ² tr CCᴴ`` per real part, for any step where C is linear."""
    generator = torch.Generator().manual_seed(2)
    space, sigma, c = Space((N,), dtype), 0.7, shrinkage(N, dtype)
    clean = torch.randn(N, dtype=dtype, generator=generator)
    noise, operator = Gaussian(sigma), Identity(space)
    problem = Problem(operator, draws(noise, clean), noise)
    with torch.no_grad():
        found = Risk(step=step)(passed(Linear(c, (N,)), problem))
    parts = 2 if dtype.is_complex else 1
    bias = (c @ clean - clean).abs().square().sum()
    spread = parts * sigma**2 * c.abs().square().sum()
    require_mean(found, float(bias + spread) / (parts * N * sigma**2))


@pytest.mark.parametrize(
    ("noise", "mean"),
    [
        (Poisson(), 1.0),
        (Poisson(background=3.0), 1.0),
        (PoissonGaussian(1.5, background=2.0), 1.0),
        (Scaled(Poisson(background=2.0), 5.0), 5.0),
    ],
)
def test_poisson_risk_is_the_error_of_a_linear_denoiser(noise, mean):
    """Variance ``(m + b)`` in each sample: exact for a linear map of the data."""
    generator = torch.Generator().manual_seed(2)
    clean = (4 + 10 * torch.rand(N, dtype=torch.float64, generator=generator)) / mean
    c, operator = shrinkage(N), Identity(Space((N,), torch.float64))
    problem = Problem(operator, draws(noise, clean), noise)
    with torch.no_grad():
        found = Risk()(passed(Linear(c, (N,)), problem))
    variance = noise.variance(clean)
    offset = float(noise.sample(clean.expand(200000, N), generator).mean() - clean.mean())
    offset = round(offset * mean) / mean
    error = (c @ (clean + offset) - clean).square().sum() + (c.square() * variance).sum()
    # In units of the mean variance, which each draw estimates by its own data.
    require_mean(
        found * estimated_level(noise, problem) / variance.mean(),
        float(error / (N * variance.mean())),
    )


def test_samples_without_a_count_count():
    """At half a count a sample, three of five are 0: leaving these out would miss much error."""
    generator = torch.Generator().manual_seed(2)
    clean = 0.3 + 0.4 * torch.rand(N, dtype=torch.float64, generator=generator)
    c, noise = shrinkage(N), Poisson()
    data = noise.sample(clean.expand(8 * DRAWS, N), generator)
    problem = Problem(Identity(Space((N,), torch.float64)), data, noise)
    with torch.no_grad():
        found = Risk()(passed(Linear(c, (N,)), problem))
    error = (c @ clean - clean).square().sum() + (c.square() * clean).sum()
    require_mean(found * problem.data.mean(-1), float(error / N))


def test_data_without_any_count_have_a_finite_risk():
    """And a background in other units cancels to the last bit, so that it can be drawn."""
    for noise in (Poisson(), Scaled(Poisson(background=3.0), 10_000.0)):
        problem = Problem(Identity(Space((4,))), torch.zeros(2, 4), noise)
        found = Risk()(passed(Linear(0.5 * torch.eye(4), (4,)), problem))
        assert bool(torch.isfinite(found).all())


def estimated_level(noise: Noise, problem: Problem) -> torch.Tensor:
    """The mean variance that each draw sees."""
    inner, gain = (noise.noise, float(noise.gain)) if isinstance(noise, Scaled) else (noise, 1.0)
    counts = gain * problem.data.clamp_min(0)
    return (counts + float(inner.sigma) ** 2).mean(-1) / gain**2


def test_correlated_draws_need_no_formula():
    """Noise of a coil array: the divergence is taken with draws of the noise itself."""
    from labrecon_mri.noise import CoilNoise

    generator = torch.Generator().manual_seed(2)
    half = torch.randn(3, 3, dtype=torch.complex128, generator=generator)
    noise = CoilNoise(half @ half.mH + 0.5 * torch.eye(3), axis=-2)
    space = Space((3, 4), torch.complex128)
    clean = torch.randn(3, 4, dtype=torch.complex128, generator=generator)
    c = shrinkage(12, torch.complex128)
    problem = Problem(Identity(space), draws(noise, clean), noise)
    with torch.no_grad():
        found = Risk()(passed(Linear(c, (3, 4)), problem))
    estimate = (problem.data.flatten(1) @ c.mT).reshape(-1, 3, 4)
    precision = 1 / noise.variance(clean)
    true = (precision * (estimate - clean).abs().square()).sum((-2, -1)) / 24
    # The error of each draw, too: their difference has mean 0.
    difference = found - true
    error = float(difference.std()) / math.sqrt(DRAWS)
    assert abs(float(difference.mean())) < 3 * error
    assert error < 0.05 * float(true.mean())


def test_weights_are_inverse_variances():
    """Unit noise with weights is noise of variance 1/w; samples of weight 0 say nothing."""
    generator = torch.Generator().manual_seed(2)
    weights = torch.tensor([4.0, 0.25, 1.0, 0.0] * 3, dtype=torch.float64)
    clean = torch.randn(N, dtype=torch.float64, generator=generator)
    deviation = torch.where(weights > 0, weights, 1.0) ** -0.5
    data = draws(Gaussian(1.0), clean * 0) * deviation + clean
    data[:, weights == 0] = 1e6
    problem = Problem(Identity(Space((N,), torch.float64)), data, weights=weights)
    c = shrinkage(N)
    with torch.no_grad():
        found = Risk()(passed(Linear(c, (N,)), problem))
    seen = c * weights
    error = weights * (
        (seen @ clean - clean).square() + (seen.square() * deviation.square()).sum(1)
    )
    require_mean(found, float(error.sum()) / 9)


def test_risk_of_the_object_is_that_of_its_inversion():
    """``‖B(A R(y) − A x)‖²`` with the mean ``B`` of four looks: ``‖R(y) − x‖²`` itself."""
    operator, sigma = stage(4, N), 0.9
    generator = torch.Generator().manual_seed(3)
    clean = torch.randn(N, dtype=torch.float64, generator=generator)
    noise = Gaussian(sigma)
    problem = Problem(operator, draws(noise, operator(clean)), noise)
    r = torch.cat([shrinkage(N) / 4] * 4, 1) + 0.02
    with torch.no_grad():
        term = Risk("object")
        term.check(problem)
        found = term(passed(Linear(r, (N,)), problem))
    bias = (r @ operator(clean).flatten() - clean).square().sum()
    require_mean(found, float(bias + sigma**2 * r.square().sum()) / N)


def test_bad_samples_have_no_say_in_the_risk_of_the_object():
    """An inversion adds up whatever it is given."""
    operator, noise = stage(4, N), Gaussian(0.9)
    generator = torch.Generator().manual_seed(3)
    weights = torch.ones(4, N, dtype=torch.float64)
    weights[1, 2] = 0
    found = []
    for value in (0.0, 1e6):
        data = noise.sample(operator(torch.ones(2, N, dtype=torch.float64)), generator)
        data[:, 1, 2] = value
        generator.manual_seed(3)
        problem = Problem(operator, data, noise, weights)
        with torch.no_grad():
            network = Linear(torch.cat([shrinkage(N) / 4] * 4, 1), (N,))
            found.append(Risk("object")(passed(network, problem)))
        generator.manual_seed(3)
    torch.testing.assert_close(*found)


def test_the_gradient_leads_to_the_best_gain():
    """The mean gradient over draws is that of the true error, so training ends at its minimum."""
    generator = torch.Generator().manual_seed(2)
    clean = torch.randn(N, dtype=torch.float64, generator=generator)
    noise, operator = Gaussian(0.7), Identity(Space((N,), torch.float64))
    problem = Problem(operator, draws(noise, clean), noise)
    network = Linear(0.6 * torch.eye(N, dtype=torch.float64), (N,))
    Risk()(passed(network, problem)).mean().backward()
    c = network.matrix.detach()
    exact = 2 * ((c @ clean - clean)[:, None] * clean + 0.49 * c) / (N * 0.49)
    assert network.matrix.grad is not None
    torch.testing.assert_close(network.matrix.grad, exact, atol=0.04, rtol=0)


@pytest.mark.parametrize("noise", [Gaussian(), Noise()])
def test_an_unknown_level_is_refused(noise):
    problem = Problem(Identity(Space((4,))), torch.ones(1, 4), noise)
    with pytest.raises(ValueError, match=r"needs the level of the noise.*noise_level"):
        Risk().check(problem)


def test_a_risk_of_the_object_needs_a_linear_inversion():
    """The default of an operator scales each estimate by its own data."""
    operator = Ramp()
    problem = Problem(operator, operator.range.zeros(1), Gaussian(0.1))
    with pytest.raises(ValueError, match=r"no linear direct inversion.*where='data'"):
        Risk("object").check(problem)


def test_known_levels_are_accepted():
    operator = Identity(Space((4,)))
    data = torch.ones(1, 4)
    for noise in (Gaussian(0.1), Poisson(), Amplitude()):
        Risk().check(Problem(operator, data, noise))
    Risk().check(Problem(operator, data, weights=torch.tensor([0.5, 1.0, 2.0, 0.0])))


@pytest.mark.parametrize(
    ("options", "told"),
    [({"where": "image"}, "where is one of"), ({"step": 0.0}, "step")],
)
def test_bad_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Risk(**options)
