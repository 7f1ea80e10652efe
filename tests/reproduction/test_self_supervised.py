"""Learners without a truth beside the supervised one: the same network, scans and steps.

Each of 40 objects is measured once; 10 others are reconstructed. The supervised learner has the
truths of the 40 scans beside. Measured on 2026-11-30, one core, 50 s each.
"""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from sparse_view import mean_psnr
from torch import Tensor

from labrecon import Operator, Problem, Scan
from labrecon.instrument import Instrument
from labrecon.learner import FitConfig, Learner, Samples, fit
from labrecon.learners import PairSamples, Supervised, sample_generator
from labrecon.learners.self_supervised import MeasuredScan, ScanSamples
from labrecon.learners.self_supervised.factories import make_noise2inverse, make_ssdu
from labrecon.networks.modl import make_modl
from labrecon.networks.unrolled import Unrolled
from labrecon.solvers.trained import with_unit_noise

pytestmark = pytest.mark.reproduction
TRAINED, STEPS = 40, 200


@cache
def scanned(name: str) -> tuple[Operator, Problem, Tensor]:
    """Operator, scans and objects: 40 noisy parallel views of 64², or 24 of 64 lines by 4 coils."""
    instrument, geometry = ct() if name == "ct" else mri()
    operator, noise = instrument.operator(geometry), instrument.noise(geometry)
    x = instrument.objects(geometry, TRAINED + 10, sample_generator(0, 0, -2)).detach()
    with torch.no_grad():
        clean = operator(x)
        reached = operator(operator.domain.random(generator=torch.Generator().manual_seed(5))) != 0
    data = torch.stack([noise.sample(y, sample_generator(9, 0, i)) for i, y in enumerate(clean)])
    weights = None if bool(reached.all()) else reached.float()
    return operator, Problem(operator, torch.where(reached, data, 0), noise, weights), x


def ct() -> tuple[Instrument, object]:
    from labrecon_ct.geometry import CTGeometry
    from labrecon_ct.instrument import CTInstrument

    angles = tuple(k * math.pi / 40 for k in range(40))
    return CTInstrument(), CTGeometry(
        angles=angles,
        columns=92,
        column_pitch=1.0,
        voxel_size=1.0,
        volume_shape=(64, 64),
        open_beam=2000.0,
    )


def mri() -> tuple[Instrument, object]:
    from labrecon_mri.instrument import MRIInstrument

    mask = torch.zeros(64, 1)
    mask[28:36] = 1
    density = torch.exp(-(((torch.arange(64) - 31.5) / 18) ** 2)).double()
    density[28:36] = 0
    mask[torch.multinomial(density, 16, generator=torch.Generator().manual_seed(3))] = 1
    instrument = MRIInstrument()
    usual = dict(instrument.example())
    geometry = instrument.Geometry.model_validate({**usual, "mask": mask, "sigma": 0.03})
    return instrument, geometry


def some(problem: Problem, chosen: slice) -> Problem:
    return Problem(problem.operator, problem.data[chosen], problem.noise, problem.weights)


def network(name: str) -> Unrolled:
    _, problem, x = scanned(name)
    scale = float(x.abs().flatten(1).amax(1).mean())
    example = with_unit_noise(some(problem, slice(0, 1)))
    made = make_modl(example, depth=3, features=24, layers=4, scale=scale, seed=0, inner=6)
    made.start = "initial"
    return made


def score(name: str, learner: Learner, trained: Unrolled, samples: Samples) -> float:
    _, problem, x = scanned(name)
    rates = {"learning_rate": 1e-3, "schedule": "cosine", "clip": 1.0}
    fit(learner, samples, FitConfig(steps=STEPS, batch_size=4, **rates))
    trained.eval()
    with torch.no_grad():
        made = trained(with_unit_noise(some(problem, slice(TRAINED, None))))
    return mean_psnr(made, x[TRAINED:])


@cache
def supervised(name: str) -> float:
    operator, problem, x = scanned(name)
    trained = network(name)
    scan = Scan(problem.data[:TRAINED], None, problem.noise, problem.weights)
    samples = PairSamples([(scan, x[:TRAINED])], [operator])
    return score(name, Supervised(trained, operator, problem.noise), trained, samples)


LEARNERS = {
    "ct/noise2inverse": lambda net, a, n: make_noise2inverse(net, a, n, axes="angle"),
    "ct/ssdu": lambda net, a, n: make_ssdu(net, a, n, axes="angle", loss="object", fraction=0.3),
    "mri/ssdu": lambda net, a, n: make_ssdu(net, a, n, axes=("ky", "kx"), keep=8, fraction=0.3),
}
# In dB below the supervised one; measured 5.3, 3.3 and 1.1. Projections of few views stay behind:
# after so few steps, their streaks and what no view sees are learned from truths alone.
WITHIN = {"ct/noise2inverse": 5.9, "ct/ssdu": 3.9, "mri/ssdu": 1.6}


@pytest.mark.parametrize("case", LEARNERS)
def test_without_a_truth_it_comes_near_the_supervised(case: str) -> None:
    name = case.partition("/")[0]
    operator, problem, _ = scanned(name)
    trained = network(name)
    samples = ScanSamples([MeasuredScan(some(problem, slice(0, TRAINED)))])
    found = score(name, LEARNERS[case](trained, operator, problem.noise), trained, samples)
    print(case, round(found, 2), "supervised", round(supervised(name), 2))
    assert found > supervised(name) - WITHIN[case]
