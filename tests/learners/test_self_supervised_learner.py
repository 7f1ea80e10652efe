"""The learner of scans: what is summed up, over terms, slices and scans."""

from __future__ import annotations

import pytest
import torch
from self_supervised_cases import Scale, stage

from labrecon import Gaussian, Problem, Space
from labrecon.learners.self_supervised import (
    Dealing,
    HeldOutMisfit,
    MeasuredScan,
    ScanSamples,
    SelfSupervised,
    Term,
    misfit,
    normalised_misfit,
)
from labrecon.operators import Identity
from labrecon.reconstructor import Reconstruction

SPACE = Space((4,), torch.float64, ("x",))


class Sum(Term):
    """The sum of what was measured, some times, and of what the network makes of it."""

    def __init__(self, times: float) -> None:
        self.times = times

    def __call__(self, run):
        return self.times * run.problem.weighted(run.problem.data).sum(-1) + 0 * run.estimate.sum(
            -1
        )


class Wordy(Scale):
    """Tells a loss of its own, 3, and another that does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.loss_weights = {"own": 0.5}

    def reconstruct(self, problem, x0=None, *, trace=False):
        three, ten = torch.tensor(3.0).double(), torch.tensor(10.0).double()
        return Reconstruction(problem.data, {"own": three, "other": ten})


def scans() -> list[MeasuredScan]:
    """One of three slices 0, 1, 2, with truths; one of one slice 7, half of it of weight 0."""
    operator = Identity(SPACE)
    data = torch.arange(3.0).double()[:, None].expand(3, 4)
    half = torch.tensor([1.0, 1.0, 0.0, 0.0]).double()
    one = Problem(operator, data, Gaussian(1.0))
    other = Problem(Identity(SPACE), torch.full((1, 4), 7.0).double(), Gaussian(1.0), half)
    return [MeasuredScan(one, truth=data + 1), MeasuredScan(other)]


def test_a_loss_is_the_mean_over_slices_of_the_weighted_terms():
    terms = {"a": (2.0, Sum(1)), "b": (0.5, Sum(10))}
    learner = SelfSupervised(Scale(), Identity(SPACE), terms)
    value, told = learner.loss(ScanSamples(scans()).batch([0, 2, 3], 0))
    # 4 · 0, 4 · 2 and 2 · 7.
    assert told == {"a": pytest.approx(22 / 3), "b": pytest.approx(220 / 3)}
    assert float(value.detach()) == pytest.approx(7 * 22 / 3)


def test_slices_keep_what_is_theirs():
    """Their data, weights and truths, in whatever order they are asked for."""
    problem = scans()[0].problem
    weights = torch.arange(1.0, 13.0).double().reshape(3, 4)
    scan = MeasuredScan(
        Problem(problem.operator, problem.data, weights=weights), weights / 2, -weights
    )
    (found, _), *others = ScanSamples([scan]).batch([2, 0], 0).scans
    assert not others
    for values, source in (
        (found.problem.data, problem.data),
        (found.problem.weights, weights),
        (found.gain, weights / 2),
        (found.truth, -weights),
    ):
        assert torch.equal(values, source[[2, 0]])


def test_draws_are_new_in_each_epoch_unless_fixed():
    def first(samples: ScanSamples, epoch: int) -> float:
        return float(torch.rand((), generator=samples.batch([0], epoch).scans[0][1][0]))

    free, fixed = ScanSamples(scans()), ScanSamples(scans(), fixed=True)
    assert first(free, 0) == first(free, 0) != first(free, 1)
    assert first(fixed, 0) == first(fixed, 1)


def test_losses_of_the_network_itself_count_with_its_weights():
    learner = SelfSupervised(Wordy(), Identity(SPACE), {"a": (1.0, Sum(1))})
    value, told = learner.loss(ScanSamples(scans()).batch([1], 0))
    assert told == {"a": 4.0, "own": 3.0, "other": 10.0}
    assert float(value.detach()) == 4 + 0.5 * 3


def test_metrics_are_means_over_the_slices_whose_truths_are_known():
    metrics = {"error": lambda x, truth: float((truth - x).sum()) * float(truth[0])}
    learner = SelfSupervised(Scale(), Identity(SPACE), {"a": (1.0, Sum(1))}, metrics=metrics)
    told = learner.validate(ScanSamples(scans()).batch([0, 1, 2], 0))
    assert told == {"loss": 4.0, "error": 4 * (1 + 2 + 3) / 3}


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_misfit_is_one_for_the_truth(dtype):
    """Mean of the square over all real samples that count, in units of the noise."""
    space, noise = Space((5000, 2), dtype), Gaussian(0.3)
    x = torch.ones(2, 5000, 2, dtype=dtype)
    data = noise.sample(x, torch.Generator().manual_seed(0))
    weights = torch.tensor([1.0, 0.0]).double()
    data[..., 1] = 1e6
    problem = Problem(Identity(space), data, noise, weights)
    assert misfit(problem, x).tolist() == pytest.approx([1.0] * 2, abs=0.08)


def test_the_published_misfit_is_a_sum_of_two_ratios():
    problem = Problem(Identity(SPACE), torch.tensor([[3.0, 4.0, 0.0, 1e6]]).double())
    problem = Problem(problem.operator, problem.data, weights=torch.tensor([1.0, 1, 1, 0]).double())
    x = torch.tensor([[3.0, 3.0, 1.0, 0.0]]).double()
    assert normalised_misfit(problem, x).tolist() == pytest.approx([2**0.5 / 5 + 2 / 7])


def test_a_learner_needs_a_term():
    with pytest.raises(ValueError, match="there is none"):
        SelfSupervised(Scale(), stage(), {})
    with pytest.raises(ValueError, match="weight of ssdu"):
        SelfSupervised(Scale(), stage(), {"ssdu": (0.0, HeldOutMisfit(Dealing(("view",))))})


def test_noise_per_slice_is_refused():
    operator = stage()
    noise = Gaussian(torch.ones(2, 1, 1, dtype=torch.float64))
    problem = Problem(operator, operator.range.zeros(2), noise)
    with pytest.raises(ValueError, match="sigma for each slice"):
        ScanSamples([MeasuredScan(problem)])
