"""One denoiser in four instruments: plug and play without training for any of them.

A small DRUNet learns to remove noise of any level from random overlapping discs ("dead leaves",
whose statistics are near those of natural images). Unchanged, it is then the prior of CT with 24
views, of MRI from a third of k-space, of phase contrast microscopy, and of a disc about a star seen
through a coronagraph's turning field. Half-quadratic splitting alternates between the data and the
denoiser, whose noise level falls from 30 % to 3 % of the object (Zhang et al. 2021), with the same
numbers everywhere. Beside it stand Tikhonov's and total variation, which are given the best of
several weights, chosen by the truth.

Run it: ``python examples/plug_and_play.py out/``
"""

import sys
from pathlib import Path

import matplotlib.figure
import torch
from torch import Tensor

from labrecon.instrument import Instrument
from labrecon.metrics import psnr
from labrecon.networks.denoiser_file import write_denoiser
from labrecon.networks.plug_and_play import make_pnp
from labrecon.plugins import host
from labrecon.priors import TV
from labrecon.priors.denoisers import Denoiser
from labrecon.priors.drunet import DRUNet
from labrecon.problem import Problem
from labrecon.seeds import seeded
from labrecon.solver import solve
from labrecon.solvers import CG, FISTA

FIRST, LAST, STEPS, WEIGHT = 0.3, 0.03, 8, 0.23


def leaves(n: int, size: int, generator: torch.Generator, discs: int = 60) -> Tensor:
    """``n`` images of overlapping discs of random grey."""
    grid = torch.arange(size, dtype=torch.float32)
    images = torch.rand(n, 1, 1, generator=generator).expand(n, size, size)
    for _ in range(discs):
        u = torch.rand(4, n, 1, 1, generator=generator)
        # Areas of a power law: many small discs, some large.
        radius = size / 24 / (0.02 + 0.98 * u[0]) ** 0.7
        distance = ((grid[:, None] - size * u[1]) ** 2 + (grid - size * u[2]) ** 2).sqrt()
        images = torch.lerp(images, u[3], (radius - distance + 0.5).clamp(0, 1))
    return images


