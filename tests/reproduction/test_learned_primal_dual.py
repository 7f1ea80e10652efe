"""Learned primal-dual and FBP (Adler and Öktem 2018) at 30 views and small sizes.

Published at 128² after 100 000 steps on a GPU, on Shepp-Logan: FBP (Hann) 19.75, TV 28.06, learned
primal-dual 38.28 dB. Ahead of a TV that has converged, with the weight that suits the truth best,
it comes only after a training of that kind: ``tests/benchmarks/learned_primal_dual.py``.
"""

from __future__ import annotations

import pytest
import torch
from ellipses import LPD, shepp_logan
from sparse_view import (
    best_total_variation,
    estimated,
    mean_psnr,
    measured,
    of_norm_one,
    projector,
    train,
)

from labrecon.networks.learned_primal_dual import make_lpd
from labrecon.problem import Problem

pytestmark = pytest.mark.reproduction
WEIGHTS = [2e-5, 5e-5, 1e-4, 2e-4, 3.5e-4]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.slow
def test_a_short_training_beats_filtered_back_projection() -> None:
    operator = of_norm_one(projector(48))
    hann = operator.factor * projector(48, filter="hann")
    truth = LPD.draw(16, 48, seeded(100))
    data = measured(operator, truth, seeded(101))
    network = make_lpd(Problem(operator, data), depth=6, features=16)
    train(network, operator, LPD.draw(800, 48, seeded(0)), steps=1000, batch=2)
    fbp, plain = (mean_psnr(a.initial(data), truth) for a in (hann, operator))
    lpd = mean_psnr(estimated(network, operator, data), truth)
    print(f"FBP {fbp:.2f} (Hann), {plain:.2f} (ramp), LPD {lpd:.2f} dB")
    assert lpd >= fbp + 1.2
    assert lpd > plain


@pytest.mark.nightly
def test_the_published_network_is_far_ahead_of_filtered_back_projection() -> None:
    operator = of_norm_one(projector(64))
    hann = operator.factor * projector(64, filter="hann")
    sets = {"ellipses": LPD.draw(16, 64, seeded(100)), "head": shepp_logan(64).expand(3, -1, -1)}
    data = {name: measured(operator, truth, seeded(101)) for name, truth in sets.items()}
    network = make_lpd(Problem(operator, data["head"]))
    train(network, operator, LPD.draw(1500, 64, seeded(0)), steps=2400, batch=4)
    for name, margin in (("ellipses", 2.5), ("head", 4.0)):
        truth = sets[name]
        fbp = mean_psnr(hann.initial(data[name]), truth)
        tv = best_total_variation(operator, data[name], truth, WEIGHTS)
        lpd = mean_psnr(estimated(network, operator, data[name]), truth)
        print(f"{name}: FBP {fbp:.2f}, TV {tv:.2f}, LPD {lpd:.2f} dB")
        assert lpd >= fbp + margin
        assert tv > fbp
