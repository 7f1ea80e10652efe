"""SSDU and Noise2Inverse: what is held out, and that nothing of it is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from self_supervised_cases import Ramp, generators, measured, objects, passed, stage

from labrecon import Gaussian, Problem, Space
from labrecon.learners.self_supervised import (
    Dealing,
    HeldOutMisfit,
    Noise2Inverse,
)
from labrecon.networks.by_name import make_unrolled
from labrecon.networks.fbp_convnet import make_fbp_convnet
from labrecon.networks.modl import make_modl
from labrecon.operators import Identity, MaskedFourier

VIEWS = Dealing(("view",))


# -- dealing ---------------------------------------------------------------------------------------


def test_what_is_seen_and_what_is_held_out_are_all_and_nothing_twice():
    problem = measured(stage(10), Gaussian(0.1), objects(3))
    part = VIEWS.held_out(problem, 0.3, generators(3))
    seen = part.problem.weights > 0
    assert part.held.shape == (3, 10, 1)
    assert torch.equal(seen, part.held == 0)
    assert part.held.sum((1, 2)).tolist() == [3, 3, 3]
    assert len({tuple(one.flatten().tolist()) for one in part.held}) > 1
    # As strong as all data.
    assert part.problem.weights.sum((1, 2)).tolist() == pytest.approx([10, 10, 10])


def test_sections_are_every_kth_and_cover_all():
    problem = measured(stage(10), Gaussian(0.1), objects(1))
    held = [VIEWS.sections(problem, 3, [j]).held.flatten() for j in range(3)]
    assert held[0].nonzero().flatten().tolist() == [0, 3, 6, 9]
    assert torch.equal(sum(held), torch.ones(10, dtype=torch.float64))


def test_points_of_k_space_are_dealt_for_all_coils_but_for_the_centre():
    space = Space((2, 8, 6), torch.complex64, ("coil", "ky", "kx"))
    weights = torch.ones(8, 1)
    weights[1::2] = 0
    problem = Problem(Identity(space), torch.ones(2, 2, 8, 6, dtype=torch.complex64), None, weights)
    part = Dealing(("ky", "kx"), keep=2).held_out(problem, 0.5, generators(2))
    assert part.held.shape == (2, 1, 8, 6)
    assert not bool(part.held[:, :, 3:5, 2:4].any())
    assert not bool(part.held[:, :, 1::2].any())
    # 4 measured lines of 6, without the two points of line 4 in the middle.
    assert part.held.sum((1, 2, 3)).tolist() == [11, 11]
    assert bool((part.problem.weights[:, :, 4, 2:4] == 1).all())


def test_a_spread_holds_out_by_the_odds_of_a_gaussian():
    """One of 64 places each time: their positions have its mean and standard deviation."""
    problem = Problem(Identity(Space((64,), axes=("ky",))), torch.ones(4000, 64))
    dealing = Dealing(("ky",), spread=0.1)
    held = dealing.held_out(problem, 1 / 64, generators(4000)).held
    assert held.sum(1).tolist() == [1.0] * 4000
    positions = held.argmax(1).double()
    assert float(positions.mean()) == pytest.approx(31.5, abs=0.4)
    assert float(positions.std()) == pytest.approx(6.4, abs=0.3)


def test_a_narrow_spread_still_holds_out_the_share_and_keeps_the_middle():
    problem = Problem(Identity(Space((20, 30), axes=("ky", "kx"))), torch.ones(1, 20, 30))
    part = Dealing(("ky", "kx"), keep=4, spread=0.01).held_out(problem, 0.5, generators(1))
    assert int(part.held.sum()) == (600 - 16) // 2
    assert not bool(part.held[:, 8:12, 13:17].any())


def test_the_order_of_the_axes_does_not_matter():
    space = Space((3, 4, 5), axes=("row", "view", "column"))
    problem = Problem(Identity(space), torch.ones(1, 3, 4, 5))
    part = Dealing(("column", "row")).held_out(problem, 0.4, generators(1))
    assert part.held.shape == (1, 3, 1, 5)
    assert int(part.held.sum()) == 6


@pytest.mark.parametrize(
    ("views", "weights", "told"),
    [
        (1, None, r"have 1 along view that count; to be dealt they need 2"),
        (4, torch.tensor([1.0, 0, 0, 0]).reshape(4, 1), r"have 1 along view"),
    ],
)
def test_one_acquisition_can_not_be_dealt(views, weights, told):
    problem = replace(measured(stage(views), Gaussian(0.1), objects(1)), weights=weights)
    for term in (HeldOutMisfit(VIEWS), Noise2Inverse(VIEWS, splits=2)):
        with pytest.raises(ValueError, match=told):
            term.check(problem)


def test_bad_options_are_refused():
    problem = measured(stage(), Gaussian(0.1), objects(1))
    with pytest.raises(ValueError, match="no axis 'shot' to be dealt; they have view, detector"):
        HeldOutMisfit(Dealing(("shot",))).check(problem)
    with pytest.raises(ValueError, match="which axes"):
        Dealing(())
    with pytest.raises(ValueError, match="spread"):
        Dealing(("view",), spread=0.0)
    with pytest.raises(ValueError, match="fraction"):
        HeldOutMisfit(VIEWS, fraction=1.0)
    with pytest.raises(ValueError, match=r"noise, l1\+l2, object, got 'l3'"):
        HeldOutMisfit(VIEWS, loss="l3")
    with pytest.raises(ValueError, match="splits"):
        Noise2Inverse(VIEWS, splits=1)
    with pytest.raises(ValueError, match="strategy"):
        Noise2Inverse(VIEWS, strategy="2:2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="need 9"):
        Noise2Inverse(VIEWS, splits=9).check(problem)


def test_an_inversion_that_is_not_linear_is_refused():
    """The default of an operator scales each estimate by its own data."""
    operator = Ramp()
    problem = Problem(operator, operator.range.zeros(1))
    term = Noise2Inverse(Dealing(("row",)), splits=2)
    with pytest.raises(ValueError, match=r"no linear direct inversion.*compare data instead"):
        term.check(problem)


# -- nothing leaks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_modl, make_fbp_convnet, make_unrolled])
def test_held_out_samples_never_reach_the_network(make):
    """Whatever they are, even infinite: the output has the same bits."""
    mask = torch.ones(16, 1)
    space = Space((16, 16), torch.complex64, ("y", "x"))
    operator = MaskedFourier(space, mask)
    generator = torch.Generator().manual_seed(0)
    problem = Problem(operator, operator.range.random(2, generator=generator))
    small = {} if make is make_unrolled else {"features": 4}
    network = make(problem, depth=2, **small).eval()
    dealing = Dealing(operator.range.axes)
    part = dealing.held_out(problem, 0.4, generators(2))
    changed = torch.where(part.held > 0, torch.inf, problem.data)
    other = dealing.held_out(replace(problem, data=changed), 0.4, generators(2))
    assert torch.equal(part.held, other.held)
    with torch.no_grad():
        first = passed(network, problem).reconstruct_part(part)
        second = passed(network, replace(problem, data=changed)).reconstruct_part(other)
    assert bool(first.abs().sum() > 0)
    assert torch.equal(first, second)


def test_a_direct_inversion_of_a_part_has_the_scale_of_all():
    """Half of the views of an object that is the same in all of them is the object."""
    operator, x = stage(8), objects(2)
    problem = Problem(operator, operator(x), Gaussian(0.1))
    network = make_fbp_convnet(problem, depth=1, features=2, normalise=False).eval().double()
    part = VIEWS.held_out(problem, 0.5, generators(2))
    with torch.no_grad():
        whole = network(problem)
        some = passed(network, problem).reconstruct_part(part)
    torch.testing.assert_close(some, whole)
