"""Fourier shell correlation against closed formulas, a loop over rings, and white noise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from labrecon.fourier_shell import ShellCorrelation, shell_correlation


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def ring_by_ring(first, second, spacing, weights):
    """The definition, as a loop: each sample is put into its ring by itself."""
    first = weights * (first - (weights * first).sum() / weights.sum())
    second = weights * (second - (weights * second).sum() / weights.sum())
    a, b = np.fft.fftn(first), np.fft.fftn(second)
    smallest = min(spacing)
    step = min(smallest / (n * d) for n, d in zip(a.shape, spacing, strict=True))
    rings = {}
    for index in np.ndindex(a.shape):
        radius = 0.0
        for i, n, d in zip(index, a.shape, spacing, strict=True):
            signed = i if i < (n + 1) // 2 else i - n
            radius += (signed * smallest / (n * d)) ** 2
        ring = round(math.sqrt(radius) / step)
        if 0 < ring <= int(0.5 / step + 1e-9):
            rings.setdefault(ring, []).append((a[index], b[index]))
    found = {}
    for ring, members in sorted(rings.items()):
        top = sum((x * np.conj(y)).real for x, y in members)
        below = sum(abs(x) ** 2 for x, _ in members) * sum(abs(y) ** 2 for _, y in members)
        found[ring * step] = (top / math.sqrt(below), len(members))
    return found


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((20, 20), (1.0, 1.0)), ((15, 22), (0.3, 0.2)), ((8, 12, 11), (0.5, 0.1, 0.1))],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_against_a_loop_over_rings(shape, spacing, dtype):
    first = noise(*shape, dtype=dtype)
    second = first + noise(*shape, seed=1, dtype=dtype)
    found = shell_correlation(first, second, ndim=len(shape), spacing=spacing, window="none")
    expected = ring_by_ring(first.numpy(), second.numpy(), spacing, np.ones(shape))
    assert found.frequency.tolist() == pytest.approx(list(expected))
    assert found.correlation.tolist() == pytest.approx([c for c, _ in expected.values()])
    assert found.samples.tolist() == pytest.approx([n for _, n in expected.values()])


@pytest.mark.parametrize(("window", "alpha"), [("tukey", 0.25), ("hann", 1.0)])
def test_window_and_mask_are_those_of_scipy(window, alpha):
    from scipy.signal.windows import tukey

    first, second = noise(24, 30), noise(24, 30, seed=1)
    second = second + first
    mask = torch.linspace(0, 1, 30, dtype=torch.float64)
    found = shell_correlation(first, second, window=window, mask=mask)
    # The samples of SciPy's window at half-integer places.
    rows, columns = (tukey(2 * n + 1, alpha)[1::2] for n in (24, 30))
    weights = rows[:, None] * columns * mask.numpy()
    expected = ring_by_ring(first.numpy(), second.numpy(), (1, 1), weights)
    assert found.correlation.tolist() == pytest.approx([c for c, _ in expected.values()])
    share = (weights**2).sum() ** 2 / (weights**4).sum() / weights.size
    assert found.samples.tolist() == pytest.approx([n * share for _, n in expected.values()])


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_a_volume_agrees_with_itself_at_any_scale(ndim, dtype):
    x = noise(16, 18, 20, dtype=dtype)
    for other in (x, 7.5 * x, 1e-6 * x, 0.1 * x + 3):
        found = shell_correlation(x, other, ndim=ndim)
        assert found.correlation.numpy() == pytest.approx(1, abs=1e-4)
        assert found.resolution("half-bit") == pytest.approx(0.5)
    assert shell_correlation(x, -x, ndim=ndim).correlation.numpy() == pytest.approx(-1)


def test_only_the_common_phase_counts_of_complex_volumes():
    x = noise(32, 32, dtype=torch.complex128)
    quarter = shell_correlation(x, 1j * x)
    assert quarter.correlation.abs().max() < 1e-12
    turned = shell_correlation(x, np.exp(0.5j) * x)
    assert turned.correlation.numpy() == pytest.approx(math.cos(0.5))


@pytest.mark.parametrize("window", ["none", "tukey", "hann"])
@pytest.mark.parametrize(("shape", "ndim"), [((96, 96), 2), ((5, 40, 40), 2), ((24, 24, 24), 3)])
def test_independent_noise(shape, ndim, window):
    """0 ± 1/√n, for the n that a window leaves."""
    scores = []
    for seed in range(40):
        found = shell_correlation(
            noise(*shape, seed=2 * seed), noise(*shape, seed=2 * seed + 1), ndim=ndim, window=window
        )
        scores.append(found.correlation * found.samples.sqrt())
        assert found.resolution("half-bit") is None or found.resolution("half-bit") < 0.1
    scores = torch.stack(scores)
    assert abs(float(scores.mean())) < 0.06
    # The rings are thinner than the window's line, so that a few more are independent of it.
    low, high = (0.93, 1.07) if window == "none" else (0.5, 1.07)
    assert low < float(scores.std()) < high
    assert float((scores.abs() > 3).double().mean()) < 0.006


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_signal_in_white_noise_has_the_analytic_correlation(dtype):
    """``FSC = SNR/(1 + SNR)`` with the SNR of each ring, and 0 beyond the object's band."""
    n, cut, sigma = 128, 0.3, 0.3
    k = torch.fft.fftfreq(n, dtype=torch.float64)
    radius = (k[:, None] ** 2 + k**2).sqrt()
    amplitude = torch.where(radius < cut, torch.exp(-6 * radius), 0.0)
    found, expected = [], []
    for seed in range(12):
        spectrum = torch.fft.fft2(noise(n, n, seed=100 + seed, dtype=dtype)) * amplitude
        x = torch.fft.ifft2(spectrum)
        x = x if dtype.is_complex else x.real
        halves = [x + sigma * noise(n, n, seed=3 * seed + i, dtype=dtype) for i in (0, 1)]
        found.append(shell_correlation(*halves, window="none").correlation)
    rings = (radius * n).round()
    for ring in range(1, n // 2 + 1):
        snr = float((amplitude[rings == ring] ** 2).mean()) / sigma**2
        expected.append(snr / (1 + snr))
    difference = (torch.stack(found).mean(0) - torch.tensor(expected)).abs()
    counts = torch.bincount(rings.flatten().long())[1 : n // 2 + 1]
    assert bool((difference < 4.5 / (12 * counts).sqrt() + 0.01).all())
    told = shell_correlation(*halves, window="none")
    mean = replace(told, correlation=torch.stack(found).mean(0))
    # SNR = 1 where exp(−6 k) = σ.
    assert mean.resolution("1/2") == pytest.approx(-math.log(sigma) / 6, abs=0.015)
    assert mean.resolution("1/7") == pytest.approx(cut, abs=0.015)


def test_thresholds():
    found = shell_correlation(noise(64, 64), noise(64, 64, seed=1), window="none")
    assert found.threshold("1/7").unique().tolist() == [pytest.approx(1 / 7)]
    assert found.threshold("1/2").unique().tolist() == [0.5]
    snr = (math.sqrt(2) - 1) / 2  # ½ log₂(1 + 2 · 0.2071) bits for all data
    for n, told in zip(found.samples.tolist(), found.threshold("half-bit").tolist(), strict=True):
        top = snr + (2 * math.sqrt(snr) + 1) / math.sqrt(n)
        assert told == pytest.approx(top / (1 + snr + 2 * math.sqrt(snr) / math.sqrt(n)), abs=1e-4)
    many = found.threshold("half-bit")[-1]
    assert 0.1716 < float(many) < 0.3
    with pytest.raises(ValueError, match="half-bit"):
        found.threshold("0.143")


def test_resolution_is_the_first_crossing_and_interpolated():
    frequency = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    many = torch.full((5,), 1e9)

    def at(*correlation, samples=many):
        told = ShellCorrelation(frequency, torch.tensor(correlation), samples)
        return told.resolution("1/2")

    assert at(1.0, 0.9, 0.4, 0.9, 0.1) == pytest.approx(0.2 + 0.1 * 0.8)
    assert at(1.0, 0.9, 0.8, 0.7, 0.6) == pytest.approx(0.5)
    assert at(0.3, 0.9, 0.9, 0.9, 0.9) is None
    # A ring of one sample shows nothing.
    few = torch.tensor([1.0, 1e9, 1e9, 1e9, 1e9])
    assert at(0.3, 0.9, 0.9, 0.4, 0.9, samples=few) == pytest.approx(0.3 + 0.1 * 0.8)


def test_anisotropic_voxels_are_compared_at_one_physical_frequency():
    """A low-pass that is round in mm cuts at one radius, whatever the pixels."""
    spacing = (0.2, 0.1)
    ky = torch.fft.fftfreq(100, spacing[0], dtype=torch.float64)
    kx = torch.fft.fftfreq(160, spacing[1], dtype=torch.float64)
    keep = (ky[:, None] ** 2 + kx**2).sqrt() < 2.0
    both = torch.fft.ifft2(torch.fft.fft2(noise(100, 160)) * keep).real
    halves = [both + 0.3 * noise(100, 160, seed=i) for i in (1, 2)]
    found = shell_correlation(*halves, spacing=spacing).resolution("1/2")
    assert found / 0.1 == pytest.approx(2.0, rel=0.04)
    wrong = shell_correlation(*halves).resolution("1/2")
    assert wrong / 0.1 != pytest.approx(2.0, rel=0.2)


def test_an_empty_volume_correlates_with_nothing():
    found = shell_correlation(torch.zeros(16, 16), noise(16, 16, dtype=torch.float32))
    assert found.correlation.abs().max() == 0
    assert found.resolution("1/7") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second": noise(16, 15)}, "one shape"),
        ({"ndim": 1}, "ndim=1"),
        ({"ndim": 3}, "3 axes"),
        ({"spacing": (1.0,)}, "spacing needs 2"),
        ({"spacing": (1.0, -1.0)}, "spacing needs 2"),
        ({"window": "box"}, "window"),
        ({"mask": torch.zeros(16, 16)}, "nothing is left"),
        ({"mask": torch.ones(7)}, "does not fit"),
        ({"mask": -torch.ones(16)}, "not negative"),
        ({"second": torch.full((16, 16), torch.nan)}, "NaN"),
        ({"first": noise(3, 3), "second": noise(3, 3)}, "too small"),
    ],
)
def test_what_is_refused(change, message):
    given = {"first": noise(16, 16), "second": noise(16, 16), **change}
    with pytest.raises(ValueError, match=message):
        shell_correlation(given.pop("first"), given.pop("second"), **given)
