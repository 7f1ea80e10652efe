"""The parametric bootstrap against its closed form for linear estimators."""

from __future__ import annotations

import pytest
import torch

from labrecon.noise import Gaussian, Poisson
from labrecon.operators import Identity, Matrix
from labrecon.problem import Problem
from labrecon.space import Space
from labrecon.uncertainty.bootstrap import bootstrap_deviation, drawn_again, require_noise_level
from labrecon.uncertainty.conformal import CalibrationError

SIGMA = 0.3


def linear_case(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(7, 5, dtype=dtype, generator=generator)
    data = torch.randn(7, dtype=dtype, generator=generator)
    eye = torch.eye(5, dtype=dtype)
    inverse = torch.linalg.solve(matrix.mH @ matrix + 0.5 * eye, matrix.mH)
    return Problem(Matrix(matrix), data, Gaussian(SIGMA)), matrix, inverse


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("together", [1, 700])
def test_a_linear_estimator(dtype, together):
    """``R (A x + n)``: variance ``σ² (R Rᴴ)ᵢᵢ`` of each part, and the bias ``(R A − I) x``."""
    problem, matrix, inverse = linear_case(dtype)
    estimate = inverse @ problem.data
    shapes = []

    def reconstruct(again: Problem) -> torch.Tensor:
        shapes.append(tuple(again.data.shape))
        return again.data @ inverse.mT

    found = bootstrap_deviation(
        reconstruct,
        problem,
        estimate,
        matrix @ estimate,
        draws=2000,
        seed=0,
        together=together,
    )
    parts = 2 if dtype.is_complex else 1
    variance = parts * SIGMA**2 * (inverse.abs() ** 2).sum(1)
    bias = inverse @ (matrix @ estimate) - estimate
    torch.testing.assert_close(found**2, variance + bias.abs() ** 2, rtol=0.12, atol=0)
    assert shapes[0] == ((7,) if together == 1 else (700, 7))
    assert shapes[-1] == ((7,) if together == 1 else (600, 7))


def test_seeds_decide():
    problem, matrix, inverse = linear_case()
    estimate = inverse @ problem.data

    def deviation(seed: int) -> torch.Tensor:
        return bootstrap_deviation(
            lambda again: again.data @ inverse.T,
            problem,
            estimate,
            matrix @ estimate,
            draws=3,
            seed=seed,
        )

    assert torch.equal(deviation(0), deviation(0))
    assert not torch.equal(deviation(0), deviation(1))


def test_weights_are_inverse_variances_and_bad_samples_stay():
    weights = torch.tensor([4.0, 0.25, 0.0], dtype=torch.float64)
    data = torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64)
    problem = Problem(Identity(Space((3,), torch.float64)), data, Gaussian(0.5), weights)
    predicted = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([drawn_again(problem, predicted, generator).data for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0)[:2], predicted[:2], rtol=0.03, atol=0)
    expected = 0.5 / weights[:2].sqrt()
    torch.testing.assert_close(drawn.std(0)[:2], expected, rtol=0.05, atol=0)
    assert (drawn[:, 2] == 7.0).all()


def test_unknown_noise_is_refused():
    operator, data = Identity(Space((2,))), torch.ones(2)
    with pytest.raises(CalibrationError, match="states no noise level"):
        require_noise_level(Problem(operator, data))
    with pytest.raises(CalibrationError, match="states no noise level"):
        require_noise_level(Problem(operator, data, weights=torch.tensor([0.0, 1.0])))
    with pytest.raises(CalibrationError, match="Poisson noise"):
        require_noise_level(Problem(operator, data, Poisson(), torch.tensor([0.5, 1.0])))
    # Weights of unit noise are inverse variances, and those of 0 and 1 mark bad samples.
    require_noise_level(Problem(operator, data, weights=torch.tensor([0.5, 3.0])))
    require_noise_level(Problem(operator, data, Poisson(), torch.tensor([0.0, 1.0])))
