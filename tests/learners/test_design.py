"""Designs learned through reconstructions: whole gradients, feasible steps, known optima."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labrecon import FitConfig, Gaussian, Operator, Space, fit
from labrecon.design import Box, Budget, Quantised
from labrecon.learners import Design, Jitter, ObjectSamples, Supervised, parse_jitter
from labrecon.networks import Equilibrium, Tikhonov, Unrolled
from labrecon.operators import Matrix
from labrecon.priors import Tikhonov as TikhonovPrior
from labrecon.solvers import ISTA, GradientDescent


class Camera(Operator):
    """Exposure times of four channels, seen through a gain that drifts."""

    def __init__(self, times: Tensor) -> None:
        super().__init__(Space((4,), torch.float64), Space((4,), torch.float64))
        self.design("times", times.double(), Box(0.0, 3.0, unit="s") & Budget(4.0, unit="s"))
        self.nuisance("gain", torch.tensor(1.0, dtype=torch.float64), Box(0.1, 10.0, unit="V"))
        self.nuisance("offset", torch.tensor(0.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.times * x + self.offset


def objects(n: int, scale: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, 4, generator=generator, dtype=torch.float64)


def test_the_derivative_is_that_of_the_whole_experiment() -> None:
    """Through noise-free part of the data and through the reconstruction, by finite differences."""
    operator = Camera(torch.tensor([0.3, 1.0, 0.7, 2.0]))
    network = Unrolled(GradientDescent(step_size=0.1), 5)
    learner = Design(network, operator, Gaussian(0.1))
    batch = ObjectSamples(objects(6, torch.ones(4)), fixed=True).batch(range(6), 0)
    again = ObjectSamples(objects(6, torch.ones(4)), fixed=True)
    value, _ = learner.loss(batch)
    (gradient,) = torch.autograd.grad(value, operator.times)
    for i in range(4):
        ends = []
        for sign in (1, -1):
            moved = operator.times.detach().clone()
            moved[i] += sign * 1e-6
            operator.place({"times": moved})
            ends.append(float(learner.loss(again.batch(range(6), 0))[0].detach()))
            moved[i] -= sign * 1e-6
            operator.place({"times": moved})
        assert float(gradient[i]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_through_an_equilibrium_the_derivative_is_that_of_its_fixed_point() -> None:
    """The fixed point of ISTA with a quadratic prior is Tikhonov's estimate, in closed form."""
    rho, found = 0.3, []
    for network in (
        Tikhonov(rho),
        Equilibrium(ISTA(prior=TikhonovPrior(rho), step_size=0.2), iterations=500, tolerance=1e-12),
    ):
        operator = Camera(torch.tensor([0.3, 1.0, 0.7, 2.0]))
        learner = Design(network, operator, Gaussian(0.1), designs=["times"])
        batch = ObjectSamples(objects(6, torch.ones(4)), fixed=True).batch(range(6), 0)
        value, _ = learner.loss(batch)
        found.append(torch.autograd.grad(value, operator.times)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-12)


@pytest.mark.slow
def test_time_goes_where_objects_vary() -> None:
    """Tikhonov with the objects' own prior: reverse water-filling gives more to what varies more.

    ``min Σ s²/(1 + s² t²/σ²)`` under ``Σ t = 4``: at the optimum the derivatives agree.
    """
    scale = torch.tensor([2.0, 1.0, 0.5, 0.01], dtype=torch.float64)
    operator = Camera(torch.ones(4))
    learner = Design(Tikhonov(0.01), operator, Gaussian(0.1))
    samples = ObjectSamples(objects(400, scale), seed=3)
    config = FitConfig(steps=400, batch_size=100, learning_rate=0.02, schedule="cosine")
    fit(learner, samples, config)
    assert learner.harden() == {"times": {}}
    times = operator.times.detach()
    assert float(times.sum()) == pytest.approx(4.0, abs=1e-6)
    # Tikhonov's estimate has the error (x ρ/(t² + ρ))² + σ² t²/(t² + ρ)²: minimised numerically.
    t = torch.ones(4, dtype=torch.float64, requires_grad=True)
    feasible = operator.designs["times"]
    for _ in range(4000):
        bias = (scale * 0.01 / (t**2 + 0.01)) ** 2
        total = (bias + 0.01 * t**2 / (t**2 + 0.01) ** 2).sum()
        (g,) = torch.autograd.grad(total, t)
        t = feasible.project((t - 0.5 * g).detach()).requires_grad_()
    assert torch.allclose(times, t.detach(), atol=0.1)


