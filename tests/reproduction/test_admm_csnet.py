"""ADMM-CSNet (TPAMI 2020): the authors' network for real-valued MRI (yangyan92/ADMM-CSNet, MIT).

The authors print no figures; those here were measured with independent code (systems.md §15).
"""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
import torch
from torch import Tensor

from labrecon.networks.published_admm import load_admm_csnet
from labrecon.operators import AsComplex, MaskedFourier
from labrecon.problem import Problem
from labrecon.space import Space

#: Deep ADMM-Net of 15 stages on the same slice and mask.
DEEP_ADMM_NET = 32.89


def matlab(path: Path, name: str) -> Tensor:
    with h5py.File(path) as file:
        return torch.from_numpy(file[name][()]).T.contiguous()


def nrmse_and_psnr(x: Tensor, truth: Tensor) -> tuple[float, float]:
    """``‖x − truth‖ / ‖truth‖``, and the PSNR of the modulus for peak 1."""
    peak = -10 * (x.abs() - truth).square().mean().log10()
    return float((x - truth).norm() / truth.norm()), float(peak)


@pytest.mark.slow
@pytest.mark.reproduction
def test_the_published_network_gives_its_figures(lab_data: Path) -> None:
    folder = lab_data / "published" / "admm_csnet"
    if not folder.is_dir():
        pytest.skip(f"the published network is not in {folder}")
    image = matlab(folder / "Brain_rdata1.mat", "im_ori").float()
    real = AsComplex(Space((256, 256)))
    mask = matlab(folder / "mask_pseudo_radial_0.2.mat", "mask")
    operator = MaskedFourier(real.range, mask) @ real
    problem = Problem(operator, operator(image))

    error, peak = nrmse_and_psnr(operator.outer.adjoint(problem.data), image)
    assert error == pytest.approx(0.1567, abs=1e-4)
    assert peak == pytest.approx(25.94, abs=0.02)

    network = load_admm_csnet(folder / "net_real_S11.mat").float()
    assert network.depth == 11
    with torch.no_grad():
        error, peak = nrmse_and_psnr(network(problem), image)
    assert error == pytest.approx(0.0554, abs=1e-4)
    assert peak == pytest.approx(34.74, abs=0.02)
    assert peak >= DEEP_ADMM_NET + 1.5
