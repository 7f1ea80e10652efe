"""Equilibria and unrolled nets beyond the depth of their training (Gilton et al. 2021, fig. 5).

DE-Prox on blurred natural images: width of the blur 1.6 pixels, noise 0.01. A denoiser of five
convolutions of 16 channels is trained first; an unrolled net of ten layers and an equilibrium go on
from there, with the same step size, budget and images. Jacobian-free training is Fung et al. 2022.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from labrecon.networks import Equilibrium, Unrolled
from labrecon.networks.fixed_point import ConvergenceWarning
from labrecon.operators import Convolution
from labrecon.priors.denoisers import Denoiser, DnCNN
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor
from labrecon.schedule import Schedule
from labrecon.seeds import seeded
from labrecon.solver import Solver
from labrecon.solvers import ISTA
from labrecon.space import Space

pytestmark = [pytest.mark.reproduction, pytest.mark.slow]

SIZE, BATCH = 32, 4
DEPTHS = (1, 5, 10, 15, 20, 40, 70, 100)
#: Slow enough for a net of ten layers to be far from its fixed point; the authors begin with 0.2.
STEP_SIZE = 0.3


@dataclass(frozen=True)
class Images:
    """Crops of natural images in [0, 1], blurred."""

    train: Tensor
    test: Tensor
    blur: Convolution

    @classmethod
    def read(cls, folder: Path) -> Images:
        files = sorted((folder / "images" / "bsd400_set12" / "train").glob("*.png"))
        if len(files) != 400:
            pytest.skip(f"the images of BSD400 are not in {folder}")
        files = files[:200] + files[300:316]
        pixels = np.stack([np.asarray(Image.open(f).convert("L")) for f in files])
        images = torch.from_numpy(pixels).float() / 255
        ticks = torch.arange(-6, 7).float()
        line = torch.exp(-0.5 * (ticks / 1.6) ** 2)
        kernel = line[:, None] * line
        blur = Convolution(Space((SIZE, SIZE)), kernel / kernel.sum())
        test = images[200:, 70 : 70 + SIZE, 70 : 70 + SIZE]
        return cls(images[:200], test, blur)

    def crops(self, generator: torch.Generator) -> Tensor:
        made = []
        for _ in range(BATCH):
            i = int(torch.randint(len(self.train), (1,), generator=generator))
            r, c = torch.randint(180 - SIZE, (2,), generator=generator).tolist()
            made.append(self.train[i, r : r + SIZE, c : c + SIZE])
        return torch.stack(made)

    def problem(self, x: Tensor, generator: torch.Generator) -> Problem:
        noise = 0.01 * torch.randn(x.shape, generator=generator)
        return Problem(self.blur, self.blur(x) + noise)


def psnr(x: Tensor, truth: Tensor) -> float:
    """For images in [0, 1], the mean over images."""
    return float(-10 * (x - truth).square().mean((-1, -2)).log10().mean())


def trained_denoiser(images: Images, steps: int = 500) -> Denoiser:
    with seeded(0):
        network = DnCNN(1, features=16, depth=5, batch_norm=False)
    denoiser = Denoiser(network)
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(denoiser.parameters(), 4e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        x = images.crops(generator)
        noisy = x + 0.05 * torch.randn(x.shape, generator=generator)
        optimiser.zero_grad()
        (denoiser.denoise(noisy) - x).square().mean().backward()
        optimiser.step()
        slower.step()
    return denoiser


def step_of(denoiser: Denoiser) -> Solver:
    """DE-Prox' step; the operator has norm 1."""
    return ISTA(prior=copy.deepcopy(denoiser), step_size=Schedule(STEP_SIZE, learn=True))


def equilibrium(solver: Solver, backward: str, **options) -> Equilibrium:
    settings = {"find": "anderson", "iterations": 50, "tolerance": 1e-3, "start": "adjoint"}
    return Equilibrium(solver, backward=backward, **{**settings, **options})


def train(
    net: Reconstructor, images: Images, steps: int, seed: int = 5, rate: float = 5e-3
) -> list[float]:
    """Adam on the mean squared error; the losses on the way."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    losses = []
    net.train()
    with warnings.catch_warnings():
        # The tolerance of training is loose, and early fixed points are slow.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(steps):
            x = images.crops(generator)
            loss = (net(images.problem(x, generator)) - x).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    return losses


def psnr_by_depth(solver: Solver, images: Images) -> dict[int, float]:
    problem = images.problem(images.test, torch.Generator().manual_seed(99))
    net = Unrolled(copy.deepcopy(solver), DEPTHS[-1], start="adjoint").eval()
    with torch.no_grad():
        trace = net.reconstruct(problem, trace=True).trace
    found = {depth: psnr(trace[depth - 1], images.test) for depth in DEPTHS}
    print({depth: round(value, 2) for depth, value in found.items()})
    return found


@pytest.fixture(scope="module")
def images(lab_data: Path) -> Images:
    return Images.read(lab_data)


@pytest.fixture(scope="module")
def denoiser(images: Images) -> Denoiser:
    return trained_denoiser(images)


def check_equilibrium(by_depth: dict[int, float], unrolled: dict[int, float], gain: float) -> None:
    assert by_depth[40] - by_depth[10] >= gain
    assert max(by_depth.values()) - by_depth[100] <= 1
    assert max(by_depth.values()) >= max(unrolled.values())


def trained_gradients(net: Equilibrium, images: Images) -> tuple[Tensor, Tensor]:
    """Of one batch: by "jfb" and by "implicit"."""
    generator = torch.Generator().manual_seed(11)
    x = images.crops(generator)
    problem = images.problem(x, generator)
    found = []
    for backward in ("jfb", "implicit"):
        same = equilibrium(net.solver, backward, iterations=300, on_failure="ignore")
        loss = (same(problem) - x).square().mean()
        parts = torch.autograd.grad(loss, list(net.solver.parameters()))
        found.append(torch.cat([part.flatten() for part in parts]))
    return found[0], found[1]


@pytest.mark.parametrize(
    ("backward", "steps", "gain"),
    [
        # 2 dB are asked for; a training this short has been seen to give 1.7 to 1.95.
        ("jfb", 300, 1.5),
        pytest.param("jfb", 900, 2, marks=pytest.mark.nightly),
        pytest.param("implicit", 300, 2, marks=pytest.mark.nightly),
    ],
)
def test_equilibria_improve_where_unrolled_nets_collapse(
    images: Images, denoiser: Denoiser, backward: str, steps: int, gain: float
) -> None:
    unrolled = Unrolled(step_of(denoiser), 10, start="adjoint")
    train(unrolled, images, 200)
    by_layers = psnr_by_depth(unrolled.solver, images)
    assert by_layers[10] - by_layers[20] >= 5
    net = equilibrium(step_of(denoiser), backward)
    train(net, images, steps)
    check_equilibrium(psnr_by_depth(net.solver, images), by_layers, gain)
    jfb, implicit = trained_gradients(net, images)
    assert float(jfb @ implicit) > 0


def test_jacobian_free_steps_descend(images: Images, denoiser: Denoiser) -> None:
    for seed in (1, 2, 3):
        losses = train(equilibrium(step_of(denoiser), "jfb"), images, 50, seed)
        assert sum(losses[-15:]) < sum(losses[:15]), seed
