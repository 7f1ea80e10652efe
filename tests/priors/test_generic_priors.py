"""What every prior promises: its prox is a prox, per batch element, twice differentiable."""

from __future__ import annotations

import pytest
import torch
from prior_cases import CASES, SHAPE, Case, draw, pairs
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import labrecon.priors
from labrecon.prior import Zero, moreau
from labrecon.space import Space

F64 = torch.float64
#: What takes seconds in complex numbers as well, and is the same code as in real ones.
LONG = {"tgv", "tv-1d", "tv-anisotropic"}
every_prior = pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(
            case,
            dtype,
            marks=[pytest.mark.slow] if case.name in LONG and dtype.is_complex else [],
            id=f"{case.name}-{str(dtype)[6:]}",
        )
        for case, dtype in pairs()
    ],
)
STEP, WEIGHT = 0.6, 0.7


def test_every_prior_is_in_the_list() -> None:
    tested = {type(case.make(1.0)) for case in CASES}
    assert tested == {getattr(labrecon.priors, n) for n in labrecon.priors.__all__} | {Zero}


@every_prior
def test_no_other_point_beats_the_prox(case: Case, dtype: torch.dtype) -> None:
    """Strong convexity: F(v) ≥ F(prox) + ½|v − prox|² for every v."""
    prior, x = case.make(WEIGHT), draw(dtype=dtype)
    u = prior.prox(x, STEP)
    near = [u + size * draw(30, dtype=dtype, seed=1) for size in (1e-2, 0.1, 1.0)]
    special = torch.stack([x, 0 * x, 0.5 * u, x.mean().expand(SHAPE)])
    v = torch.cat([u[None], *near, special])

    values = STEP * prior.penalty(v, 2) + 0.5 * (v - x).abs().square().sum((-2, -1))
    gap = 0.5 * (v - u).abs().square().sum((-2, -1))
    best = float(values[0])
    assert best < float("inf")
    assert bool((values >= best + gap - case.exactness * (1 + best)).all())


@every_prior
def test_prox_is_firmly_nonexpansive(case: Case, dtype: torch.dtype) -> None:
    prior = case.make(WEIGHT)
    a, b = draw(10, dtype=dtype), draw(10, dtype=dtype, seed=50)
    moved = prior.prox(a, STEP) - prior.prox(b, STEP)
    inner = (moved.conj() * (a - b)).real.sum((-2, -1))
    size = moved.abs().square().sum((-2, -1))
    assert bool((size <= inner + case.exactness * (1 + size)).all())


@every_prior
def test_a_prox_of_step_zero_stays_in_the_domain(case: Case, dtype: torch.dtype) -> None:
    """It is the projection onto where the penalty is finite; for most priors, the identity."""
    prior, x = case.make(WEIGHT), draw(dtype=dtype)
    for step in (0.0, torch.tensor(0.0, dtype=F64)):
        u = prior.prox(x, step)
        assert bool(torch.isfinite(u).all())
        assert float(prior.penalty(u)) < float("inf")
        if "nonneg" not in case.name and case.name != "box":
            torch.testing.assert_close(u, x)


@every_prior
def test_batches_are_elements_side_by_side(case: Case, dtype: torch.dtype) -> None:
    prior, x = case.make(WEIGHT), draw(2, 2, dtype=dtype)
    prior.iterations = 20
    penalties, proxes = prior.penalty(x, 2), prior.prox(x, STEP)
    assert penalties.shape == (2, 2)
    assert not penalties.is_complex()
    for i in range(2):
        for j in range(2):
            torch.testing.assert_close(penalties[i, j], prior.penalty(x[i, j]))
            torch.testing.assert_close(proxes[i, j], prior.prox(x[i, j], STEP))


@every_prior
def test_moreaus_identity(case: Case, dtype: torch.dtype) -> None:
    """x = prox_{tg}(x) + t prox_{g*/t}(x/t), with the conjugate's prox from `moreau`."""
    prior, x = case.make(WEIGHT), draw(dtype=dtype)
    dual = moreau(prior, x / STEP, 1 / STEP)
    torch.testing.assert_close(prior.prox(x, STEP) + STEP * dual, x)


@every_prior
def test_the_split_adds_up_to_the_penalty(case: Case, dtype: torch.dtype) -> None:
    prior = case.make(WEIGHT)
    x = prior.prox(draw(dtype=dtype), STEP)
    terms = prior.split(Space(SHAPE, dtype))
    total = sum(float(h.penalty(x if k is None else k(x))) for k, h in terms)
    assert total == pytest.approx(float(prior.penalty(x)), rel=1e-12)


@every_prior
def test_separable_means_a_step_per_sample(case: Case, dtype: torch.dtype) -> None:
    prior, x = case.make(WEIGHT), draw(dtype=dtype)
    if not prior.separable:
        pytest.skip("not separable")
    steps = torch.linspace(0.1, 1.0, x.numel(), dtype=F64).reshape(SHAPE)
    whole = prior.prox(x, steps)
    for index in ((0, 0), (1, 2), (3, 3)):
        alone = prior.prox(x, float(steps[index]))[index]
        torch.testing.assert_close(whole[index], alone)


