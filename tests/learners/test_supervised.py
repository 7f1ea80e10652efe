"""Supervised training: against optima that are known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labrecon import Gaussian, Operator, Space
from labrecon.design import Box
from labrecon.learner import FitConfig, fit
from labrecon.learners import ObjectSamples, PairSamples, Supervised
from labrecon.networks import Unrolled
from labrecon.operators import Identity
from labrecon.reconstructor import Reconstruction, Reconstructor
from labrecon.solvers import ISTA


class Gain(Reconstructor):
    """``x = a y``."""

    def __init__(self, losses=None) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.seen = []
        self.terms = losses or {}

    def reconstruct(self, problem, x0=None, *, trace=False):
        self.seen.append(problem)
        terms = {name: value * self.a for name, value in self.terms.items()}
        return Reconstruction(self.a * problem.data, terms)


SPACE = Space((8, 8), torch.float64)


def objects(n: int = 40) -> torch.Tensor:
    return torch.randn(n, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_gain_finds_the_wiener_filter():
    """``a = P / (P + σ²)`` minimises ``E |a (x + n) − x|²``."""
    learner = Supervised(Gain(), Identity(SPACE), Gaussian(0.7))
    x = objects()
    fit(learner, ObjectSamples(x), FitConfig(epochs=60, batch_size=10, learning_rate=0.03))
    power = float(x.square().mean())
    assert float(learner.network.a.detach()) == pytest.approx(power / (power + 0.49), abs=0.02)


def test_loss_is_that_of_the_reconstruction_of_simulated_data():
    learner = Supervised(Gain(), 2.0 * Identity(SPACE), Gaussian(0.1), loss="l1")
    samples = ObjectSamples(objects(), seed=5)
    loss, told = learner.loss(samples.batch([3, 1], 2))
    data = learner.network.seen[0].data
    again = samples.batch([3, 1], 2)
    by_hand = torch.stack(
        [
            2 * x + 0.1 * torch.randn(8, 8, dtype=torch.float64, generator=g)
            for x, g in zip(again.objects, again.generators, strict=True)
        ]
    )
    torch.testing.assert_close(data, by_hand)
    assert float(loss.detach()) == pytest.approx(float((by_hand - objects()[[3, 1]]).abs().mean()))
    assert told == {}


def test_the_data_term_is_what_was_asked_for():
    def seen(term):
        learner = Supervised(Gain(), Identity(SPACE), Gaussian(0.1), data_term=term)
        learner.loss(ObjectSamples(objects()).batch([0], 0))
        return learner.network.seen[0].noise

    assert seen("unit").unit
    assert float(seen("noise").sigma) == 0.1
    own = Gaussian(3.0)
    assert seen(own) is own
    with pytest.raises(ValueError, match="'unit', 'noise' or a Noise, got 'poisson'"):
        seen("poisson")


def test_terms_of_the_network_count_with_their_weights():
    plain = Supervised(Gain(), Identity(SPACE))
    network = Gain({"symmetry": 2.0, "other": 100.0})
    network.loss_weights = {"symmetry": 0.1}
    weighted = Supervised(network, Identity(SPACE))
    batch = ObjectSamples(objects())
    alone, _ = plain.loss(batch.batch([0, 1], 0))
    loss, told = weighted.loss(batch.batch([0, 1], 0))
    assert float((loss - alone).detach()) == pytest.approx(0.2)
    assert told == {"symmetry": pytest.approx(2.0), "other": pytest.approx(100.0)}


def test_validation_is_the_mean_over_objects():
    metrics = {"largest": lambda x, t: float((x - t).abs().max())}
    learner = Supervised(Gain(), 2.0 * Identity(SPACE), Gaussian(1e-9), metrics=metrics)
    x = objects()[:3]
    with torch.no_grad():
        told = learner.validate(ObjectSamples(x, fixed=True).batch([0, 1, 2], 0))
    assert told["largest"] == pytest.approx(float(x.abs().flatten(1).amax(1).mean()), rel=1e-6)
    assert told["loss"] == pytest.approx(float(x.square().mean()), rel=1e-6)


def test_pairs_are_weighted_by_their_slices():
    from labrecon import Scan

    x = objects(4)
    operator = Identity(SPACE)
    given = [(Scan(x[:3], None), x[:3] + 1), (Scan(x[3], None), x[3] + 3)]
    learner = Supervised(Gain(), operator, loss="l1")
    loss, _ = learner.loss(PairSamples(given, [operator, operator]).batch([0, 1, 2, 3], 0))
    assert float(loss.detach()) == pytest.approx((3 * 1 + 3) / 4)


class Exposure(Operator):
    """``y = e x`` with a dose ``e`` that can be designed, up to 2."""

    def __init__(self) -> None:
        super().__init__(SPACE, SPACE)
        self.design("dose", torch.tensor(0.5, dtype=torch.float64), Box(0.0, 2.0))

    def forward(self, x):
        return self.dose * x


def test_gradients_reach_the_design_through_simulator_and_network():
    operator = Exposure()
    operator.learn("dose")
    network = Unrolled(ISTA(step_size=0.3), 3)
    learner = Supervised(network, operator, Gaussian(0.2))
    batch = ObjectSamples(objects())
    loss, _ = learner.loss(batch.batch([0, 1], 0))
    loss.backward()
    h = 1e-6
    ends = []
    for sign in (-1, 1):
        with torch.no_grad():
            operator.dose += sign * h
            ends.append(float(learner.loss(batch.batch([0, 1], 0))[0]))
            operator.dose -= sign * h
    assert float(operator.dose.grad) == pytest.approx((ends[1] - ends[0]) / (2 * h), rel=1e-6)


def test_a_design_grows_to_what_the_hardware_can_do():
    operator = Exposure()
    operator.learn("dose")
    learner = Supervised(Gain(), operator, Gaussian(0.5), design_rate=0.2)
    assert [group.get("lr") for group in learner.parameters()] == [None, 0.2]
    fit(learner, ObjectSamples(objects()), FitConfig(steps=60, batch_size=8, learning_rate=0.05))
    assert float(operator.dose.detach()) == 2.0


def test_a_network_without_parameters_has_nothing_to_train():
    from labrecon.learner import FitError

    learner = Supervised(Unrolled(ISTA(step_size=0.3), 3), Identity(SPACE))
    with pytest.raises(FitError, match="nothing to train"):
        fit(learner, ObjectSamples(objects()))
