"""SSDU and Noise2Inverse: the optima that training has without a truth are those with one."""

from __future__ import annotations

import pytest
import torch
from self_supervised_cases import Linear, Scale, measured, objects, passed, stage

from labrecon import Gaussian, Poisson, Problem
from labrecon.learner import FitConfig, fit
from labrecon.learners.self_supervised import (
    Consistency,
    Dealing,
    HeldOutMisfit,
    MeasuredScan,
    Noise2Inverse,
    ScanSamples,
    SelfSupervised,
    averaged,
)
from labrecon.reconstructor import Reconstruction

VIEWS = Dealing(("view",))


def supervised_optimum(x: torch.Tensor, looks: int, sigma: float) -> torch.Tensor:
    """The best linear map of the mean of some looks: ``P (P + σ²/looks)⁻¹``."""
    power = x.mT @ x / len(x)
    return power @ torch.linalg.inv(power + sigma**2 / looks * torch.eye(x.shape[1]).double())


def mean_gradient(term, network, problem: Problem, draws: int) -> torch.Tensor:
    network.zero_grad()
    for epoch in range(draws):
        (term(passed(network, problem, epoch)).mean() / draws).backward()
    return network.matrix.grad


class OfMean(Linear):
    """``x = C · (mean of the looks)``."""

    def reconstruct(self, problem, x0=None, *, trace=False):
        made = problem.weighted(problem.data).mean(-2) @ self.matrix.mT
        return Reconstruction(made)


@pytest.mark.parametrize(
    ("term", "looks"),
    [
        (HeldOutMisfit(VIEWS, fraction=0.5), 2),
        (HeldOutMisfit(VIEWS, fraction=0.25, masks=2), 3),
        (HeldOutMisfit(VIEWS, fraction=0.5, loss="object"), 2),
        (Noise2Inverse(VIEWS, splits=2), 2),
        (Noise2Inverse(VIEWS, splits=4), 3),
        (Noise2Inverse(VIEWS, splits=4, strategy="1:X"), 1),
    ],
)
def test_the_minimiser_is_the_supervised_one(term, looks):
    """The gradient vanishes at the best linear estimate of the truth, and not elsewhere."""
    x, sigma = objects(2500), 1.5
    problem = measured(stage(), Gaussian(sigma), x)
    best = supervised_optimum(x, looks, sigma)
    with_truth = OfMean(best, (6,))
    gradient = mean_gradient(term, with_truth, problem, 2)
    elsewhere = [
        mean_gradient(term, OfMean(other, (6,)), problem, 2)
        for other in (0.8 * best, supervised_optimum(x, looks, 0.5))
    ]
    assert float(gradient.norm()) < 0.3 * min(float(g.norm()) for g in elsewhere)


@pytest.mark.parametrize(
    "term",
    [
        HeldOutMisfit(VIEWS, loss="noise"),
        HeldOutMisfit(VIEWS, loss="l1+l2"),
        HeldOutMisfit(VIEWS, loss="object"),
        Noise2Inverse(VIEWS, splits=2),
    ],
)
def test_a_background_is_no_part_of_the_object(term):
    """Clean data of known background: the truth has no loss, and the data's mean has."""

    class Constant(Scale):
        def reconstruct(self, problem, x0=None, *, trace=False):
            return Reconstruction(self.a.expand(len(problem.data), 6))

    operator = stage()
    x = torch.full((2, 6), 20.0, dtype=torch.float64)
    problem = Problem(operator, operator(x) + 100, Poisson(background=100.0))
    with torch.no_grad():
        assert term(passed(Constant(20.0), problem)).tolist() == pytest.approx([0.0] * 2, abs=1e-9)
        assert float(term(passed(Constant(120.0), problem)).min()) > 0.1


def test_seen_samples_that_judge_would_lead_to_the_noise():
    """What SSDU avoids: the misfit of the data that were given has its minimum at no denoising."""
    x = objects(4000)
    problem = measured(stage(1), Gaussian(1.5), x)
    identity = OfMean(torch.eye(6, dtype=torch.float64), (6,))
    gradient = mean_gradient(Consistency(), identity, problem, 1)
    assert float(gradient.abs().max()) < 1e-12


def test_training_finds_the_wiener_gain_without_a_truth():
    """A gain on half of the looks: ``a = P / (P + σ²/2)``, from one noisy measurement of each."""

    class Gain(Scale):
        def reconstruct(self, problem, x0=None, *, trace=False):
            return Reconstruction(self.a * problem.weighted(problem.data).mean(-2))

    x, sigma = objects(400), 1.5
    operator = stage()
    problem = measured(operator, Gaussian(sigma), x)
    network = Gain()
    terms = {"ssdu": (1.0, HeldOutMisfit(VIEWS, fraction=0.5))}
    samples = ScanSamples([MeasuredScan(problem)])
    learner = SelfSupervised(network, operator, terms, data_term="noise")
    fit(learner, samples, FitConfig(epochs=15, batch_size=100, learning_rate=0.03))
    power = float(x.square().mean())
    assert float(network.a.detach()) == pytest.approx(power / (power + sigma**2 / 2), abs=0.05)


def test_the_published_average_is_that_over_the_sections():
    x = objects(2)
    problem = measured(stage(), Gaussian(1.0), x)
    network = OfMean(torch.eye(6, dtype=torch.float64), (6,))
    term = Noise2Inverse(VIEWS, splits=4)
    # Each look is left out once: for a linear map, the mean of all.
    torch.testing.assert_close(averaged(term, passed(network, problem)), problem.data.mean(-2))
