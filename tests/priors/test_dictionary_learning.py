"""Patches, sparse codes, and dictionaries that are learned."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp
from torch import Tensor
from torch.autograd import gradcheck

from labrecon.priors.dictionary_learning import (
    cosine_dictionary,
    learn_dictionary,
    updated_atoms,
)
from labrecon.priors.patches import Patches
from labrecon.priors.sparse_coding import matching_pursuit

F64 = torch.float64


def draw(*shape: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def unit(atoms: Tensor) -> Tensor:
    return atoms / torch.linalg.vector_norm(atoms, dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("image", "patch", "stride"), [((9,), (4,), 1), ((7, 10), (3, 4), 2), ((5, 6, 4), (2, 3, 2), 2)]
)
def test_patches_are_those_of_the_image_and_average_to_it(image, patch, stride) -> None:
    x = draw(2, *image, dtype=torch.complex128)
    grid = Patches(image, patch, stride)
    patches = grid.extract(x)
    pairs = list(zip(image, patch, strict=True))
    corners = [sorted({*range(0, n - k + 1, stride), n - k}) for n, k in pairs]
    assert patches.shape == (2, np.prod([len(c) for c in corners]), np.prod(patch))
    last = x[(..., *(slice(n - k, None) for n, k in pairs))]
    assert torch.equal(patches[:, -1], last.flatten(1))
    torch.testing.assert_close(grid.average(patches), x)
    # Of what is no image the average is the least-squares one: A⁺ = (AᴴA)⁻¹Aᴴ.
    other = draw(*patches.shape)
    columns = grid.extract(torch.eye(np.prod(image), dtype=F64).reshape(-1, *image)).flatten(1).T
    best = torch.linalg.lstsq(columns, other.flatten(1).T).solution.T
    torch.testing.assert_close(grid.average(other).flatten(1), best)


def test_codes_are_those_of_scikit_learn() -> None:
    atoms, signals = unit(draw(40, 16)), draw(30, 16, seed=1)
    for most in (1, 4, 9):
        found = matching_pursuit(signals, atoms, most=most, chunk=7)
        expected = orthogonal_mp(atoms.T.numpy(), signals.T.numpy(), n_nonzero_coefs=most).T
        torch.testing.assert_close(found, torch.from_numpy(expected.copy()))
    limits = 0.3 * signals.square().sum(1)
    found = matching_pursuit(signals, atoms, residual=limits, most=16)
    for i in range(30):
        expected = orthogonal_mp(atoms.T.numpy(), signals[i].numpy(), tol=float(limits[i]))
        torch.testing.assert_close(found[i], torch.from_numpy(expected))


def test_complex_signals_share_their_atoms() -> None:
    atoms = unit(draw(20, 12))
    codes = torch.zeros(5, 20, dtype=torch.complex128)
    for i in range(5):
        codes[i, 3 * i], codes[i, 3 * i + 1] = 2.0 - 1.0j, 1.5j
    found = matching_pursuit(codes @ atoms.to(codes.dtype), atoms.to(codes.dtype), most=12)
    left = (found - codes) @ atoms.to(codes.dtype)
    assert float(left.abs().max()) < 1e-10
    # A basis has one answer.
    basis = torch.linalg.qr(draw(12, 12))[0].to(codes.dtype)
    torch.testing.assert_close(matching_pursuit(codes[:, :12], basis, most=12),
                               codes[:, :12] @ basis.mH)  # fmt: skip


def test_codes_are_differentiable_in_signals_and_atoms() -> None:
    atoms, signals = unit(draw(12, 6)), draw(4, 6, seed=1)
    inputs = [t.clone().requires_grad_() for t in (signals, atoms)]
    assert gradcheck(lambda s, a: matching_pursuit(s, a, most=3), inputs)


def test_nothing_is_described_by_nothing() -> None:
    atoms = unit(draw(6, 4))
    assert not matching_pursuit(torch.zeros(3, 4, dtype=F64), atoms, most=4).any()
    assert matching_pursuit(torch.zeros(0, 4, dtype=F64), atoms, most=4).shape == (0, 6)
    # Two atoms that are one: what is left is not divided by nothing.
    twice = torch.cat([atoms[:1], atoms[:1]])
    found = matching_pursuit(draw(5, 4), twice, most=2)
    assert bool(torch.isfinite(found).all())


def test_cosines_are_orthogonal_to_the_mean_and_span_the_rest() -> None:
    atoms = cosine_dictionary((4, 5), 60).double().flatten(1)
    torch.testing.assert_close(torch.linalg.vector_norm(atoms, dim=1), torch.ones(60).double())
    assert float(atoms.sum(1).abs().max()) < 1e-5
    assert int(torch.linalg.matrix_rank(atoms, rtol=1e-4)) == 19


def test_new_atoms_describe_no_worse_and_at_best_by_least_squares() -> None:
    atoms, codes = 0.3 * unit(draw(8, 6)), draw(50, 8, seed=1)
    signals = codes @ unit(draw(8, 6, seed=2)) * 0.8
    errors = [float((signals - codes @ atoms).norm())]
    for _ in range(200):
        atoms = updated_atoms(signals, codes, atoms)
        errors.append(float((signals - codes @ atoms).norm()))
    assert all(b <= a + 1e-12 * errors[0] for a, b in itertools.pairwise(errors))
    assert errors[-1] < 1e-6 * errors[0]
    assert float(torch.linalg.vector_norm(atoms, dim=1).max()) <= 1 + 1e-12


@pytest.mark.slow
def test_the_dictionary_that_made_the_data_is_found() -> None:
    """Twenty atoms of 1-D patches, two or three in each; up to sign and order."""
    truth = draw(20, 16)
    truth = unit(truth - truth.mean(1, keepdim=True))
    generator = torch.Generator().manual_seed(0)
    codes = torch.zeros(3000, 20, dtype=F64)
    chosen = torch.rand(3000, 20, generator=generator).topk(3).indices
    values = 1 + torch.rand(3000, 3, generator=generator, dtype=F64)
    codes.scatter_(1, chosen, values * draw(3000, 3, seed=2).sign())
    signals = codes @ truth + 0.02 * draw(3000, 16, seed=1)
    found = learn_dictionary(
        signals, noise_level=0.03, patch=(16,), atoms=24, iterations=60, patches=3000, most=3
    )
    match = (truth @ found.flatten(1).mT).abs().amax(1)
    errors = (1 - match.clamp_max(1) ** 2).sqrt()
    print("errors of atoms", errors.sort().values)
    assert int((errors < 0.1).sum()) >= 17


def test_learning_depends_on_its_seed_alone() -> None:
    image = draw(20, 20).float()
    options = {"noise_level": 0.5, "patch": (4, 4), "atoms": 24, "iterations": 2, "patches": 100}
    a = learn_dictionary(image, **options)
    torch.manual_seed(5)
    assert torch.equal(a, learn_dictionary(image, **options))
    assert not torch.equal(a, learn_dictionary(image, **options, seed=1))
