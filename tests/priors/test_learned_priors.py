"""Priors made of networks: transform pairs, denoisers, and the edge between images and them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from labrecon.networks.softplus_law import SoftplusLaw
from labrecon.operator import Operator
from labrecon.operators import Wavelet
from labrecon.prior import ImplicitPriorError, PriorError, soft_threshold
from labrecon.priors import WaveletL1
from labrecon.priors.denoisers import Denoiser, DnCNN
from labrecon.priors.drunet import DRUNet
from labrecon.priors.transform_pair import TransformPair, convolutional_pair
from labrecon.schedule import Schedule
from labrecon.seeds import seeded
from labrecon.space import Space

F64, C128 = torch.float64, torch.complex128


def draw(*shape: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def made_pair(**options) -> TransformPair:
    with seeded(0):
        return convolutional_pair(2, **{"features": 4, **options}).double()


def wavelet(size: int = 8) -> Operator:
    """Applied to ``(batch, 1, 8, 8)`` it transforms each channel."""
    return Wavelet(Space((size, size), F64), "db2", 2)


class Times(nn.Module):
    def __init__(self, factor: float, module: nn.Module | None = None) -> None:
        super().__init__()
        self.factor, self.module = factor, module

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * (x if self.module is None else self.module(x))


# -- transform pairs -----------------------------------------------------------------------------


def test_an_orthonormal_wavelet_makes_the_pair_its_prox() -> None:
    w, x = wavelet(), draw(3, 8, 8)
    expected = WaveletL1(0.5, wavelet="db2", levels=2).prox(x, 0.5)
    pair = TransformPair(w, w.H, threshold=0.25).double()
    torch.testing.assert_close(pair.prox(x, 0.5), expected, rtol=0, atol=1e-14)
    # x + G H̃ soft(H D x) with D = 1, and a detail that the correction brings.
    residual = TransformPair(
        w, w.H, extract=Times(1.0), combine=Times(1.0), threshold=0.25
    ).double()
    torch.testing.assert_close(residual.prox(x, 0.5), x + expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("residual", [False, True])
def test_symmetry_is_zero_where_the_pair_inverts_itself_and_only_there(residual: bool) -> None:
    w, x = wavelet(), draw(3, 8, 8)
    ends = {"extract": Times(3.0), "combine": Times(1.0)} if residual else {}
    pair = TransformPair(w, w.H, **ends).double()
    assert float(pair.prox_and_losses(x, 1.0)[1]["symmetry"]) < 1e-28
    # F̃F = 1.5: the error is half of what goes in.
    pair = TransformPair(w, Times(1.5, w.H), **ends).double()
    expected = 0.25 * (9.0 if residual else 1.0) * x.square().mean()
    torch.testing.assert_close(pair.prox_and_losses(x, 1.0)[1]["symmetry"], expected)


def test_losses_are_told_in_training_mode_and_do_not_change_the_image() -> None:
    pair, x = made_pair(sparsity=True), draw(2, 6, 5)
    image, losses = pair.prox_and_losses(x, 1.0)
    assert set(losses) == {"symmetry", "sparsity"}
    assert all(loss.ndim == 0 and loss.requires_grad for loss in losses.values())
    features = pair.analysis(pair.extract(x[:, None]))
    torch.testing.assert_close(losses["sparsity"], features.abs().mean())
    pair.eval()
    again, losses = pair.prox_and_losses(x, 1.0)
    assert losses == {}
    torch.testing.assert_close(again, image)


@pytest.mark.parametrize("threshold", [0.03, -0.05])
def test_the_block_of_ista_net_plus_by_its_formula(threshold: float) -> None:
    """Written out with the functions of torch, as the paper has it; thresholds of both signs."""
    pair, x = made_pair(threshold=threshold).float(), draw(2, 7, 6).float()
    d, g = pair.extract.weight, pair.combine.weight
    h1, h2 = pair.analysis[0].weight, pair.analysis[2].weight
    b1, b2 = pair.synthesis[0].weight, pair.synthesis[2].weight

    def conv(u: Tensor, w: Tensor) -> Tensor:
        return conv2d(u, w, padding=1)

    image = x[:, None]
    seen = conv(image, d)
    features = conv(conv(seen, h1).relu(), h2)
    shrunk = features.sign() * (features.abs() - threshold).relu()
    back = conv(conv(shrunk, b1).relu(), b2)
    expected = (image + conv(back, g))[:, 0]
    made, losses = pair.prox_and_losses(x, 1.0)
    torch.testing.assert_close(made, expected)
    inverse = conv(conv(features, b1).relu(), b2)
    torch.testing.assert_close(losses["symmetry"], (inverse - seen).square().mean())


def test_a_negative_threshold_lengthens_with_the_right_derivative() -> None:
    """|x| far below |t|: a quotient of the two would lose the derivative to rounding."""
    x = torch.tensor([0.0, 1e-9, -1e-7, 2.0, -0.5], requires_grad=True)
    t = torch.tensor(-0.02, requires_grad=True)
    y = soft_threshold(x, t)
    torch.testing.assert_close(y, torch.tensor([0.0, 0.02, -0.02, 2.02, -0.52]))
    by_x, by_t = torch.autograd.grad(y.sum(), (x, t))
    torch.testing.assert_close(by_x[1:], torch.ones(4))
    torch.testing.assert_close(by_t, torch.tensor(0.0))  # −Σ sign x


def test_complex_images_are_two_channels_and_slices_are_images() -> None:
    pair, z = made_pair(channels=2).eval(), draw(2, 3, 6, 5, dtype=C128)
    made = pair.prox(z, 1.0)
    assert made.dtype == C128
    stacked = torch.stack([z.real, z.imag], -3).reshape(6, 2, 6, 5)
    expected = stacked + pair.combine(
        pair.synthesis(soft_threshold(pair.analysis(pair.extract(stacked)), 0.01))
    )
    expected = expected.reshape(2, 3, 2, 6, 5)
    torch.testing.assert_close(made, torch.complex(expected[:, :, 0], expected[:, :, 1]))
    torch.testing.assert_close(made[1, 2], pair.prox(z[1, 2], 1.0))


@pytest.mark.parametrize("make", [
    lambda s: made_pair(scale=s),
    lambda s: Denoiser(seeded_network(DnCNN(depth=3, features=4)), scale=s),
    lambda s: Denoiser(seeded_network(DRUNet(features=4)), scale=s, noise_level=0.1 * s),
], ids=["pair", "DnCNN", "DRUNet"])  # fmt: skip
def test_scale_is_the_unit_of_the_object(make) -> None:
    x = draw(2, 8, 8)
    torch.testing.assert_close(
        make(1e4).eval().prox(1e4 * x, 1.0), 1e4 * make(1.0).eval().prox(x, 1.0)
    )


def test_a_law_of_the_layer_with_one_network() -> None:
    pair, x = made_pair(threshold=SoftplusLaw(-0.5, 0.0)), draw(2, 8, 8)
    for k in (0, 1, 4):
        plain = made_pair(threshold=float(torch.nn.functional.softplus(torch.tensor(-0.5 * k))))
        torch.testing.assert_close(pair.layer(k).prox(x, 1.0), plain.prox(x, 1.0))
    view = pair.layer(3)
    assert [id(p) for p in view.parameters()] == [id(p) for p in pair.parameters()]
    assert view.eval() is view
    view.prox(x, 1.0).sum().backward()
    assert pair.threshold.raw.grad is not None
    assert pair.k == 0


def test_nonneg_cuts_at_zero_and_refuses_complex_images() -> None:
    x = draw(2, 8, 8)
    free, cut = made_pair(), made_pair(nonneg=True)
    torch.testing.assert_close(cut.prox(x, 1.0), free.prox(x, 1.0).clamp_min(0))
    with pytest.raises(PriorError, match="real images"):
        cut.prox(x.to(C128), 1.0)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_pairs_of_one_two_and_three_axes(axes: int) -> None:
    with seeded(1):
        pair = convolutional_pair(axes, features=3).double()
    x = draw(2, *[5, 4, 3][:axes])
    made = pair.prox(x, 1.0)
    assert made.shape == x.shape
    assert bool((made != x).any())


def test_a_pair_has_no_penalty_and_one_threshold() -> None:
    pair = made_pair()
    with pytest.raises(ImplicitPriorError):
        pair.penalty(draw(8, 8))
    assert tuple(pair.threshold.raw.shape) == (1,)
    assert float(pair.threshold(0).detach()) == pytest.approx(0.01)


def test_wrong_options_of_pairs() -> None:
    w = wavelet()
    for options, match in (
        ({"extract": Times(1.0)}, "both"),
        ({"threshold": "small"}, "threshold"),
        ({"scale": 0.0}, "scale"),
        ({"nonneg": 1}, "nonneg"),
        ({"axes": 0}, "axes"),
    ):
        with pytest.raises(PriorError, match=match):
            TransformPair(w, w.H, **options)
    for options, match in (
        ({"axes": 4}, "1, 2 or 3"),
        ({"axes": 2, "features": 0}, "features"),
        ({"axes": 2, "convolutions": 1.5}, "convolutions"),
        ({"axes": 2, "channels": 0}, "channels"),
    ):
        with pytest.raises(PriorError, match=match):
            convolutional_pair(**options)
    with pytest.raises(PriorError, match="2 image axes"):
        made_pair().prox(draw(8), 1.0)


# -- denoisers -----------------------------------------------------------------------------------


def seeded_network(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for p in network.parameters():
        nn.init.normal_(p, std=0.2, generator=generator)
    return network.double()


def test_dncnn_subtracts_what_it_finds() -> None:
    network = DnCNN(2, features=3, depth=4).double()
    x = draw(2, 2, 9, 7)
    for p in network.residual[-1].parameters():
        nn.init.zeros_(p)
    torch.testing.assert_close(network(x), x)
    kinds = [type(m).__name__ for m in network.residual]
    block = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds == ["Conv2d", "ReLU", *block, *block, "Conv2d"]


def test_the_published_size_of_dncnn() -> None:
    """17 convolutions of 64 features, with mean, variance and two factors per normalised one."""
    parameters = 9 * (64 + 15 * 64 * 64 + 64) + 15 * 2 * 64
    assert sum(p.numel() for p in DnCNN().parameters()) == parameters


def test_spectral_dncnn_has_a_nonexpansive_residual() -> None:
    with seeded(2):
        network = DnCNN(features=6, depth=4, batch_norm=False, spectral=True).double()
        plain = DnCNN(features=6, depth=4, batch_norm=False).double()
    for p in plain.parameters():
        p.detach().mul_(3)

    def expansion(net: DnCNN, x: Tensor) -> float:
        """The largest singular value of the Jacobian of the residual, by power iteration."""
        v = draw(*x.shape, seed=5)
        for _ in range(30):
            v = v / v.norm()
            _, jv = torch.autograd.functional.jvp(net.residual, x, v)
            _, v = torch.autograd.functional.vjp(net.residual, x, jv)
        return float(v.norm()) ** 0.5

    for seed in range(3):
        x = draw(1, 1, 12, 12, seed=seed)
        assert expansion(network, x) <= 1.0
    assert expansion(plain, x) > 1.0
    with pytest.raises(PriorError, match="batch_norm"):
        DnCNN(spectral=True)


@pytest.mark.parametrize("sizes", [(7,), (9, 6), (3, 5, 4)])
def test_drunet_scales_with_image_and_noise(sizes: tuple[int, ...]) -> None:
    """Without biases D(a x, a σ) = a D(x, σ); sizes need not be powers of two."""
    network = seeded_network(DRUNet(2, axes=len(sizes), features=3, levels=3, blocks=1))
    x, sigma = draw(2, 2, *sizes), torch.full((2, 1, *sizes), 0.3, dtype=F64)
    made = network(torch.cat([x, sigma], 1))
    assert made.shape == x.shape
    torch.testing.assert_close(network(7.3 * torch.cat([x, sigma], 1)), 7.3 * made)
    louder = network(torch.cat([x, 2 * sigma], 1))
    assert float((louder - made).norm().detach()) > 1e-3 * float(made.norm().detach())


def test_drunet_treats_a_padded_image_like_its_continuation() -> None:
    network = seeded_network(DRUNet(features=3, levels=2, blocks=1))
    x = draw(1, 1, 7, 8)
    longer = torch.cat([x, x[:, :, -1:]], 2)
    level = torch.full((1, 1, 8, 8), 0.1, dtype=F64)
    expected = network(torch.cat([longer, level], 1))[:, :, :7]
    torch.testing.assert_close(network(torch.cat([x, level[:, :, :7]], 1)), expected)


def test_drunet_hands_fine_features_across() -> None:
    """Whatever does not fit through the coarse levels: here they are silenced."""
    network = seeded_network(DRUNet(features=3, levels=2, blocks=1))
    x = torch.cat([draw(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.1, dtype=F64)], 1)
    for up in network.up:
        nn.init.zeros_(up.weight)
    fine = network.decode[0](network.encode[0](network.head(x)))
    torch.testing.assert_close(network(x), x[:, :1] - network.tail(fine))


class Echo(nn.Module):
    """Returns its image and keeps what it saw."""

    def __init__(self, *, noise_channel: bool = False, gain: float = 1.0) -> None:
        super().__init__()
        self.noise_channel, self.gain, self.seen = noise_channel, gain, torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return self.gain * (x[:, :-1] if self.noise_channel else x)


def test_the_noise_level_is_a_channel_in_the_units_of_the_network() -> None:
    echo = Echo(noise_channel=True)
    x = draw(2, 3, 6, 6)
    prior = Denoiser(echo, noise_level=Schedule([0.4, 0.2]), scale=2.0)
    torch.testing.assert_close(prior.prox(x, 9.0), x)
    for k, level in ((0, 0.2), (1, 0.1), (5, 0.1)):
        prior.layer(k).prox(x, 9.0)
        torch.testing.assert_close(echo.seen[:, 1], torch.full((6, 6, 6), level, dtype=F64))
    Denoiser(echo, weight=0.25, scale=2.0).prox(x, 0.04)
    torch.testing.assert_close(echo.seen[:, 1], torch.full((6, 6, 6), 0.05, dtype=F64))
    steps = torch.tensor([0.04, 0.16], dtype=F64)[:, None, None, None]
    Denoiser(echo, weight=0.25).prox(x, steps)
    expected = torch.tensor([0.1, 0.2], dtype=F64).repeat_interleave(3)
    torch.testing.assert_close(echo.seen[:, 1, 0, 0], expected)


def test_input_range_is_that_of_the_published_code() -> None:
    """To [0, 1] by each image's own extremes, then widened by σ/2 about ½ (Ryu et al. 2019)."""
    x, sigma = 30 + 5 * draw(2, 6, 6), 15 / 255
    span = 1 + sigma / 2
    shift = (1 - span) / 2
    echo = Echo(gain=0.9)
    made = Denoiser(echo, input_range=((1 - span) / 2, (1 + span) / 2)).prox(x, 1.0)
    for image, out, seen in zip(x, made, echo.seen[:, 0], strict=True):
        low, high = image.min(), image.max()
        expected = (image - low) / (high - low) * span + shift
        torch.testing.assert_close(seen, expected)
        expected = ((0.9 * expected - shift) / span) * (high - low) + low
        torch.testing.assert_close(out, expected)
    told = Echo(noise_channel=True)
    Denoiser(told, noise_level=2.0, input_range=(0.0, 1.0)).prox(x, 1.0)
    expected = 2.0 / (x.amax((1, 2)) - x.amin((1, 2)))  # the noise is stretched with the image
    torch.testing.assert_close(told.seen[:, 1, 0, 0], expected)
    flat = torch.full((6, 6), 3.0, dtype=F64)
    assert bool(torch.isfinite(Denoiser(echo, input_range=(0.0, 1.0)).prox(flat, 1.0)).all())


