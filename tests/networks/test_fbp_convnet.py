"""FBPConvNet, and the U-Net it is made of."""

from __future__ import annotations

import pytest
import torch
from learned_iteration_cases import CASES, blur_1d, fall_of_loss
from torch import Tensor, nn

from labrecon.networks.fbp_convnet import PostProcessing, make_fbp_convnet
from labrecon.networks.unrolled import Unrolled
from labrecon.operators import Identity
from labrecon.plugins import host
from labrecon.prior import PriorError
from labrecon.priors import TV
from labrecon.priors.denoisers import Denoiser
from labrecon.priors.unet import UNet
from labrecon.problem import Problem
from labrecon.seeds import seeded
from labrecon.solver import SolverError, solve
from labrecon.space import Space


def unet(**options) -> UNet:
    with seeded(0):
        return UNet(**{"features": 4, "levels": 2, **options})


def test_the_inversion_is_mended_once() -> None:
    problem, _ = blur_1d()
    inverted = problem.operator.initial(problem.data)
    solver = PostProcessing(TV(0.3, ndim=1))
    expected = TV(0.3, ndim=1).prox(inverted, 1.0)
    torch.testing.assert_close(solve(solver, problem, iterations=5).x, expected)
    torch.testing.assert_close(Unrolled(solver, 1)(problem), expected)


def test_a_network_of_zeros_leaves_the_inversion() -> None:
    problem, _ = blur_1d()
    network = make_fbp_convnet(problem, depth=2, features=4, scale=7.0)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    torch.testing.assert_close(network(problem), problem.operator.initial(problem.data))


def test_the_published_layers() -> None:
    """The U-Net of 64 to 1024 features: the sum of its convolutions, counted by hand."""
    layers = [(1, 64), (64, 64), (64, 64)]  # three at the finest level
    for width in (64, 128, 256, 512):
        layers += [(width, 2 * width), (2 * width, 2 * width)]  # down
        layers += [(2 * width, width), (width, width)]  # up, with the features from across
    weights = sum(9 * a * b for a, b in layers)
    norms = sum(2 * b for _, b in layers)
    grown = sum(4 * 2 * w * w + w for w in (64, 128, 256, 512))
    last = 64 + 1
    problem = Problem(Identity(Space((32, 32))), torch.zeros(32, 32))
    with torch.device("meta"):
        network = make_fbp_convnet(problem)
    assert sum(p.numel() for p in network.parameters()) == weights + norms + grown + last


@pytest.mark.parametrize("name", CASES)
def test_any_operator_will_do_and_a_step_down_the_gradient_helps(name: str) -> None:
    problem, truth = CASES[name]()
    network = make_fbp_convnet(problem, depth=2, features=4, padding="zero", scale=2.0)
    assert network(problem).dtype == truth.dtype
    before, after = fall_of_loss(network, problem, truth)
    assert after < before


@pytest.mark.parametrize("padding", ["reflect", "zero"])
@pytest.mark.parametrize("sizes", [(8, 8), (9, 11), (5, 30), (12, 4)])
def test_any_size_comes_back_as_it_was(sizes: tuple[int, int], padding: str) -> None:
    network = unet(padding=padding)
    x = torch.randn(2, 1, *sizes)
    assert network(x).shape == x.shape


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_padding_is_that_of_the_image(axes: int) -> None:
    """Padding by hand before, and cropping after, is what the network does itself."""
    network = unet(axes=axes)
    sizes = (10, 13, 11)[:axes]
    x = torch.randn(1, 1, *sizes)
    before, after = (1, 1, 0)[:axes], (1, 2, 1)[:axes]
    pads = [p for pair in zip(before[::-1], after[::-1], strict=True) for p in pair]
    padded = nn.functional.pad(x, pads, mode="reflect")
    inside = (..., *[slice(b, b + n) for b, n in zip(before, sizes, strict=True)])
    torch.testing.assert_close(network(x), network(padded)[inside], rtol=1e-4, atol=1e-5)


def test_zero_padding_continues_by_zeros() -> None:
    network = unet(padding="zero", residual=False)
    x = torch.randn(1, 1, 8, 6)
    wide = nn.functional.pad(x, [1, 1])
    torch.testing.assert_close(network(x), network(wide)[..., 1:-1])
    assert not torch.allclose(network(x), unet(residual=False)(x))


def test_the_receptive_field_spans_the_levels() -> None:
    """A sample is felt as far away as two levels of halving reach, and no farther."""
    network = unet(axes=1, levels=2, residual=False)
    x = torch.randn(1, 1, 128, requires_grad=True)
    network(x)[0, 0, 64].backward()
    assert x.grad is not None
    felt = x.grad[0, 0].nonzero().flatten()
    reach = int(max(64 - felt.min(), felt.max() - 64))
    # Two convolutions a level and way: 2·(1 + 2) of the finer ones twice, 2·4 of the coarsest,
    # and at most 3 of each halving and doubling.
    assert 14 < reach <= 2 * (2 + 4) + 8 + 6


def test_a_denoiser_made_of_it_scales_and_knows_its_channels() -> None:
    network = unet()
    x = torch.randn(2, 9, 9)
    mended = Denoiser(network, scale=100.0).prox(100 * x, 0.3)
    torch.testing.assert_close(mended, 100 * network(x[:, None])[:, 0])
    with pytest.raises(PriorError, match="takes images of 1 real channel"):
        Denoiser(network).prox(torch.randn(2, 9, 9, dtype=torch.complex64), 1.0)


def test_batch_normalisation_rests_in_evaluation() -> None:
    network = unet(normalise=True).eval()
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]))
    assert not torch.allclose(network.train()(x)[1:2], network.eval()(x[1:2]))


def test_weights_come_from_the_seed_alone() -> None:
    problem, _ = blur_1d()
    options = {"depth": 2, "features": 4, "normalise": False}
    first, again, other = (make_fbp_convnet(problem, seed=s, **options) for s in (1, 1, 2))
    assert torch.equal(first(problem), again(problem))
    assert not torch.equal(first(problem), other(problem))
    assert host().get("networks", "fbp-convnet") is make_fbp_convnet


def test_wrong_options_are_refused() -> None:
    with pytest.raises(PriorError, match="too small to be reflected to a multiple of 16"):
        UNet(features=2, levels=4)(torch.zeros(1, 1, 5, 32))
    bad: list[tuple[dict, str]] = [
        ({"axes": 4}, "axes is 1, 2 or 3"),
        ({"padding": "wrap"}, '"reflect" or "zero"'),
        ({"levels": 0}, "levels must be a whole number"),
        ({"features": 0}, "features"),
        ({"channels": 0}, "channels"),
        ({"first": 0}, "first"),
        ({"normalise": 1}, "normalise"),
        ({"channels": 1, "outputs": 2}, "residual with 1 channels in and 2 out"),
    ]
    for options, told in bad:
        with pytest.raises(PriorError, match=told):
            UNet(**{"features": 2, "levels": 1, **options})
    problem, _ = blur_1d()
    with pytest.raises(SolverError, match="depth must be a whole number"):
        make_fbp_convnet(problem, depth=0)


def test_outputs_may_differ_without_the_residual() -> None:
    made: Tensor = unet(channels=3, outputs=2, residual=False)(torch.randn(1, 3, 8, 8))
    assert made.shape == (1, 2, 8, 8)
