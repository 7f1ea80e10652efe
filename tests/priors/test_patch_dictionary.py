"""The prior of patches: files, formulas, solvers, published figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import orthogonal_mp
from torch import Tensor

from labrecon import solve
from labrecon.errors import OutputError, RecipeError
from labrecon.metrics import psnr
from labrecon.noise import Gaussian
from labrecon.operators import Convolution, Identity
from labrecon.prior import ImplicitPriorError, PriorError
from labrecon.priors.dictionary_learning import (
    cosine_dictionary,
    learn_dictionary,
    read_dictionary,
    save_dictionary,
)
from labrecon.priors.patch_dictionary import PatchDictionary
from labrecon.problem import Problem
from labrecon.recon import reconstruct
from labrecon.solvers import ADMM, HQS
from labrecon.space import Space

F64 = torch.float64


def draw(*shape: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def unit(atoms: Tensor) -> Tensor:
    return atoms / torch.linalg.vector_norm(atoms, dim=1, keepdim=True)


def test_a_dictionary_goes_through_a_file(tmp_path: Path) -> None:
    atoms = cosine_dictionary((4, 4), 20)
    save_dictionary(atoms, tmp_path / "d.safetensors")
    assert torch.equal(read_dictionary(tmp_path / "d.safetensors"), atoms)
    with pytest.raises(OutputError, match="exists"):
        save_dictionary(atoms, tmp_path / "d.safetensors")
    prior = PatchDictionary(str(tmp_path / "d.safetensors"), noise_level=0.1)
    assert torch.equal(prior.dictionary, atoms)


def test_files_that_hold_no_dictionary_are_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(PriorError, match=r"nowhere.safetensors can not be read"):
        PatchDictionary(tmp_path / "nowhere.safetensors", weight=1.0)
    (tmp_path / "text.safetensors").write_text("atoms")
    with pytest.raises(PriorError, match="can not be read"):
        read_dictionary(tmp_path / "text.safetensors")
    save_file({"weight": torch.ones(2)}, tmp_path / "net.safetensors")
    with pytest.raises(PriorError, match="it holds weight, expected atoms"):
        read_dictionary(tmp_path / "net.safetensors")


def test_the_prior_is_patches_codes_and_their_average() -> None:
    """Against plain loops and scikit-learn."""
    atoms, x, level = unit(draw(30, 9)), draw(6, 7, seed=1), 0.5
    prior = PatchDictionary(atoms.reshape(30, 3, 3), noise_level=level, fit=1.1)
    total, hits = torch.zeros(6, 7, dtype=F64), torch.zeros(6, 7, dtype=F64)
    for i in range(4):
        for j in range(5):
            patch = x[i : i + 3, j : j + 3].flatten()
            rest = patch - patch.mean()
            limit = 9 * (1.1 * level) ** 2
            code = np.zeros(30)
            if float(rest.square().sum()) > limit:
                code = orthogonal_mp(atoms.T.numpy(), rest.numpy(), tol=limit)
                assert np.count_nonzero(code) <= 4
            total[i : i + 3, j : j + 3] += (torch.from_numpy(code) @ atoms).reshape(3, 3)
            total[i : i + 3, j : j + 3] += patch.mean()
            hits[i : i + 3, j : j + 3] += 1
    torch.testing.assert_close(prior.prox(x, 7.0), total / hits)


def test_a_weight_makes_the_level_of_the_step() -> None:
    x = draw(2, 12, 12).float()
    by_weight, by_level = (
        PatchDictionary(patch=4, atoms=32, **{k: v})
        for k, v in (("weight", 0.18), ("noise_level", 0.3))
    )
    assert torch.equal(by_weight.prox(x, 0.5), by_level.prox(x, 9.0))
    assert torch.equal(by_weight.prox(x, torch.tensor([[[0.5]]])), by_level.prox(x, 9.0))
    with pytest.raises(PriorError, match="one noise level"):
        by_weight.prox(x, torch.tensor([0.5, 1.0])[:, None, None])
    with pytest.raises(ImplicitPriorError):
        by_level.penalty(x)


def texture(side: int) -> Tensor:
    """A weave of two waves on a ramp, in [0, 1]."""
    at = torch.arange(side, dtype=torch.float32)
    y, x = at[:, None], at
    wave = torch.where(x > y, torch.sin(0.9 * x + 0.5 * y), torch.sin(1.1 * y - 0.4 * x))
    return 0.5 + 0.3 * wave + 0.1 * x / side


@pytest.mark.slow
@pytest.mark.parametrize("solver", [HQS, ADMM])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_deblurring_with_it_in_hqs_and_admm(solver, dtype: torch.dtype) -> None:
    """Better than without a prior, for real images and for complex ones."""
    truth = texture(48).to(dtype)
    if dtype.is_complex:
        truth = truth * torch.exp(1j * texture(48).flip(0))
    space = Space((48, 48), dtype)
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    operator, noise = Convolution(space, kernel), Gaussian(0.03)
    data = noise.sample(operator(truth), torch.Generator().manual_seed(0))
    problem = Problem(operator, data, noise)
    # With rho = 1 / s², the prox is a denoiser of noise level s.
    name = {HQS: "mu", ADMM: "rho"}[solver]
    prior = PatchDictionary(weight=1.0, patch=6, atoms=128, stride=2)
    made = solve(solver(prior=prior, **{name: 1 / 0.04**2}), problem, iterations=15).x
    error = float((made - truth).abs().square().mean())
    assert error < 0.8 * float((data - truth).abs().square().mean())
    plain = operator.solve(operator.adjoint(data), 0.03)
    assert error < 0.9 * float((plain - truth).abs().square().mean())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "noise_level or weight"),
        ({"weight": 1.0, "noise_level": 1.0}, "and not both"),
        ({"weight": -1.0}, "weight must be"),
        ({"weight": 1.0, "stride": 0}, "stride"),
        ({"weight": 1.0, "stride": 9}, "leaves pixels between patches"),
        ({"weight": 1.0, "patch": 1}, "patch"),
        ({"weight": 1.0, "atoms": 0}, "atoms"),
        ({"weight": 1.0, "fit": 0.0}, "fit"),
        ({"weight": 1.0, "dictionary": torch.ones(3, 2, 2)}, "atoms have norm 1"),
        ({"weight": 1.0, "dictionary": torch.ones(3)}, r"\(atom, \*patch\)"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict, told: str) -> None:
    with pytest.raises(PriorError, match=told):
        PatchDictionary(**options)


def test_a_recipe_names_the_file(toy_host, toy_scan, tmp_path: Path) -> None:
    path = tmp_path / "atoms.safetensors"
    recipe = {
        "solver": {"name": "hqs", "mu": 400.0, "iterations": 3},
        "prior": {"name": "patch-dictionary", "weight": 1.0, "dictionary": str(path), "stride": 2},
    }
    with pytest.raises(RecipeError, match=r"patch-dictionary.*atoms.safetensors can not be read"):
        reconstruct("toy", toy_scan, tmp_path / "none", recipe=recipe, host=toy_host)
    save_dictionary(cosine_dictionary((4, 4), 32), path)
    made = reconstruct("toy", toy_scan, tmp_path / "out", recipe=recipe, host=toy_host)
    for options in ({"patch": 4, "atoms": 32}, {"patch": 8}):
        plain = {"name": "patch-dictionary", "weight": 1.0, "stride": 2, **options}
        out = tmp_path / str(options["patch"])
        other = {**recipe, "prior": plain}
        volume = reconstruct("toy", toy_scan, out, recipe=other, host=toy_host).volume
        assert torch.equal(made.volume, volume) == (options["patch"] == 4)


def test_images_smaller_than_a_patch_are_refused() -> None:
    prior = PatchDictionary(weight=1.0)
    with pytest.raises(PriorError, match="do not fit an image"):
        prior.prox(torch.zeros(5, 20), 1.0)
    with pytest.raises(PriorError, match="2 image axes"):
        prior.prox(torch.zeros(20), 1.0)
    with pytest.raises(PriorError, match="real images"):
        learn_dictionary(torch.zeros(9, 9, dtype=torch.complex64), noise_level=1.0)
    with pytest.raises(PriorError, match=r"finite floating-point numbers, got torch.uint8"):
        learn_dictionary(torch.zeros(9, 9, dtype=torch.uint8), noise_level=1.0)
    with pytest.raises(PriorError, match="not a number"):
        learn_dictionary(torch.full((9, 9), torch.nan), noise_level=1.0)


@pytest.mark.reproduction
@pytest.mark.parametrize(("name", "published"), [("02", 32.15), ("03", 29.73)])
def test_denoising_comes_near_the_published_k_svd(
    lab_data: Path, name: str, published: float
) -> None:
    """House and peppers at σ = 25, the dictionary learned from the noisy image itself.

    Elad and Aharon (2006), table I; the figures are quoted from memory.
    """
    path = lab_data / "images" / "bsd400_set12" / "Set12" / f"{name}.png"
    if not path.exists():
        pytest.skip(f"the image is not in {path}")
    image = torch.from_numpy(np.array(Image.open(path).convert("L"))).float()
    noisy = image + 25 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    problem = Problem(Identity(Space(image.shape)), noisy, Gaussian(25.0))
    figures = {}
    for kind, atoms in (
        ("cosines", cosine_dictionary((8, 8), 256)),
        ("learned", learn_dictionary(noisy, noise_level=25.0)),
    ):
        made = PatchDictionary(atoms, noise_level=25.0).prox(problem.data, 1.0)
        figures[kind] = psnr(made, image, peak=255.0)
    print(name, figures, "published", published)
    assert abs(figures["learned"] - published) < 0.5
    assert figures["learned"] > figures["cosines"] + 0.3