def trained(steps: int = 220, seed: int = 0) -> DRUNet:
    """A denoiser for images of one channel and noise of 1 % to 35 % of their range."""
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):
        network = DRUNet(features=16, levels=2, blocks=2)
    denoiser = Denoiser(network, noise_level=0.1)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    pool = leaves(256, 40, generator)
    for _ in range(steps):
        clean = pool[torch.randint(len(pool), (8,), generator=generator)]
        level = 0.01 + 0.34 * torch.rand(8, 1, 1, generator=generator)
        noisy = clean + level * torch.randn(clean.shape, generator=generator)
        # The error relative to the noise, lest only the noisiest count.
        loss = ((denoiser.denoise(noisy, level) - clean) / level.sqrt()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        slower.step()
    return network.eval()


def measured(instrument: Instrument, geometry, truth: Tensor, seed: int) -> Problem:
    """Noisy data, weighed by the inverse of their variance."""
    operator, noise = instrument.operator(geometry), instrument.noise(geometry)
    with torch.no_grad():
        data = noise.sample(operator(truth), torch.Generator().manual_seed(seed))
    weights = torch.as_tensor(noise.curvature(data), dtype=data.real.dtype)
    return Problem(operator, data, weights=weights.expand(data.shape))


def plugged(problem: Problem, network: DRUNet, scale: float, **options) -> Tensor:
    """The same for all instruments: only the size of the object's values is theirs."""
    pnp = make_pnp(
        problem,
        solver="hqs",
        denoiser=network,
        depth=STEPS,
        weight=WEIGHT,
        scale=scale,
        mu=WEIGHT / (FIRST * scale) ** 2,
        growth=(FIRST / LAST) ** (2 / (STEPS - 1)),
        inner=10,
        **options,
    )
    with torch.no_grad():
        return pnp(problem)


def classical(problem: Problem, truth: Tensor, nonneg: bool) -> dict[str, Tensor]:
    """Tikhonov and total variation, each with the weight that comes nearest to the truth."""
    largest = float(problem.gradient(torch.zeros_like(truth)).abs().max())
    curvature = float(problem.lipschitz())
    tikhonov = [
        solve(CG(rho=share * curvature), problem, iterations=20).x for share in (1e-3, 1e-2, 1e-1)
    ]
    tv = [
        solve(FISTA(prior=TV(share * largest, ndim=2, nonneg=nonneg)), problem, iterations=120).x
        for share in (3e-4, 3e-3, 3e-2)
    ]
    found = {"Tikhonov": tikhonov, "TV": tv}
    return {
        name: min(made, key=lambda x: float((x - truth).norm())) for name, made in found.items()
    }


def disc(shape: tuple[int, ...], brightness: float) -> Tensor:
    """An inclined ring of dust with a gap of stellar light in its middle."""
    y, x = (torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape)
    u, v = 0.8 * x - 0.6 * y[:, None], (0.6 * x + 0.8 * y[:, None]) / 0.5
    radius, angle = torch.hypot(u, v), torch.atan2(v, u)
    width = min(shape) / 2
    ring = torch.exp(-((radius / width - 0.6) ** 2) / 0.01) * (1 + 0.5 * torch.cos(angle))
    return brightness * ring


def experiments(seed: int = 7) -> dict[str, tuple[Problem, Tensor, bool]]:
    """Problem, truth (another one for each seed), and whether it is known not to be negative."""
    ct, mri, phase, star = (
        host().get("instruments", name)() for name in ("ct", "mri", "phase", "coronagraph")
    )
    generator = torch.Generator().manual_seed(seed)
    views = ct.with_acquisitions(
        ct.Geometry.model_validate(
            {**ct.example().model_dump(), "columns": 64, "column_pitch": 1.0}
        ),
        24,
    )
    lines = mri.with_acquisitions(mri.example(), 20)
    contrast = phase.Geometry.model_validate(
        {**phase.example().model_dump(), "quantity": "contrast", "electrons": 3000.0}
    )
    sky = star.Geometry.model_validate({**star.example().model_dump(), "angles": (0.0, 30.0, 60.0)})
    cells = phase.objects(contrast, 1, generator)[0]
    objects = {
        "CT, 24 views": (ct, views, ct.objects(views, 1, generator)[0], True),
        "MRI, 20 of 64 lines": (mri, lines, mri.objects(lines, 1, generator)[0], False),
        "phase contrast": (phase, contrast, 0.3 * cells / cells.abs().max(), False),
        "disc about a star": (star, sky, disc(sky.field_shape, 3.0), True),
    }
    return {
        title: (measured(instrument, geometry, truth, 1), truth, nonneg)
        for title, (instrument, geometry, truth, nonneg) in objects.items()
    }


def compared(network: DRUNet) -> dict[str, dict[str, Tensor]]:
    """Truth and reconstructions of each experiment; it prints their PSNR."""
    found = {}
    for title, (problem, truth, nonneg) in experiments().items():
        scale = float(truth.abs().max())
        limits = {"low": 0.0} if nonneg else {}
        made = classical(problem, truth, nonneg)
        made["plug and play"] = plugged(problem, network, scale, **limits)
        scores = [f"{name} {psnr(x, truth):.1f} dB" for name, x in made.items()]
        print(f"{title:20} {', '.join(scores)}", flush=True)
        found[title] = {"truth": truth, **made}
    return found


def draw(found: dict[str, dict[str, Tensor]], path: Path) -> None:
    """A row of images for each experiment."""
    names = list(next(iter(found.values())))
    figure = matplotlib.figure.Figure(figsize=(8, 2 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), len(names))
    for row, (title, images) in zip(axes, found.items(), strict=True):
        shown = {name: x.abs() if x.is_complex() else x for name, x in images.items()}
        low, high = float(shown["truth"].min()), float(shown["truth"].max())
        for axis, name in zip(row, names, strict=True):
            told = "" if name == "truth" else f"\n{psnr(images[name], images['truth']):.1f} dB"
            axis.imshow(shown[name], cmap="gray", vmin=low, vmax=high)
            axis.set(xticks=[], yticks=[], title=f"{name}{told}")
        row[0].set_ylabel(title)
    figure.savefig(path, dpi=90)


def main(out: Path) -> None:
    """Train one denoiser, use it four times."""
    out.mkdir(parents=True, exist_ok=True)
    network = trained()
    # The file serves `labrecon recon`: [prior] name = "denoiser", file = "…", weight = 0.23.
    write_denoiser(out / "denoiser.safetensors", network)
    draw(compared(network), out / "plug_and_play.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
