"""Objects and pairs by index, and how they are split."""

from __future__ import annotations

import pytest
import torch

from labrecon import Gaussian, Scan
from labrecon.learner import Samples
from labrecon.learners import ObjectSamples, PairSamples, split
from labrecon.operators import Identity
from labrecon.space import Space


def draws(batch):
    return [float(torch.rand((), generator=g)) for g in batch.generators]


def test_what_is_random_depends_on_seed_epoch_and_index_only():
    samples = ObjectSamples(torch.arange(6.0).reshape(6, 1), seed=3)
    assert isinstance(samples, Samples)
    together = draws(samples.batch([0, 4, 2], 1))
    assert together == [draws(samples.batch([i], 1))[0] for i in (0, 4, 2)]
    assert len({*together, *draws(samples.batch([0, 4, 2], 2))}) == 6
    assert draws(ObjectSamples(samples.objects, seed=4).batch([0], 1)) != together[:1]


def test_validation_is_the_same_in_each_epoch():
    x = torch.arange(12.0).reshape(3, 2, 2)
    samples = ObjectSamples(x, flips=True, fixed=True)
    assert draws(samples.batch([1], 0)) == draws(samples.batch([1], 7))
    assert torch.equal(samples.batch([2, 0], 5).objects, x[[2, 0]])


def test_flips_are_all_four_and_leave_the_objects_alone():
    x = torch.arange(6.0).reshape(1, 2, 3)
    samples = ObjectSamples(x, flips=True)
    seen = {tuple(samples.batch([0], epoch).objects.flatten().tolist()) for epoch in range(40)}
    images = (x, x.flip(-1), x.flip(-2), x.flip(-1, -2))
    assert seen == {tuple(image.flatten().tolist()) for image in images}
    assert torch.equal(samples.objects, torch.arange(6.0).reshape(1, 2, 3))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_split_is_a_partition_that_the_seed_decides(fraction):
    trained, held = split(range(50), fraction, 1)
    assert sorted([*trained, *held]) == list(range(50))
    assert len(held) == max(1, int(fraction * 50))
    assert split(range(50), fraction, 1) == (trained, held)
    assert split(range(50), fraction, 3) != (trained, held)


def test_groups_stay_together():
    groups = [i // 4 for i in range(40)]
    trained, held = split(groups, 0.3, 0)
    assert not {groups[i] for i in trained} & {groups[i] for i in held}
    assert len(held) == 12
    with pytest.raises(ValueError, match="at least two"):
        split(["one file"] * 9, 0.1, 0)


def pairs(**changes):
    space = Space((4, 5))
    operator = Identity(space)
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(3, 4, 5, generator=generator)
    scan = Scan(data, None, Gaussian(0.1)).replace(**changes)
    single = Scan(data[0], None, Gaussian(0.2))
    return [(scan, data + 1), (single, data[0] + 2)], [operator, operator]


def test_each_slice_of_a_scan_is_a_sample():
    given, operators = pairs()
    samples = PairSamples(given, operators)
    assert len(samples) == 4
    (stack, truth), (one, other) = samples.batch([2, 3, 0], 0)
    assert torch.equal(stack.data, given[0][0].data[[2, 0]])
    assert torch.equal(truth, given[0][1][[2, 0]])
    assert torch.equal(one.data[0], given[1][0].data)
    assert torch.equal(other[0], given[1][1])
    assert stack.noise.unit


def test_weights_say_which_samples_count_or_how_much():
    weights = torch.ones(4, 5)
    weights[0, 0], weights[1] = 0, 4
    given, operators = pairs(weights=weights)
    (unit, _), *_ = PairSamples(given, operators).batch([0, 1], 0)
    assert torch.equal(unit.weights, (weights > 0).float().expand(2, 4, 5))
    (weighted, _), *_ = PairSamples(given, operators, "noise").batch([0, 1], 0)
    assert torch.equal(weighted.weights, weights.expand(2, 4, 5))
    assert float(weighted.noise.sigma) == 0.1


def test_a_noise_of_each_slice_needs_the_unit_data_term():
    given, operators = pairs(noise=Gaussian(torch.rand(3, 1, 1) + 1))
    PairSamples(given, operators)
    with pytest.raises(ValueError, match="unit data term"):
        PairSamples(given, operators, "noise")
    given[0] = (given[0][0], given[0][1][:2])
    with pytest.raises(ValueError, match=r"truth 0 has batch \(2,\), its data have \(3,\)"):
        PairSamples(given, operators)