def test_every_step_is_feasible_and_hardening_goes_to_the_grid() -> None:
    class Levels(Camera):
        def __init__(self) -> None:
            super().__init__(torch.ones(4))
            self._designs["times"] = Budget(4.0) & Quantised(5, 0.0, 3.0)

    operator = Levels()
    learner = Design(Tikhonov(1e-2), operator, Gaussian(0.1))
    seen: list[Tensor] = []
    fit(
        learner,
        ObjectSamples(objects(40, torch.tensor([2.0, 1.0, 0.5, 0.1]))),
        FitConfig(steps=30, batch_size=20, learning_rate=0.3),
        callbacks=[lambda step, record: seen.append(operator.times.detach().clone())],
    )
    assert all(bool((t >= 0).all()) and float(t.sum()) <= 4 + 1e-9 for t in seen)
    learner.harden()
    assert torch.isin(operator.times.detach(), torch.linspace(0, 3, 5, dtype=torch.float64)).all()


def test_jitter_moves_the_data_and_not_the_reconstruction() -> None:
    operator = Camera(torch.ones(4))
    plain = Supervised(Tikhonov(1e-6), operator, Gaussian(1e-9))
    samples = ObjectSamples(objects(200, torch.ones(4)), fixed=True)
    batch = samples.batch(range(200), 0)
    jittered = Design(Tikhonov(1e-6), operator, Gaussian(1e-9), jitter={"gain": 0.2})
    (problem, truth) = next(iter(jittered.problems(batch)))
    assert problem.operator is operator
    assert float(operator.gain) == 1.0
    gains = (problem.data / truth).mean(1).detach()
    assert float(gains.std()) == pytest.approx(0.2, rel=0.2)
    assert float(gains.mean()) == pytest.approx(1.0, abs=0.06)
    (same, _) = next(iter(plain.problems(samples.batch(range(200), 0))))
    assert torch.allclose(same.data.detach(), truth, atol=1e-6)


def test_displaced_by_a_size() -> None:
    operator = Camera(torch.ones(4))
    generator = torch.Generator().manual_seed(0)
    moved = Jitter(operator, {}).displaced({"gain": 0.3}, generator)["gain"]
    assert abs(float(moved) - 1.0) == pytest.approx(0.3)


def test_what_no_acquisition_tells_does_not_count() -> None:
    operator = Camera(torch.ones(4))
    learner = Design(
        Tikhonov(1e-3), operator, gauge=lambda x: x - x.mean(-1, keepdim=True), metrics={}
    )
    x = objects(3, torch.ones(4))
    assert float(learner.measure(x + 5.0, x)) == pytest.approx(0.0, abs=1e-20)


def test_network_and_design_are_learned_together() -> None:
    operator = Camera(torch.ones(4))
    network = Tikhonov(1.0, learn=True)
    learner = Design(network, operator, Gaussian(0.05))
    before = float(network.rho.detach())
    samples = ObjectSamples(objects(64, torch.ones(4)))
    fit(learner, samples, FitConfig(steps=40, batch_size=32, learning_rate=0.05))
    assert float(network.rho.detach()) < 0.5 * before


def test_a_compressive_matrix_is_learned() -> None:
    """Objects in a plane of R⁸: three learned rows see it, random ones see little of it."""
    generator = torch.Generator().manual_seed(1)
    plane = torch.linalg.qr(torch.randn(8, 3, generator=generator, dtype=torch.float64)).Q
    x = torch.randn(80, 3, generator=generator, dtype=torch.float64) @ plane.mT
    start = 0.3 * torch.randn(3, 8, generator=generator, dtype=torch.float64)
    operator = Matrix(start, feasible=Box(-1.0, 1.0))
    learner = Design(Tikhonov(1e-2), operator, Gaussian(0.02))
    samples = ObjectSamples(x)
    with torch.no_grad():
        first = learner.validate(samples.batch(range(80), 0))["nrmse"]
    fit(learner, samples, FitConfig(steps=300, batch_size=40, learning_rate=0.03))
    with torch.no_grad():
        last = learner.validate(samples.batch(range(80), 0))["nrmse"]
    assert last < 0.1
    assert first > 0.5


def test_what_is_refused() -> None:
    operator = Camera(torch.ones(4))
    with pytest.raises(ValueError, match="has no design dose; it has times"):
        Design(Tikhonov(), operator, designs=["dose"])
    with pytest.raises(ValueError, match="no nuisance 'shift'; it has gain, offset"):
        Design(Tikhonov(), operator, jitter={"shift": 1.0})
    with pytest.raises(ValueError, match="NAME=NUMBER"):
        parse_jitter(["gain"])


def test_jitter_is_in_the_unit_of_the_nuisance() -> None:
    operator = Camera(torch.ones(4))
    entries = parse_jitter(["gain=0.5V", "offset=1e-2"])
    assert Jitter(operator, entries).deviations == {"gain": 0.5, "offset": 0.01}
    for size in ("0.5mm", "0.5 v", "V", "half a V"):
        with pytest.raises(ValueError, match=f"jitter of gain is given in V; got '{size}'"):
            Jitter(operator, {"gain": size})
    with pytest.raises(ValueError, match="it states no unit; got '1 V'"):
        Jitter(operator, {"offset": "1 V"})
    for negative in ("-1V", -1.0):
        with pytest.raises(ValueError, match="expected a deviation ≥ 0"):
            Jitter(operator, {"gain": negative})
