"""Equilibria of gradient, proximal gradient and ADMM steps on blurred images and sampled k-space.

Shared by `tests/reproduction/test_jfb.py` and `tests/benchmarks/jfb.py`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from brain_slices import brain_slices
from PIL import Image
from torch import Tensor

from labrecon.networks.deep_equilibrium import RegularisedGradient
from labrecon.networks.equilibrium import Equilibrium
from labrecon.operator import Operator
from labrecon.operators import Convolution, MaskedFourier
from labrecon.priors.denoisers import Denoiser, DnCNN
from labrecon.problem import Problem
from labrecon.schedule import Schedule
from labrecon.seeds import seeded
from labrecon.solver import Solver
from labrecon.solvers import ADMM, ISTA
from labrecon.space import Space
from labrecon_mri.phantoms import birdcage_maps
from labrecon_mri.sense import Sense

__all__ = [
    "NETS",
    "RATES",
    "TASKS",
    "Task",
    "Trained",
    "begin",
    "best_rate",
    "deblurring",
    "mri",
    "patient",
    "train",
    "trained_denoiser",
]

BATCH, SIGMA = 4, 0.01
#: Of the proximal gradient step; those of the others have nearly the same fixed point.
STEP = 1.0
#: Learning rates to choose from.
RATES = (3e-4, 1e-3, 3e-3)
NETS: dict[str, Callable[[Denoiser], Solver]] = {
    "gradient": lambda prior: RegularisedGradient(
        prior=prior, step_size=Schedule(0.8 * STEP, learn=True), weight=1 / STEP
    ),
    "proximal gradient": lambda prior: ISTA(prior=prior, step_size=Schedule(STEP, learn=True)),
    # Each data step starts at the last one: few inner steps lead to the same fixed point.
    "ADMM": lambda prior: ADMM(prior=prior, rho=Schedule(1 / STEP, learn=True), inner=5),
}


@dataclass(frozen=True)
class Task:
    """Objects in [0, 1] (or of modulus up to 1), and what measures them.

    Attributes:
        train: objects ``(n, y, x)`` that are trained on.
        tune: objects on which learning rates are chosen.
        test: objects whose scores are reported.
        operator: of norm 1.
    """

    train: Tensor
    tune: Tensor
    test: Tensor
    operator: Operator

    def draw(self, generator: torch.Generator) -> Tensor:
        """A batch of training objects."""
        return self.train[torch.randint(len(self.train), (BATCH,), generator=generator)]

    def problem(self, x: Tensor, generator: torch.Generator) -> Problem:
        """Their noisy data."""
        clean = self.operator(x)
        noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
        sampled = (clean != 0) if clean.is_complex() else 1.0
        return Problem(self.operator, clean + SIGMA * noise * sampled)

    def unseen(self, tuning: bool = False) -> Problem:
        """Data of the test objects, or of those for tuning."""
        x = self.tune if tuning else self.test
        return self.problem(x, torch.Generator().manual_seed(99))

    def psnr(self, x: Tensor, tuning: bool = False) -> float:
        """In dB against the test objects, or those for tuning, the mean over them."""
        truth = self.tune if tuning else self.test
        return float(-10 * (x - truth).abs().square().mean((-1, -2)).log10().mean())

    def score(self, net: Equilibrium, tuning: bool = False) -> float:
        """PSNR of a network's fixed points."""
        with torch.no_grad():
            return self.psnr(patient(net)(self.unseen(tuning)), tuning)

    def unprocessed(self) -> float:
        """PSNR of blurred images, or of zero-filled ones."""
        measured = self.unseen()
        data = measured.data
        return self.psnr(measured.operator.adjoint(data) if data.is_complex() else data)


def deblurring(data: Path, size: int = 40) -> Task:
    """Crops of BSD400 behind a Gaussian blur of 1.6 pixels."""
    files = sorted((data / "images" / "bsd400_set12" / "train").glob("*.png"))[:220]
    pixels = np.stack([np.asarray(Image.open(f).convert("L")) for f in files])
    images = torch.from_numpy(pixels).float() / 255
    ticks = torch.arange(-6, 7).float()
    line = torch.exp(-0.5 * (ticks / 1.6) ** 2)
    kernel = line[:, None] * line
    blur = Convolution(Space((size, size)), kernel / kernel.sum())
    crops = [images[:, r : r + size, c : c + size] for r, c in ((10, 10), (70, 70), (130, 100))]
    middle = crops[1]
    train = torch.cat([crop[:200] for crop in crops])
    return Task(train, tune=middle[210:], test=middle[200:210], operator=blur)


