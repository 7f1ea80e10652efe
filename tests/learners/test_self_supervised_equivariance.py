"""Equivariance: zero where it holds, in the unit of the data's noise where it does not."""

from __future__ import annotations

import pytest
import torch
from self_supervised_cases import Scale, passed

from labrecon import Gaussian, Operator, Poisson, Problem, Space
from labrecon.learners.samples import sample_generator
from labrecon.learners.self_supervised import Equivariance
from labrecon.learners.self_supervised.transforms import TRANSFORMS, check_transforms, transformed
from labrecon.operators import Identity
from labrecon.reconstructor import Reconstruction

SQUARE = Space((8, 8), torch.float64, ("y", "x"))


def image(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["quarter-turns", "flips", "shifts", "rotations"])
@pytest.mark.parametrize("a", [1.0, 0.5])
def test_it_is_zero_for_an_equivariant_reconstructor(name, a):
    """The identity, of data that tell everything; half of it is wrong by the other half."""
    operator = Identity(SQUARE)
    problem = Problem(operator, image(3, 8, 8), Gaussian(0.1))
    found = Equivariance([name], noisy=False)(passed(Scale(a), problem))
    turned = transformed(a * problem.data, [name], [sample_generator(0, 0, i) for i in range(3)])
    exact = (1 - a) ** 2 * turned.square().sum((-2, -1)) / (0.01 * 64)
    torch.testing.assert_close(found, exact)


class Cut(Operator):
    """The left half of an object."""

    def __init__(self) -> None:
        super().__init__(SQUARE, SQUARE)
        self.register_buffer("left", (torch.arange(8) < 4).double())

    def forward(self, x):
        return self.left * x

    def adjoint(self, y):
        return self.left * y


def test_it_sees_what_the_data_do_not():
    """Data of the left half alone: a flip brings the right half into sight."""
    operator = Cut()
    problem = Problem(operator, operator(torch.ones(1, 8, 8, dtype=torch.float64)), Gaussian(1.0))
    term = Equivariance(["flips"], noisy=False)
    with torch.no_grad():
        values = {float(term(passed(Scale(), problem, epoch))) for epoch in range(12)}
    # Along x, or both: 32 ones are gone, of 64 samples. Along y all is as before.
    assert values == {0.0, 0.5}


def test_the_noise_of_the_second_measurement_is_that_declared():
    """The identity then misses by the noise: χ² = 1 for ``‖A‖ = 1``."""
    operator = Identity(Space((64, 64), torch.float64, ("y", "x")))
    problem = Problem(operator, image(4, 64, 64), Gaussian(0.3))
    found = Equivariance(["shifts"])(passed(Scale(), problem))
    assert found.tolist() == pytest.approx([1.0] * 4, abs=0.1)


class Less(Scale):
    """The image without a background of 100 counts."""

    def reconstruct(self, problem, x0=None, *, trace=False):
        return Reconstruction(problem.data - 100)


def test_the_second_measurement_has_the_background_of_the_first():
    noise = Poisson(background=100.0)
    generator = torch.Generator().manual_seed(0)
    data = noise.sample(torch.full((4, 64, 64), 20.0, dtype=torch.float64), generator)
    problem = Problem(Identity(Space((64, 64), torch.float64, ("y", "x"))), data, noise)
    assert Equivariance(["shifts"], noisy=False)(passed(Less(), problem)).tolist() == [0.0] * 4
    found = Equivariance(["shifts"])(passed(Less(), problem))
    assert found.tolist() == pytest.approx([1.0] * 4, abs=0.1)


def test_a_network_may_predict_negative_counts():
    """At first, it does; they have no photon noise."""
    problem = Problem(Identity(SQUARE), torch.ones(1, 8, 8, dtype=torch.float64), Poisson())
    found = Equivariance(["shifts"])(passed(Scale(-1.0), problem))
    # −(−(−1)) is 1 where −1 was: all of 64 samples of variance 1 miss by 2.
    assert found.tolist() == pytest.approx([4.0])


