"""The released learned gradient descent on Shepp-Logan, beside FBP and TV (Adler and Öktem 2017).

Published: FBP 19.75, TV 28.06, learned gradient descent 32.02 dB, on ASTRA's CUDA projector.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from ellipses import shepp_logan
from sparse_view import VIEWS, mean_psnr, measured, of_norm_one, projector, total_variation

from labrecon.networks.published_gradient import read_learned_gradient
from labrecon.problem import Problem

pytestmark = [pytest.mark.reproduction, pytest.mark.slow]
PARAMETERS = "published/learned_gradient_descent/parameters.npz"


def test_released_parameters_beat_tv_and_get_better_in_each_iteration(lab_data: Path) -> None:
    path = lab_data / PARAMETERS
    if not path.is_file():
        pytest.skip(f"the released parameters are not in {path}")
    projection = projector(128)
    operator = of_norm_one(projection)
    truth = shepp_logan(128).expand(5, -1, -1)
    data = measured(operator, truth, torch.Generator().manual_seed(0))

    hann = projector(128, filter="hann")
    fbp = mean_psnr((operator.factor * hann).initial(data), truth)
    assert fbp == pytest.approx(19.75, abs=0.15)

    # ODL's ‖Ax − y‖² + 0.26 TV with ‖·‖² integrated over angle and detector, as ½‖Ax − y‖² in
    # plain sums of the operator of norm 1.
    cell = math.pi / VIEWS * projection.geometry.column_pitch
    weight = 0.26 / (2 * cell) * operator.factor**2
    tv = mean_psnr(total_variation(operator, data, weight, 300), truth)
    assert tv == pytest.approx(28.06, abs=0.25)

    problem = Problem(operator, data)
    network = read_learned_gradient(path, problem, step_size=1.0)
    with torch.no_grad():
        trace = network.reconstruct(problem, trace=True).trace
    scores = [mean_psnr(x, truth) for x in trace]
    print(f"FBP {fbp:.2f}, TV {tv:.2f}, LGD {scores[-1]:.2f} dB; by iteration {scores}")
    assert scores == sorted(scores)
    assert scores[-1] >= max(30.3, tv + 2)