def mri(data: Path, size: int = 48, coils: int = 4) -> Task:
    """Complex brain slices from a quarter of k-space, denser in its middle.

    Trained on axial slices and some at the side of a head, tested on slices through its middle.
    """
    slices = brain_slices(data / "published" / "ista_net" / "brain_test", size)
    slices = slices / slices.abs().amax((-2, -1), keepdim=True)
    u = torch.linspace(-1, 1, size)
    chance = torch.exp(-3 * (u[:, None] ** 2 + u**2))
    chance = (0.25 * chance / chance.mean()).clamp(max=1)
    mask = torch.rand(size, size, generator=torch.Generator().manual_seed(1)) < chance
    turned = torch.cat([slices[:40], slices[:40].flip(-1)])
    sampling = MaskedFourier(Space((size, size), torch.complex64), mask)
    operator = Sense(sampling, birdcage_maps(coils, (size, size))[None])
    return Task(turned, tune=slices[40:44], test=slices[44:], operator=operator)


def mri_of_one_coil(data: Path) -> Task:
    """The same with one coil: three quarters of the object leave no trace in the data."""
    return mri(data, coils=1)


TASKS = {"deblurring": deblurring, "MRI": mri, "MRI of one coil": mri_of_one_coil}


def trained_denoiser(task: Task, steps: int = 600, sigma: float = 0.05) -> Denoiser:
    """Five convolutions of 16 channels and norm 1, trained to remove noise from such objects."""
    channels = 2 if task.train.is_complex() else 1
    with seeded(0):
        network = DnCNN(channels, features=16, depth=5, batch_norm=False, spectral=True)
    denoiser = Denoiser(network)
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(denoiser.parameters(), 4e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        x = task.draw(generator)
        noisy = x + sigma * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        optimiser.zero_grad()
        (denoiser.denoise(noisy) - x).abs().square().mean().backward()
        optimiser.step()
        slower.step()
    return denoiser


def begin(make: Callable[[Denoiser], Solver], denoiser: Denoiser, backward: str) -> Equilibrium:
    """A network with a copy of a trained denoiser."""
    return Equilibrium(
        make(copy.deepcopy(denoiser)),
        backward=backward,
        iterations=30,
        tolerance=1e-3,
        start="adjoint",
        on_failure="ignore",
    )


def patient(net: Equilibrium) -> Equilibrium:
    """The same network at its fixed point, where training stopped some way before it."""
    return Equilibrium(
        net.solver, iterations=150, tolerance=1e-5, start=net.start, on_failure="ignore"
    )


@dataclass(frozen=True)
class Trained:
    """Scores after so many steps and seconds of this process: ``(steps, seconds, dB)``."""

    scores: list[tuple[int, float, float]]

    @property
    def last(self) -> float:
        """dB at the end."""
        return self.scores[-1][2]

    def after(self, seconds: float) -> tuple[int, float, float]:
        """The last score that was reached in so many seconds."""
        return max(score for score in self.scores if score[1] <= seconds)


def train(
    net: Equilibrium,
    task: Task,
    steps: int,
    *,
    rate: float,
    every: int = 0,
    tuning: bool = False,
    seed: int = 5,
) -> Trained:
    """Adam on the mean square error, and the score at the start, the end and ``every`` steps."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), rate)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    scores, spent = [(0, 0.0, task.score(net, tuning))], 0.0
    for step in range(1, steps + 1):
        x = task.draw(generator)
        problem = task.problem(x, generator)
        start = time.process_time()
        loss = (net(problem) - x).abs().square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        spent += time.process_time() - start
        slower.step()
        if step == steps or (every and step % every == 0):
            scores.append((step, spent, task.score(net, tuning)))
    return Trained(scores)


def best_rate(task: Task, denoiser: Denoiser, steps: int) -> float:
    """The one of `RATES` with the best score on the images for tuning.

    By Jacobian-free training of the proximal gradient step; it serves all kinds and implicit
    gradients too.
    """
    make = NETS["proximal gradient"]

    def reached(rate: float) -> float:
        net = begin(make, denoiser, "jfb")
        return train(net, task, steps, rate=rate, tuning=True).last

    return max(RATES, key=reached)
