"""FBPConvNet between FBP and TV on ellipses (Jin et al. 2017, table 1), at 64² and 30 views.

Published, regressed SNR on 512² ellipses of 143 views: FBP 16.66, FBPConvNet 29.38, TV 30.08 dB.
"""

from __future__ import annotations

import pytest
import torch
from ellipses import LGD
from sparse_view import (
    estimated,
    mean_psnr,
    measured,
    of_norm_one,
    projector,
    total_variation,
    train,
)

from labrecon.networks.fbp_convnet import make_fbp_convnet
from labrecon.problem import Problem


@pytest.mark.reproduction
@pytest.mark.slow
def test_the_network_is_better_than_fbp_and_on_ellipses_not_as_good_as_tv() -> None:
    operator = of_norm_one(projector(64, filter="hann"))
    truth = LGD.draw(16, 64, torch.Generator().manual_seed(100))
    data = measured(operator, truth, torch.Generator().manual_seed(101))
    network = make_fbp_convnet(
        Problem(operator, data), depth=3, features=24, normalise=False, padding="zero"
    )
    objects = LGD.draw(800, 64, torch.Generator().manual_seed(0))
    train(network, operator, objects, steps=600, batch=2)
    direct = mean_psnr(operator.initial(data), truth)
    mended = mean_psnr(estimated(network, operator, data), truth)
    tv = mean_psnr(total_variation(operator, data, 5e-4, 200), truth)
    print(f"FBP {direct:.2f}, FBPConvNet {mended:.2f}, TV {tv:.2f} dB")
    assert direct + 0.6 <= mended < tv
