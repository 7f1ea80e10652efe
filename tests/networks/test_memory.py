"""The memory of a training step: predicted within 25 % of what is measured."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labrecon.networks import Unrolled
from labrecon.networks.memory import advise, fastest_that_fits, measure_memory, plan_memory
from labrecon.networks.meter import Meter, available, measured_peak
from labrecon.operators import Convolution
from labrecon.prior import Prior, residual_inverse
from labrecon.priors import L1
from labrecon.priors.leaky import LeakyL1
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor
from labrecon.seeds import seeded
from labrecon.solver import SolverError
from labrecon.solvers import ISTA
from labrecon.space import Space

CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is told by Linux")


class Small(Prior):
    """``x − f(x)`` with a small network that contracts."""

    def __init__(self, features: int = 6) -> None:
        super().__init__()
        with seeded(0):
            self.network = nn.Sequential(
                nn.Conv2d(1, features, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(features, 1, 3, padding=1),
            )

    def residual(self, x: Tensor) -> Tensor:
        return 0.05 * self.network(x.unsqueeze(-3)).squeeze(-3)

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        return x - self.residual(x)

    def inverse(self, u: Tensor, step: Tensor | float) -> Tensor:
        return residual_inverse(lambda x: -self.residual(x), u, 2)


def case(
    prior: Prior, size: int, batch: int, device: str = "cpu", depth: int = 10, **options: Any
) -> tuple[Unrolled, Problem]:
    operator = Convolution(Space((size, size)), torch.full((5, 5), 1 / 25)).to(device)
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(batch, size, size, generator=generator).to(device)
    learn = ["step_size", "prior"] if isinstance(prior, Small) else ["step_size", "prior.weight"]
    solver = ISTA(prior=prior, step_size=0.1)
    return Unrolled(solver, depth, learn=learn, **options).to(device), Problem(operator, data)


PRIORS = [lambda: LeakyL1(0.01, slope=0.9), Small]


def test_the_meter_counts_each_storage_once_and_forgets_what_is_gone() -> None:
    x = torch.ones(1000)
    with Meter() as meter:
        y = x.view(10, 100).mT
        assert meter.peak == 0
        y = y + 1
        assert meter.alive == 4000
        y.mul_(2)
        z = y[0].clone()
        assert meter.alive == 4000 + z.nbytes
        del y
        assert meter.alive == z.nbytes
    assert meter.peak == 4000 + z.nbytes


@linux
def test_the_measured_peak_is_that_of_the_call() -> None:
    def run() -> None:
        x = torch.ones(8 * 2**20)
        (x + 1).sum()

    peak = measured_peak(run, CPU, before=run)
    assert abs(peak / 2**26 - 1) < 0.1


@linux
def test_an_error_while_measuring_is_told() -> None:
    def run() -> None:
        raise ValueError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        measured_peak(run, CPU)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["store", "checkpoint", "invert"])
@pytest.mark.parametrize("make", PRIORS, ids=["leaky", "network"])
def test_predicted_is_measured_within_a_quarter(make: Any, mode: Any) -> None:
    network, problem = case(make(), 256, 2)
    (plan,) = plan_memory(network, problem, modes=[mode])
    measured = measure_memory(network.variant(10, mode), problem)
    assert (measured.depth, measured.mode) == (plan.depth, plan.mode) == (10, mode)
    assert abs(plan.bytes / measured.bytes - 1) <= 0.25


@pytest.mark.cuda
@pytest.mark.parametrize("mode", ["store", "checkpoint", "invert"])
@pytest.mark.parametrize("make", PRIORS, ids=["leaky", "network"])
def test_predicted_is_measured_within_a_quarter_on_cuda(make: Any, mode: Any) -> None:
    network, problem = case(make(), 512, 4, "cuda", depth=20)
    (plan,) = plan_memory(network, problem, modes=[mode])
    measured = measure_memory(network.variant(20, mode), problem)
    assert abs(plan.bytes / measured.bytes - 1) <= 0.25


@pytest.mark.cuda
@pytest.mark.parametrize("mode", ["checkpoint", "invert"])
def test_gradients_on_cuda_are_those_of_the_processor(mode: str) -> None:
    found = []
    for device, memory in (("cpu", "store"), ("cuda", mode)):
        network, problem = case(LeakyL1(0.01, slope=0.9), 64, 2, device, memory=memory)
        network(problem).square().mean().backward()
        found.append([p.grad.cpu() for p in network.parameters() if p.grad is not None])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.fixture
def counted_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans without what operations take inside, which is measured and differs a little each time.

    For networks so small that this difference is as large as their needs.
    """

    def unknown(*given: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("labrecon.networks.memory.measure_memory", unknown)


@pytest.mark.usefixtures("counted_only")
def test_the_plan_orders_modes_and_depths() -> None:
    network, problem = case(PRIORS[0](), 64, 1)
    plans = {(p.depth, p.mode): p.bytes for p in plan_memory(network, problem, [5, 40])}
    assert plans[40, "invert"] < plans[40, "checkpoint"] < plans[40, "store"]
    assert plans[40, "store"] > 4 * plans[5, "store"]
    assert not any(p.grad is not None for p in network.parameters())


def test_a_mode_that_the_network_can_not_be_trained_in_is_not_planned() -> None:
    network, problem = case(L1(0.01), 32, 1)
    assert [plan.mode for plan in plan_memory(network, problem)] == ["store", "checkpoint"]


@pytest.mark.slow
@pytest.mark.usefixtures("counted_only")
def test_the_fastest_mode_that_fits_is_taken() -> None:
    network, problem = case(PRIORS[0](), 64, 1, depth=40)
    needs = {plan.mode: plan.bytes for plan in plan_memory(network, problem)}
    for mode, need in needs.items():
        assert fastest_that_fits(network, problem, 1.3 * need) == mode
    assert fastest_that_fits(network, problem, 1) == "invert"
    assert fastest_that_fits(network, problem) == "store"
    chosen, _ = case(PRIORS[0](), 64, 1, depth=40, memory="auto", budget=2 * needs["checkpoint"])
    assert chosen.mode(problem) == "checkpoint"
    chosen(problem).sum().backward()


def test_nothing_to_train_is_told() -> None:
    _, problem = case(L1(0.01), 32, 1)
    with pytest.raises(SolverError, match="nothing to train"):
        plan_memory(Unrolled(ISTA(prior=L1(0.1), step_size=0.1), 3), problem)


@pytest.mark.usefixtures("counted_only")
def test_advice_names_the_mode_that_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    network, problem = case(PRIORS[0](), 64, 1, depth=40)
    needs = {plan.mode: plan.bytes for plan in plan_memory(network, problem)}
    room = "labrecon.networks.memory.available"
    monkeypatch.setattr(room, lambda device: 1.5 * needs["checkpoint"])
    told = advise(network, problem)
    assert "memory='checkpoint'" in told.rpartition("take ")[2]
    assert "MiB" in told
    monkeypatch.setattr(room, lambda device: 10)
    assert "smaller batch" in advise(network, problem)
    assert "smaller batch" in advise(Reconstructor(), problem)


def test_some_memory_is_available() -> None:
    assert 2**20 < available(CPU) < 2**50
