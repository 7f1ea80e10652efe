"""Learned shrinkage, filter banks and support selection."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
from torch import Tensor

from labrecon.networks.admm_csnet import PiecewiseLinearResidual
from labrecon.prior import PriorError, soft_threshold
from labrecon.priors.filter_bank import FilterBank, cosine_atoms
from labrecon.priors.piecewise_linear import PiecewiseLinear
from labrecon.priors.support_selection import SupportSelection
from labrecon.schedule import Schedule


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def random_shrink(channels: int, **options: float) -> PiecewiseLinear:
    shrink = PiecewiseLinear(channels, **options).double()
    with torch.no_grad():
        shrink.values += 0.3 * draw(*shrink.values.shape, seed=5)
    return shrink


def test_it_is_linear_interpolation_with_slope_1_outside() -> None:
    shrink = random_shrink(3)
    x = 2 * draw(2, 3, 5, 4)
    y = shrink(x).detach()
    knots = np.linspace(-1, 1, 101)
    for channel, values in enumerate(shrink.values.detach().numpy()):
        inside = np.interp(x[:, channel].numpy(), knots, values)
        outside = (x[:, channel] - x[:, channel].clamp(-1, 1)).numpy()
        np.testing.assert_allclose(y[:, channel].numpy(), inside + outside, atol=1e-12)


def test_it_starts_as_soft_thresholding_and_as_relu() -> None:
    x = 2 * draw(1, 50)
    soft = PiecewiseLinear(1, threshold=0.1).double()
    # A threshold on a knot is met exactly; between knots a corner is cut.
    torch.testing.assert_close(soft(x, 1), soft_threshold(x, 0.1), atol=1e-6, rtol=0)
    relu = PiecewiseLinear(1, negative="zero").double()
    inner = x.clamp(-1, 1)
    torch.testing.assert_close(relu(inner, 1), inner.relu(), atol=1e-6, rtol=0)


def test_gradients_of_samples_and_values() -> None:
    shrink = random_shrink(2, knots=5)
    x = (1.7 * draw(2, 2, 3)).requires_grad_()
    values = shrink.values.detach().clone().requires_grad_()

    def apply(x: Tensor, values: Tensor) -> Tensor:
        return torch.func.functional_call(shrink, {"values": values}, (x, 1))

    assert torch.autograd.gradcheck(apply, (x, values))


@pytest.mark.parametrize("scale", [0.01, 300.0])
def test_scale_moves_the_knots(scale: float) -> None:
    x = draw(2, 7)
    one, scaled = random_shrink(2), random_shrink(2, scale=scale)
    torch.testing.assert_close(scaled(scale * x, 1), scale * one(x, 1))


def test_parts_of_complex_samples_are_shrunk_each() -> None:
    shrink = random_shrink(2)
    x = draw(2, 4, dtype=torch.complex128)
    torch.testing.assert_close(shrink(x, 1).imag, shrink(x.imag, 1))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"channels": 0}, "channels"),
        ({"channels": 1, "knots": 1}, "knots"),
        ({"channels": 1, "scale": 0.0}, "scale"),
        ({"channels": 1, "threshold": -1.0}, "threshold"),
        ({"channels": 1, "negative": "none"}, "negative"),
    ],
)
def test_wrong_numbers_are_told(options: dict[str, object], told: str) -> None:
    with pytest.raises(PriorError, match=told):
        PiecewiseLinear(**options)  # type: ignore[arg-type]


def test_channels_that_do_not_fit_are_told() -> None:
    with pytest.raises(PriorError, match="3 functions for channels along axis -3"):
        PiecewiseLinear(3)(torch.zeros(2, 8, 8))


@pytest.mark.parametrize("axes", [1, 2])
def test_atoms_are_those_of_the_cosine_transform(axes: int) -> None:
    atoms = cosine_atoms(3, axes)
    for number, atom in enumerate(atoms, start=1):
        expected = torch.zeros(3**axes, dtype=torch.float64)
        expected[number] = 1
        coefficients = scipy.fft.dctn(atom.numpy(), norm="ortho")
        np.testing.assert_allclose(coefficients.ravel(), expected, atol=1e-12)


def learned_bank(axes: int) -> FilterBank:
    bank = FilterBank(axes).double()
    with torch.no_grad():
        bank.coefficients += 0.5 * draw(*bank.coefficients.shape)
    return bank


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_bank_convolves_periodically(axes: int, dtype: torch.dtype) -> None:
    bank = learned_bank(axes)
    x = draw(2, 6, 5, dtype=dtype)
    responses = bank(x).detach()
    assert responses.shape == (*x.shape[:-axes], 3**axes - 1, *x.shape[-axes:])
    for number, kernel in enumerate(bank.filters().detach()):
        kernel = kernel.reshape(*[1] * (3 - axes), *kernel.shape).numpy()
        expected = scipy.ndimage.convolve(x.numpy(), kernel, mode="wrap")
        np.testing.assert_allclose(responses.select(-axes - 1, number), expected, atol=1e-12)


@pytest.mark.parametrize("axes", [1, 2])
def test_adjoint_and_power_of_a_bank(axes: int) -> None:
    bank = learned_bank(axes)
    x, c = draw(2, 6, 5), draw(*bank(draw(2, 6, 5)).shape, seed=1)
    torch.testing.assert_close((bank(x) * c).sum(), (x * bank.adjoint(c)).sum())

    weights = draw(3**axes - 1, seed=2)
    along = tuple(range(-axes, 0))
    power = bank.power(weights, x.shape[-axes:])
    filtered = torch.fft.ifftn(power * torch.fft.fftn(x, dim=along), dim=along).real
    per_filter = weights.reshape(-1, *[1] * axes)
    torch.testing.assert_close(filtered, bank.adjoint(per_filter * bank(x)))


def test_filters_sum_to_zero_whatever_is_learned() -> None:
    sums = learned_bank(2).filters().sum((-2, -1))
    torch.testing.assert_close(sums, torch.zeros_like(sums))


def test_banks_that_make_no_sense_are_told() -> None:
    with pytest.raises(PriorError, match="odd size"):
        FilterBank(2, 4)
    with pytest.raises(PriorError, match="1 to 3 axes"):
        FilterBank(4)
    with pytest.raises(PriorError, match="3 taps on an image"):
        FilterBank(2)(torch.zeros(2, 8))


def test_the_largest_samples_pass_and_more_of_them_in_later_layers() -> None:
    thresholds = Schedule([0.5, 0.25], constraint=None)
    prior = SupportSelection(thresholds, percent=10.0, largest=15.0)
    x = 3 * draw(4, 20)
    for k, (kept, threshold) in enumerate([(2, 0.5), (3, 0.25), (3, 0.25)]):
        y = prior.layer(k).prox(x, 7.0)
        for before, after in zip(x, y, strict=True):
            order = before.abs().argsort(descending=True)
            torch.testing.assert_close(after[order[:kept]], before[order[:kept]])
            rest = order[kept:]
            torch.testing.assert_close(after[rest], soft_threshold(before[rest], threshold))


def test_selection_needs_samples_above_the_threshold() -> None:
    prior = SupportSelection(1.0, percent=50.0, largest=50.0)
    x = torch.tensor([0.5, -0.4, 0.1, 2.0])
    torch.testing.assert_close(prior.prox(x, 1.0), torch.tensor([0.0, 0.0, 0.0, 2.0]))


def test_no_percentage_is_soft_thresholding() -> None:
    x = draw(3, 20)
    prior = SupportSelection(0.3, percent=0.0)
    torch.testing.assert_close(prior.prox(x, 1.0), soft_threshold(x, 0.3))


def test_selection_over_an_image_is_over_all_its_samples() -> None:
    x = draw(2, 4, 5)
    image = SupportSelection(0.1, percent=10.0, ndim=2).prox(x, 1.0)
    flat = SupportSelection(0.1, percent=10.0).prox(x.flatten(1), 1.0)
    torch.testing.assert_close(image.flatten(1), flat)


@pytest.mark.parametrize("options", [{"percent": -1.0}, {"largest": 101.0}])
def test_impossible_percentages_are_told(options: dict[str, float]) -> None:
    with pytest.raises(PriorError, match="percent"):
        SupportSelection(0.1, **options)


def test_the_residual_prior_of_admm_csnet_treats_parts_and_scale_alike() -> None:
    prior = PiecewiseLinearResidual(2, 4, 3).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.2 * draw(*parameter.shape)
    x = draw(2, 6, 5, dtype=torch.complex128)
    torch.testing.assert_close(prior.prox(x, 1.0).imag, prior.prox(x.imag, 1.0))
    scaled = PiecewiseLinearResidual(2, 4, 3, scale=50.0).double()
    scaled.load_state_dict(prior.state_dict())
    torch.testing.assert_close(scaled.prox(50 * x, 1.0), 50 * prior.prox(x, 1.0))