@every_prior
def test_prox_has_first_and_second_derivatives(case: Case, dtype: torch.dtype) -> None:
    """By the object, and by step and weight; few iterations: derivatives are of what ran."""
    prior = case.make(WEIGHT)
    iterations = min(getattr(prior, "iterations", 8), 8)

    def prox(x: Tensor, step: Tensor, weight: Tensor) -> Tensor:
        made = case.make(weight if case.weighted else WEIGHT)
        made.iterations = iterations
        return made.prox(x, step)

    leaves = [
        draw(dtype=dtype, seed=7).requires_grad_(),
        torch.tensor(0.13, dtype=F64, requires_grad=True),
        torch.tensor(0.9, dtype=F64, requires_grad=True),
    ]
    assert gradcheck(prox, leaves, atol=1e-6)
    assert gradgradcheck(prox, leaves, atol=1e-5)


@every_prior
def test_prox_is_the_same_with_and_without_gradients(case: Case, dtype: torch.dtype) -> None:
    """Plain solves may work in place; training takes what autograd can follow."""
    x = draw(2, 3, dtype=dtype)
    for weight, step in ((WEIGHT, STEP), (0.0, STEP), (WEIGHT, 0.0)):
        prior = case.make(weight)
        followed = prior.prox(x.clone().requires_grad_(), step).detach()
        torch.testing.assert_close(prior.prox(x, step), followed)


@every_prior
def test_penalty_has_finite_derivatives_at_a_constant_object(
    case: Case, dtype: torch.dtype
) -> None:
    """Where ∇x = 0, or x = 0, the norms have a kink; training must not meet a NaN there."""
    for value in (0.0, 0.3):
        x = torch.full(SHAPE, value, dtype=dtype, requires_grad=True)
        total = case.make(WEIGHT).penalty(x)
        if total.requires_grad:
            (g,) = torch.autograd.grad(total, x)
            assert bool(torch.isfinite(torch.view_as_real(g) if g.is_complex() else g).all())


WEIGHTED = [case for case in CASES if case.weighted]


@pytest.mark.parametrize("case", WEIGHTED, ids=lambda case: case.name)
def test_a_weight_is_a_number_a_tensor_or_a_parameter(case: Case) -> None:
    x = draw()
    expected = case.make(WEIGHT).prox(x, STEP)
    buffer = case.make(torch.tensor(WEIGHT, dtype=F64))
    torch.testing.assert_close(buffer.prox(x, STEP), expected)
    assert "weight" in dict(buffer.named_buffers()), "a tensor must follow .to(device)"
    learned = case.make(torch.nn.Parameter(torch.tensor(WEIGHT, dtype=F64)))
    learned.prox(x, STEP).sum().backward()
    assert learned.weight.grad is not None
    torch.testing.assert_close(learned.prox(x, STEP).detach(), expected)


@pytest.mark.parametrize("case", WEIGHTED, ids=lambda case: case.name)
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "much", True, None, 1j])
def test_a_wrong_weight_is_refused(case: Case, weight: object) -> None:
    with pytest.raises(labrecon.prior.PriorError, match="weight"):
        case.make(weight)


@pytest.mark.parametrize(
    "case", [case for case in WEIGHTED if case.per_element], ids=lambda case: case.name
)
def test_a_weight_per_batch_element(case: Case) -> None:
    x, weights = draw(2), torch.tensor([0.2, 0.9], dtype=F64)
    whole = case.make(weights[:, None, None]).prox(x, STEP)
    for i, weight in enumerate(weights):
        torch.testing.assert_close(whole[i], case.make(float(weight)).prox(x[i], STEP))


WRONG = [
    ("L1", {"nonneg": "yes"}),
    ("GroupL1", {"axis": 0}),
    ("Box", {}),
    ("Box", {"low": 2.0, "high": 1.0}),
    ("Box", {"low": "small"}),
    ("TV", {"ndim": 4}),
    ("TV", {"ndim": 2.0}),
    ("TV", {"iterations": 0}),
    ("TV", {"nonneg": 1}),
    ("TV", {"spacing": (1.0, 0.0)}),
    ("TV", {"spacing": (1.0,)}),
    ("TGV", {"ratio": 0.0}),
    ("TGV", {"ratio": "big"}),
    ("WaveletL1", {"wavelet": "cow"}),
    ("WaveletL1", {"wavelet": "bior2.2"}),
    ("WaveletL1", {"levels": 0}),
    ("Tikhonov", {"iterations": 0}),
]


@pytest.mark.parametrize(("name", "options"), WRONG, ids=str)
def test_wrong_options_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(labrecon.prior.PriorError, match=name):
        getattr(labrecon.priors, name)(**options)


@pytest.mark.parametrize("name", ["L1", "Box", "TV", "TGV"])
def test_bounds_of_complex_objects_are_refused(name: str) -> None:
    options = {"low": 0.0} if name == "Box" else {"nonneg": True}
    with pytest.raises(labrecon.prior.PriorError, match="complex"):
        getattr(labrecon.priors, name)(**options).prox(draw(dtype=torch.complex128), 1.0)
