"""Spectral normalisation: the norm is that of the convolution, on images of any size."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from labrecon.prior import PriorError
from labrecon.priors.spectral import SpectralNorm, spectral_normalised
from labrecon.seeds import seeded


def dense_norm(weight: Tensor, n: int) -> float:
    """The largest singular value of the matrix of the zero-padded convolution, written out."""
    axes = weight.ndim - 2
    inputs = weight.shape[1]
    basis = torch.eye(inputs * n**axes, dtype=weight.dtype)
    images = basis.reshape(-1, inputs, *(n,) * axes)
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[axes]
    columns = convolve(images, weight, padding=weight.shape[-1] // 2)
    return float(torch.linalg.matrix_norm(columns.detach().flatten(1), 2))


def layer(axes: int, inputs: int, outputs: int, taps: int = 3) -> nn.Module:
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
    with seeded(3):
        return kind(inputs, outputs, taps, padding=taps // 2, dtype=torch.float64)


@pytest.mark.parametrize(("axes", "n"), [(1, 60), (2, 14), (3, 6)])
def test_norm_is_that_of_the_dense_matrix(axes: int, n: int) -> None:
    weight = spectral_normalised(layer(axes, 2, 3)).weight
    # A finite image meets the bound from below, the nearer the larger it is.
    assert (0.9 if axes < 3 else 0.75) < dense_norm(weight, n) < 1.01


def test_norm_of_a_periodic_convolution_is_exact() -> None:
    conv = layer(2, 4, 5)
    norm = SpectralNorm(conv.weight, size=12, iterations=200)
    norm(conv.weight)
    spectrum = torch.fft.fftn(conv.weight, s=(12, 12), dim=(2, 3)).permute(2, 3, 0, 1)
    expected = torch.linalg.matrix_norm(spectrum, 2).max()
    torch.testing.assert_close(norm.norm(conv.weight), expected, rtol=1e-6, atol=0)


def test_torch_would_normalise_another_matrix() -> None:
    """A kernel of equal taps: its reshaped norm is short by the root of the number of taps."""
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(conv.weight)
    torchs = nn.utils.parametrizations.spectral_norm(copy.deepcopy(conv))
    assert dense_norm(torchs.weight.detach(), 16) > 2.9
    assert dense_norm(spectral_normalised(conv).weight.detach(), 16) < 1.0001


def test_derivative_of_the_norm_is_exact() -> None:
    conv = layer(2, 3, 4)
    norm = SpectralNorm(conv.weight, size=8, iterations=200)
    norm(conv.weight)
    (ours,) = torch.autograd.grad(norm.norm(conv.weight), conv.weight)
    spectrum = torch.fft.fftn(conv.weight, s=(8, 8), dim=(2, 3)).permute(2, 3, 0, 1)
    (exact,) = torch.autograd.grad(torch.linalg.matrix_norm(spectrum, 2).max(), conv.weight)
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-7)


def test_norm_follows_training_and_stays_within_a_step() -> None:
    conv = spectral_normalised(layer(2, 6, 6))
    optimiser = torch.optim.SGD(conv.parameters(), lr=0.1)
    images = torch.randn(2, 6, 10, 10, dtype=torch.float64, generator=torch.Generator())
    for _ in range(30):
        optimiser.zero_grad()
        once, again = conv(images), conv(images)
        assert torch.equal(once, again)
        (once.square().mean() + again.mean()).backward()
        optimiser.step()
    conv(images)
    exact = SpectralNorm(conv.weight.detach())
    assert abs(float(exact.norm(conv.weight).detach()) - 1) < 1e-2
    conv.eval()
    before = {name: value.clone() for name, value in conv.state_dict().items()}
    with torch.no_grad():
        conv.parametrizations.weight.original.mul_(3)
    conv(images)
    assert torch.equal(
        conv.state_dict()["parametrizations.weight.0.vectors"],
        before["parametrizations.weight.0.vectors"],
    )


def test_wrong_networks_are_refused() -> None:
    with pytest.raises(PriorError, match="no convolution"):
        spectral_normalised(nn.ReLU())
    with pytest.raises(PriorError, match="strides"):
        spectral_normalised(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, stride=2)))
    with pytest.raises(PriorError, match="all 0"):
        SpectralNorm(torch.zeros(1, 1, 3, 3))
    with pytest.raises(PriorError, match="bound"):
        SpectralNorm(torch.ones(1, 1, 3, 3), bound=0.0)
    with pytest.raises(PriorError, match="taps"):
        SpectralNorm(torch.ones(1, 1, 9, 9), size=8)
