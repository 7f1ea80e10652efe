"""The prior interface and its two functions."""

from __future__ import annotations

import pytest
import torch

from labrecon.prior import (
    ImplicitPriorError,
    NotInvertibleError,
    Prior,
    Zero,
    moreau,
    soft_threshold,
)
from labrecon.space import Space


def test_soft_threshold_keeps_sign_and_phase() -> None:
    x = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0], dtype=torch.float64)
    expected = torch.tensor([-2.0, 0.0, 0.0, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(soft_threshold(x, 1.0), expected)
    z = torch.polar(torch.tensor(3.0, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))
    torch.testing.assert_close(soft_threshold(z, 1.0), z * 2 / 3)


def test_soft_threshold_has_no_nan_in_its_derivatives_at_zero() -> None:
    for dtype in (torch.float64, torch.complex128):
        x = torch.zeros(3, dtype=dtype, requires_grad=True)
        (g,) = torch.autograd.grad(soft_threshold(x, 0.5).abs().sum(), x, create_graph=True)
        assert bool((g == 0).all())


def test_a_prior_known_by_its_prox_has_no_penalty() -> None:
    with pytest.raises(ImplicitPriorError, match="prox"):
        Prior().penalty(torch.zeros(3))
    with pytest.raises(TypeError, match="prox"):
        Prior().prox(torch.zeros(3), 1.0)
    with pytest.raises(NotInvertibleError, match="Prior"):
        Prior().inverse(torch.zeros(3), 1.0)


def test_defaults() -> None:
    prior = Zero()
    assert prior.split(Space((3,))) == [(None, prior)]
    assert prior.layer(3) is prior
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    assert prior.prox_and_losses(x, 0.3)[1] == {}
    assert torch.equal(prior.inverse(prior.prox(x, 0.3), 0.3), x)
    assert prior.penalty(x, 1).shape == (2,)
    torch.testing.assert_close(moreau(prior, x, 0.3), torch.zeros_like(x))
