"""Experiments: designs of an operator and of its noise by one name each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labrecon import Gaussian, Noise, Operator, Space
from labrecon.design import Box
from labrecon.experiment import Experiment


class Shutter(Operator):
    def __init__(self, name: str = "open") -> None:
        super().__init__(Space((3,)), Space((3,)))
        self.design(name, torch.ones(3), Box(0.0, 1.0))
        self.nuisance("gain", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.open * x


class Cooled(Gaussian):
    def __init__(self) -> None:
        super().__init__(1.0)
        self.design("cooling", torch.tensor(0.5), Box(0.0, 1.0, unit="W"))

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return clean + 0.0 * self.cooling


def test_designs_of_both_are_read_set_and_projected() -> None:
    operator, noise = Shutter(), Cooled()
    experiment = Experiment(operator, noise)
    assert list(experiment.designs) == ["open", "cooling"]
    assert list(experiment.nuisances) == ["gain"]
    experiment.learn("open", "cooling")
    experiment.place({"open": torch.tensor([2.0, 0.5, -1.0]), "cooling": torch.tensor(3.0)})
    experiment.project_designs()
    assert operator.open.tolist() == [1.0, 0.5, 0.0]
    assert noise.cooling.tolist() == 1.0
    assert experiment.current("cooling")["cooling"].item() == 1.0
    with pytest.raises(KeyError, match="Shutter has no design or nuisance 'dose'"):
        experiment.learn("dose")


def test_samples_have_other_nuisances() -> None:
    experiment = Experiment(Shutter(), Cooled())
    generator = torch.Generator().manual_seed(0)
    assert experiment.sample(torch.ones(3), generator).tolist() == [1.0] * 3
    moved = experiment.sample(torch.ones(3), generator, {"gain": torch.tensor(2.0)})
    assert moved.tolist() == [2.0] * 3


def test_one_name_for_two_is_refused() -> None:
    with pytest.raises(ValueError, match="cooling of Shutter and of Cooled"):
        Experiment(Shutter("cooling"), Cooled())


def test_plain_noise_has_no_designs() -> None:
    assert not Noise().designs