def test_the_unit_is_that_of_the_samples_that_count():
    """Weight 0 for the right half is as an operator that does not see it."""
    half = (torch.arange(8) < 4).double()
    data = image(3, 8, 8)
    noise = Gaussian(0.1)
    one = Problem(Identity(SQUARE), data, noise, half)
    found = Equivariance(["flips"], noisy=False)(passed(Scale(0.5), one))
    flipped = transformed(
        0.5 * data * half, ["flips"], [sample_generator(0, 0, i) for i in range(3)]
    )
    error = (0.5 * half * flipped - flipped).square().sum((-2, -1))
    torch.testing.assert_close(found, error / (0.01 * 32))


def test_gradients_are_those_of_differences():
    operator = Identity(SQUARE)
    problem = Problem(operator, image(2, 8, 8), Gaussian(0.1))
    network = Scale(0.7)
    term = Equivariance(["rotations"], noisy=False)

    def error(a: float) -> torch.Tensor:
        """With the second image fixed, whose size only sets the unit."""
        turned = transformed(
            a * problem.data, ["rotations"], [sample_generator(0, 0, i) for i in range(2)]
        )
        return ((a * turned - turned).square().sum((-2, -1)) / (0.01 * 64)).mean()

    term(passed(network, problem)).mean().backward()
    h = 1e-5
    numeric = float(error(0.7 + h) - error(0.7 - h)) / (2 * h)
    assert network.a.grad is not None
    assert float(network.a.grad) == pytest.approx(numeric, rel=1e-6)


# -- transformations -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quarter-turns", "flips", "shifts"])
@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8)])
def test_exact_transformations_move_values_and_change_none(name, shape):
    x = image(*shape, dtype=torch.complex128)
    for index in range(6):
        made = TRANSFORMS[name](x, sample_generator(0, 0, index))
        for plane, source in zip(made.reshape(-1, 64), x.reshape(-1, 64), strict=True):
            assert torch.equal(plane.real.sort().values, source.real.sort().values)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(40, 40), (32, 48)])
def test_a_rotation_turns_a_blob_about_the_middle(dtype, shape):
    """By any angle, undistorted also where the object is not square."""
    h, w = shape
    y = torch.arange(h, dtype=torch.float64)[:, None] - (h - 1) / 2
    x = torch.arange(w, dtype=torch.float64) - (w - 1) / 2
    blob = torch.exp(-((x - 7) ** 2 + y**2) / 18).to(dtype)
    for index in range(5):
        made = TRANSFORMS["rotations"](blob, sample_generator(0, 0, index))
        mass = made.abs()
        px, py = float((mass * x).sum() / mass.sum()), float((mass * y).sum() / mass.sum())
        assert (px**2 + py**2) ** 0.5 == pytest.approx(7, abs=0.05)
        spread = (mass * ((x - px) ** 2 + (y - py) ** 2)).sum() / mass.sum()
        assert float(spread) == pytest.approx(18, rel=0.06)


@pytest.mark.parametrize(
    ("names", "shape", "told"),
    [
        ((), (8, 8), "got none"),
        (("mirrors",), (8, 8), "got 'mirrors'"),
        (("quarter-turns",), (8, 6), "need square objects"),
        (("rotations",), (8,), "two axes"),
    ],
)
def test_transformations_that_do_not_fit_are_refused(names, shape, told):
    with pytest.raises(ValueError, match=told):
        check_transforms(names, Space(shape))
    problem = Problem(Identity(Space(shape)), torch.zeros(1, *shape))
    with pytest.raises(ValueError, match=told):
        Equivariance(names).check(problem)


def test_one_dimensional_objects_shift_and_flip():
    x = image(5, 9)
    for name in ("shifts", "flips"):
        made = transformed(x, [name], [sample_generator(0, 0, i) for i in range(5)])
        assert torch.equal(made.sort(-1).values, x.sort(-1).values)
