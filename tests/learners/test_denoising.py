"""Training of denoisers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labrecon.learner import FitConfig, fit
from labrecon.learners import Denoising, ObjectSamples
from labrecon.learners.denoiser import make_denoising
from labrecon.networks import Unrolled
from labrecon.operators import Identity
from labrecon.priors.denoisers import Denoiser
from labrecon.solvers import ISTA
from labrecon.space import Space


class Linear(nn.Module):
    """``a x``, of real channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.a = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.a * x


class Noisy(nn.Module):
    """Returns the noise level that it is told."""

    noise_channel = True

    def __init__(self) -> None:
        super().__init__()
        self.channels = 1
        self.a = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.a * x[:, 1:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_a_gain_finds_the_wiener_filter(dtype):
    x = torch.randn(60, 6, 6, dtype=dtype, generator=torch.Generator().manual_seed(0))
    denoiser = Denoiser(Linear(2 if dtype.is_complex else 1))
    learner = Denoising(denoiser, 0.5, shape=(6, 6))
    fit(learner, ObjectSamples(x), FitConfig(epochs=30, batch_size=30, learning_rate=0.04))
    power = float(x.abs().square().mean())
    # Complex noise has this deviation in each of its two parts.
    noise = 0.25 * (2 if dtype.is_complex else 1)
    expected = power / (power + noise)
    assert float(denoiser.network.a.detach()) == pytest.approx(expected, abs=0.02)


def test_levels_are_drawn_from_the_range_and_told():
    x = torch.zeros(400, 3, 3)
    learner = Denoising(Denoiser(Noisy(), noise_level=0.1), (0.2, 0.6), shape=(3, 3))
    samples = ObjectSamples(x, fixed=True)
    with torch.no_grad():
        estimate, _ = learner._denoised(samples.batch(range(400), 0))
    levels = estimate[:, 0, 0]
    assert torch.equal(levels, estimate[:, 2, 1])
    assert 0.2 <= float(levels.min()) < 0.21
    assert 0.59 < float(levels.max()) <= 0.6
    assert float(levels.mean()) == pytest.approx(0.4, abs=0.02)
    with torch.no_grad():
        told = learner.validate(samples.batch(range(400), 0))
    assert told["loss"] == pytest.approx(float(levels.square().mean()), rel=1e-4)


def test_the_denoiser_inside_a_network_is_found():
    network = Unrolled(ISTA(step_size=0.5, prior=Denoiser(Linear(1))), 2)
    learner = make_denoising(network, Identity(Space((6, 6))), sigma=[0.1, 0.2])
    assert learner.denoiser is network.solver.prior
    assert (learner.low, learner.high) == (0.1, 0.2)
    with pytest.raises(ValueError, match="holds no denoisers"):
        make_denoising(Unrolled(ISTA(step_size=0.5), 2), Identity(Space((6, 6))))
    with pytest.raises(ValueError, match=r"a range \[low, high\], got \[0.1\]"):
        make_denoising(network, Identity(Space((6, 6))), sigma=[0.1])
    with pytest.raises(ValueError, match="sigma must be a number > 0"):
        make_denoising(network, Identity(Space((6, 6))), sigma=0.0)
