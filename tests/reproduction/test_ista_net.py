"""Released ISTA-Net weights on Set11 and on brain images (Zhang and Ghanem 2018).

Published: ISTA-Net⁺ at 25 % 32.57 dB, ISTA-Net at 10 % 25.80 dB, ISTA-Net⁺ for MRI at 20 %
38.73 dB. The released weights are of another training: independent code finds 32.436, 26.261 and
38.703 dB with them.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat
from torch import Tensor
from torch.nn.functional import pad

from labrecon.networks.published import read_ista_net
from labrecon.operators import AsComplex, MaskedFourier, Matrix
from labrecon.problem import Problem
from labrecon.space import Space

pytestmark = [pytest.mark.reproduction, pytest.mark.slow]
BLOCK = 33


@pytest.fixture
def folder(lab_data: Path) -> Path:
    path = lab_data / "published" / "ista_net"
    if not path.is_dir():
        pytest.skip(f"the released weights are not in {path}")
    return path


def stored(path: Path, key: str) -> Tensor:
    return torch.from_numpy(loadmat(path)[key]).float()


def grey(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("L"))).float() / 255


def psnr_of_peak_1(estimate: Tensor, truth: Tensor) -> float:
    """After the estimate is clipped to [0, 1]."""
    error = (estimate.clamp(0, 1).double() - truth.double()).square().mean()
    return -10 * math.log10(float(error))


def blocks(image: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Blocks ``(rows · columns, 33, 33)``; sizes that fit already get a whole block more of 0."""
    height, width = image.shape
    padded = pad(image, (0, BLOCK - width % BLOCK, 0, BLOCK - height % BLOCK))
    cut = padded.unfold(0, BLOCK, BLOCK).unfold(1, BLOCK, BLOCK)
    return cut.reshape(-1, BLOCK, BLOCK), (cut.shape[0], cut.shape[1])


def joined(cut: Tensor, grid: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    rows = cut.reshape(*grid, BLOCK, BLOCK).transpose(1, 2)
    whole = rows.reshape(grid[0] * BLOCK, grid[1] * BLOCK)
    return whole[: shape[0], : shape[1]]


@pytest.mark.parametrize(
    ("weights", "ratio", "measured", "published", "apart"),
    [
        ("ista_net_plus_cs_ratio_25", 25, 32.436, 32.57, 0.2),
        # Better than the paper says.
        ("ista_net_cs_ratio_10", 10, 26.261, 25.80, 0.47),
    ],
)
def test_block_compressed_sensing_of_set11(
    folder: Path, weights: str, ratio: int, measured: float, published: float, apart: float
) -> None:
    phi = stored(folder / f"sampling_matrix/phi_0_{ratio}_1089.mat", "phi")
    linear = stored(folder / f"sampling_matrix/Initialization_Matrix_{ratio}.mat", "Qinit")
    operator = Matrix(phi, Space((BLOCK, BLOCK)))
    start = Matrix(linear, operator.range, operator.domain)
    network = read_ista_net(folder / f"{weights}.npz", start=start)
    scores = []
    for path in sorted((folder / "Set11").glob("*.tif")):
        truth = grey(path)
        cut, grid = blocks(truth)
        with torch.no_grad():
            # Few at a time stay in the processor's cache.
            made = [network(Problem(operator, operator(some))) for some in cut.split(8)]
        scores.append(psnr_of_peak_1(joined(torch.cat(made), grid, truth.shape), truth))
    mean = sum(scores) / len(scores)
    print(f"{weights}: {mean:.3f} dB, {mean - published:+.3f} from the paper")
    assert len(scores) == 11
    assert mean == pytest.approx(measured, abs=0.01)
    assert mean == pytest.approx(published, abs=apart)


def test_mri_of_brain_images(folder: Path) -> None:
    space, spectrum = Space((256, 256)), Space((256, 256), torch.complex64)
    # Their k-space has its origin in the corner.
    mask = torch.fft.fftshift(stored(folder / "sampling_matrix/mask_20.mat", "mask_matrix"))
    operator = MaskedFourier(spectrum, mask) @ AsComplex(space)
    network = read_ista_net(folder / "ista_net_plus_mri_ratio_20.npz", start="adjoint")
    network = network.to(memory_format=torch.channels_last)
    scores, zero_filled = [], []
    for path in sorted((folder / "brain_test").glob("*.png")):
        truth = grey(path)
        data = operator(truth)
        with torch.no_grad():
            scores.append(psnr_of_peak_1(network(Problem(operator, data)), truth))
        zero_filled.append(psnr_of_peak_1(operator.adjoint(data), truth))
    mean, zero = sum(scores) / len(scores), sum(zero_filled) / len(scores)
    print(f"MRI: {mean:.3f} dB, {mean - 38.73:+.3f} from the paper; zero-filled {zero:.3f} dB")
    assert len(scores) == 50
    assert zero == pytest.approx(30.413, abs=0.01)
    assert mean == pytest.approx(38.703, abs=0.01)
    assert mean == pytest.approx(38.73, abs=0.2)
