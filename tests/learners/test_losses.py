"""Losses and metrics by their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from labrecon.learners.losses import l1, mse, one_minus_ssim, pick_loss
from labrecon.metrics import nrmse, psnr, ssim


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 20, 24, generator=generator, dtype=torch.float64)
    return truth + 0.1 * torch.randn(3, 20, 24, generator=generator, dtype=torch.float64), truth


def test_mse_and_l1_count_both_parts_of_complex_samples():
    x, t = torch.tensor([3 + 4j, 0j]), torch.zeros(2, dtype=torch.complex64)
    assert float(mse(x, t)) == pytest.approx(12.5)
    assert float(l1(x, t)) == pytest.approx(2.5)


def test_ssim_loss_is_that_of_scikit_image(images):
    metrics = pytest.importorskip("skimage.metrics")
    estimate, truth = images
    expected = [
        metrics.structural_similarity(
            t,
            e,
            data_range=t.max() - t.min(),
            gaussian_weights=True,
            use_sample_covariance=False,
            sigma=1.5,
        )
        for e, t in zip(estimate.numpy(), truth.numpy(), strict=True)
    ]
    assert 1 - float(one_minus_ssim(estimate, truth)) == pytest.approx(np.mean(expected), abs=1e-3)
    each = np.mean([ssim(e, t) for e, t in zip(estimate, truth, strict=True)])
    assert 1 - float(one_minus_ssim(estimate, truth)) == pytest.approx(each, abs=1e-12)


@pytest.mark.parametrize("loss", [mse, l1, one_minus_ssim])
def test_losses_have_the_gradient_of_finite_differences(loss, images):
    estimate, truth = (v[:1, :12, :13] for v in images)
    point = estimate.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, truth), (point,))


def test_ssim_loss_of_a_constant_truth_is_finite():
    x = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = one_minus_ssim(x, torch.ones(1, 16, 16))
    loss.backward()
    assert bool(torch.isfinite(x.grad).all())


def test_names_and_hooks():
    assert pick_loss("mse", (4,)) is mse
    assert pick_loss(l1, (4,)) is l1
    assert pick_loss("labrecon.learners.losses:l1", (4,)) is l1
    for path, told in (("nowhere:loss", "No module"), ("math:pi", "is a float, expected a fun")):
        with pytest.raises(ValueError, match=told):
            pick_loss(path, (4,))
    with pytest.raises(ValueError, match=r"one of mse, l1, ssim, or .*got 'mae'"):
        pick_loss("mae", (4,))
    with pytest.raises(ValueError, match="at least 11 pixels along two axes"):
        pick_loss("ssim", (64, 8))


def test_peak_and_data_range_change_the_figures(images):
    estimate, truth = (v[0] for v in images)
    span = float(truth.max() - truth.min())
    assert psnr(estimate, truth, peak=1.0) - psnr(estimate, truth) == pytest.approx(
        -20 * math.log10(span)
    )
    assert ssim(255 * estimate, 255 * truth, data_range=255.0) == pytest.approx(
        ssim(estimate, truth, data_range=1.0)
    )
    assert psnr(estimate, torch.ones_like(truth)) == -math.inf


@pytest.mark.parametrize("metric", [psnr, ssim, nrmse])
def test_crop_leaves_the_border_out(metric, images):
    estimate, truth = (v[0] for v in images)
    spoilt = estimate.clone()
    spoilt[:2], spoilt[-2:], spoilt[:, :2], spoilt[:, -2:] = 9, 9, 9, 9
    assert metric(spoilt, truth, crop=2) == metric(estimate[2:-2, 2:-2], truth[2:-2, 2:-2])
    with pytest.raises(ValueError, match="crop 10 leaves nothing"):
        metric(estimate, truth, crop=10)


def test_ssim_of_complex_images_is_that_of_their_moduli():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(24, 24, generator=generator)
    estimate = truth + 0.1 * torch.rand(24, 24, generator=generator)
    turn = torch.polar(torch.ones(24, 24), 6 * torch.rand(24, 24, generator=generator))
    assert abs(ssim(estimate * turn, truth * turn.conj()) - ssim(estimate, truth)) < 1e-5