def test_ways_to_treat_complex_images() -> None:
    z = draw(2, 8, 8, dtype=C128)
    network = seeded_network(DnCNN(features=3, depth=3, batch_norm=False))
    parts = Denoiser(network, complex_as="parts").prox(z, 1.0)
    real = Denoiser(network)
    torch.testing.assert_close(parts, torch.complex(real.prox(z.real, 1.0), real.prox(z.imag, 1.0)))
    modulus = Denoiser(network, complex_as="modulus").prox(z, 1.0)
    torch.testing.assert_close(modulus, real.prox(z.abs(), 1.0).to(C128))
    with pytest.raises(PriorError, match="complex_as"):
        real.prox(z, 1.0)
    pair = seeded_network(DnCNN(2, features=3, depth=3, batch_norm=False))
    channels = pair(torch.stack([z.real, z.imag], 1))
    made = Denoiser(pair).prox(z, 1.0)
    torch.testing.assert_close(made, torch.complex(channels[:, 0], channels[:, 1]))
    with pytest.raises(PriorError, match="2 real"):
        Denoiser(pair).prox(z.real, 1.0)


@pytest.mark.parametrize(
    ("network", "options", "match"),
    [
        (DnCNN(depth=2), {"noise_level": 0.1}, "one noise level"),
        (DnCNN(depth=2), {"weight": 0.1}, "one noise level"),
        (DRUNet(features=2), {}, "needs noise_level or weight"),
        (DRUNet(features=2), {"noise_level": 0.1, "weight": 1.0}, "not both"),
        (DRUNet(features=2), {"noise_level": -0.1}, "noise_level"),
        (DRUNet(features=2), {"weight": float("nan")}, "weight"),
        (DnCNN(depth=2), {"scale": -1.0}, "scale"),
        (DnCNN(depth=2), {"input_range": (1.0, 0.0)}, "high end"),
        (DnCNN(depth=2), {"input_range": 1.0}, "pair"),
        (DnCNN(depth=2), {"complex_as": "phase"}, "channels, parts, modulus"),
        (DnCNN(depth=2), {"axes": 0}, "axes"),
    ],
)
def test_wrong_options_of_denoisers(network: nn.Module, options: dict, match: str) -> None:
    with pytest.raises(PriorError, match=match):
        Denoiser(network, **options)


@pytest.mark.parametrize("make", [DnCNN, DRUNet])
def test_wrong_sizes_of_networks(make: type[nn.Module]) -> None:
    for options in ({"axes": 4}, {"channels": 0}, {"features": 1.5}):
        with pytest.raises(PriorError, match=make.__name__):
            make(**options)
    with pytest.raises(PriorError, match="2 image axes"):
        Denoiser(DnCNN(depth=2)).prox(draw(8), 1.0)
