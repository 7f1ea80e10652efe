"""What the numbers of nuisances are called, and where they are listed."""

import pytest
import torch
from torch import Tensor

from labrecon.calibration import Unknowns
from labrecon.calibration.listing import calibratable
from labrecon.operator import Operator
from labrecon.space import Space
from labrecon_ct.instrument import CTInstrument
from labrecon_mri.instrument import MRIInstrument
from labrecon_phase.instrument import PhaseInstrument


class Moved(Operator):
    def __init__(self, numbers: tuple[str, ...] = ("y", "x")) -> None:
        super().__init__(Space((4,)), Space((4,)))
        self.nuisance("shift", torch.zeros(2), numbers=numbers)
        self.nuisance("gain", torch.ones(()))
        self.nuisance("modes", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


def test_numbers_have_the_names_that_the_operator_gives() -> None:
    unknowns = Unknowns(Moved(), ["shift", "gain", "modes"])
    assert unknowns.labels == ("shift y", "shift x", "gain", "modes.0", "modes.1")


def test_a_part_of_an_operator_is_named_as_recipes_name_it() -> None:
    """And with its dotted name where two parts have the same."""
    scaled = 2.0 * Moved()
    (full,) = (name for name in scaled.nuisances if name.endswith("shift"))
    assert "." in full
    assert Unknowns(scaled, ["shift"]).labels == ("shift y", "shift x")
    both = Moved() @ Moved()
    names = [name for name in both.nuisances if name.endswith("shift")]
    labels = Unknowns(both, names).labels
    assert labels == tuple(f"{name} {axis}" for name in names for axis in "yx")
    assert len(set(labels)) == 4


def test_names_are_as_many_as_numbers() -> None:
    with pytest.raises(ValueError, match="'shift' has 2 numbers, and names for 3: z, y, x"):
        Moved(("z", "y", "x"))


def test_names_of_numbers_may_have_several_words() -> None:
    class Lab(CTInstrument):
        def examples(self):
            return {"": self.example()}

        def operator(self, geometry, **options):
            return Moved(("slow axis", "fast axis"))

    assert calibratable(Lab())["shift"] == "slow axis, fast axis"


def test_nuisances_of_each_kind_of_acquisition_are_listed() -> None:
    """A tilt is of volumes, delays are of trajectories: their examples have them."""
    assert calibratable(CTInstrument()) == {"centre": "in columns", "tilt": "in deg (3D)"}
    assert calibratable(MRIInstrument()) == {"delay": "y, x in samples (along a trajectory)"}
    found = calibratable(PhaseInstrument())
    assert found["led_shift"] == "x, y in mm"
    assert found["zernike"] == "Z1, Z2, …, Z15 in rad"
    assert found["background"] == "4 numbers"
