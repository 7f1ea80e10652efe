"""A published denoiser, unchanged, against total variation in four instruments.

Run: ``PYTHONPATH=tests python tests/benchmarks/pnp_instruments.py DATA``. The released DnCNN-S-15
(natural images, 400 of BSD) is the prior of ADMM in the experiments of `examples/plug_and_play.py`,
and in MRI and CT also for objects with texture. Its noise level (as ``scale``) and the coupling are
chosen on one object, as is TV's weight, and the PSNR printed is that of another.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from brain_slices import brain_slices
from PIL import Image
from torch import Tensor, nn

from labrecon.metrics import psnr
from labrecon.networks.plug_and_play import make_pnp
from labrecon.networks.published import read_dncnn
from labrecon.priors import TV
from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import FISTA

#: Of the objects' largest value; the network was trained at 15 / 255.
LEVELS = (0.015, 0.05)
#: ``λ`` in ``ρ = λ / σ²``.
COUPLINGS = (0.1, 0.4)
SHARES = (3e-4, 1e-3, 3e-3, 1e-2)
STEPS = 20

Case = tuple[Problem, Tensor, bool]


def example() -> ModuleType:
    """`examples/plug_and_play.py`."""
    path = Path(__file__).parents[2] / "examples" / "plug_and_play.py"
    spec = importlib.util.spec_from_file_location("plug_and_play_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def textured(folder: Path, problems: dict[str, Case], seed: int) -> dict[str, Case]:
    """A brain slice in MRI, and a piece of a photograph in CT, with the noise of the phantoms."""
    made = {}
    slices = brain_slices(folder / "published" / "ista_net" / "brain_test", 64)
    photograph = folder / "images" / "bsd400_set12" / "train" / f"test_{300 + seed}.png"
    pixels = np.asarray(Image.open(photograph).convert("L"), dtype=np.float32)
    piece = torch.from_numpy(pixels[20:148, 20:148].copy())
    for title, truth in (("MRI, 20 of 64 lines", slices[seed]), ("CT, 24 views", piece)):
        problem, old, nonneg = problems[title]
        truth = truth * (old.abs().max() / truth.abs().max())
        # The noise of the phantom's own data.
        noise = problem.data - problem.operator(old)
        name = "brain slice" if title.startswith("MRI") else "photograph"
        data_of = Problem(
            problem.operator, problem.operator(truth) + noise, weights=problem.weights
        )
        made[f"{title}, {name}"] = (data_of, truth, nonneg)
    return made


def plugged(case: Case, network: nn.Module, level: float, coupling: float) -> Tensor:
    """ADMM with the denoiser at this noise level, in units of the object's largest value."""
    problem, truth, nonneg = case
    largest = float(truth.abs().max())
    pnp = make_pnp(
        problem,
        solver="admm",
        denoiser=network,
        depth=STEPS,
        scale=level * largest / (15 / 255),
        rho=coupling / (level * largest) ** 2,
        inner=10,
        low=0.0 if nonneg else None,
    )
    with torch.no_grad():
        return pnp(problem)


def smoothed(case: Case, share: float) -> Tensor:
    """Total variation with a weight in units of the first gradient's largest value."""
    problem, truth, nonneg = case
    largest = float(problem.gradient(torch.zeros_like(truth)).abs().max())
    prior = TV(share * largest, ndim=2, nonneg=nonneg)
    return solve(FISTA(prior=prior), problem, iterations=120).x


def main() -> None:
    """Print a row per experiment."""
    options = argparse.ArgumentParser()
    options.add_argument("data", type=Path)
    data = options.parse_args().data
    torch.set_num_threads(1)
    weights = data / "images" / "bsd400_set12" / "logs" / "DnCNN-S-15.pth"
    network = read_dncnn(torch.load(weights, weights_only=True, map_location="cpu"))
    shown = example()
    tuning, testing = (
        {**cases, **textured(data, cases, seed)}
        for seed, cases in ((8, shown.experiments(8)), (7, shown.experiments(7)))
    )
    for title, case in tuning.items():
        _, truth, _ = case
        share = max(SHARES, key=lambda s: psnr(smoothed(case, s), truth))
        level, coupling = max(
            product(LEVELS, COUPLINGS), key=lambda c: psnr(plugged(case, network, *c), truth)
        )
        test = testing[title]
        tv = psnr(smoothed(test, share), test[1])
        pnp = psnr(plugged(test, network, level, coupling), test[1])
        print(
            f"{title:34} TV {tv:.1f} dB ({share:g})  plug and play {pnp:.1f} dB "
            f"(σ {level:g}, λ {coupling:g})",
            flush=True,
        )


if __name__ == "__main__":
    main()
