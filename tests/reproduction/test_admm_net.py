"""Deep ADMM-Net (NIPS 2016): the authors' network and figures (yangyan92/Deep-ADMM-Net, MIT)."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
import torch
from torch import Tensor

from labrecon.networks import Unrolled
from labrecon.networks.admm_net import make_admm_net
from labrecon.networks.published_admm import load_admm_net
from labrecon.operators import AsComplex, MaskedFourier
from labrecon.problem import Problem
from labrecon.space import Space

pytestmark = pytest.mark.reproduction


@pytest.fixture(scope="module")
def published(lab_data: Path) -> Path:
    folder = lab_data / "published" / "admm_net"
    if not folder.is_dir():
        pytest.skip(f"the published network is not in {folder}")
    return folder


def matlab(path: Path, name: str) -> Tensor:
    with h5py.File(path) as file:
        return torch.from_numpy(file[name][()]).T.contiguous()


def sampled(images: Tensor, mask: Tensor) -> Problem:
    """Cartesian sampling of real images."""
    real = AsComplex(Space(tuple(images.shape[-2:]), images.dtype))
    operator = MaskedFourier(real.range, mask) @ real
    return Problem(operator, operator(images))


def zero_filled(problem: Problem) -> Tensor:
    return problem.operator.outer.adjoint(problem.data)


def nmse(x: Tensor, truth: Tensor) -> Tensor:
    """The authors' "NMSE", ``‖x − truth‖ / ‖truth‖`` per image."""
    error = torch.linalg.vector_norm(x - truth, dim=(-2, -1))
    return error / torch.linalg.vector_norm(truth, dim=(-2, -1))


def psnr(x: Tensor, truth: Tensor) -> float:
    """Peak 1, of the modulus, mean over images."""
    return float(-10 * (x.abs() - truth).square().mean((-2, -1)).log10().mean())


def test_the_published_network_gives_the_published_figures(published: Path) -> None:
    image = matlab(published / "Brain_data1.mat", "im_ori")
    problem = sampled(image, matlab(published / "mask_20.mat", "mask"))
    start = zero_filled(problem)
    assert float(nmse(start, image)) == pytest.approx(0.1407, abs=1e-4)
    assert psnr(start, image) == pytest.approx(28.11, abs=0.01)
    with torch.no_grad():
        x = load_admm_net(published / "net-stage14.mat")(problem)
    assert float(nmse(x, image)) == pytest.approx(0.0562, abs=1e-4)
    assert psnr(x, image) == pytest.approx(35.83, abs=0.01)


@pytest.mark.slow
def test_it_beats_classical_admm_on_the_same_filters(lab_data: Path, published: Path) -> None:
    image = matlab(lab_data / "published" / "admm_csnet" / "Brain_rdata1.mat", "im_ori").float()
    problem = sampled(image, matlab(published / "mask_20.mat", "mask"))
    with torch.no_grad():
        learned = psnr(load_admm_net(published / "net-stage14.mat").float()(problem), image)
        classical = []
        for threshold in (0.001, 0.003, 0.01, 0.05):
            network = make_admm_net(problem, depth=1, threshold=threshold)
            network.depth = 100
            classical.append(psnr(network(problem), image))
    print(f"learned {learned:.2f}, classical {[f'{c:.2f}' for c in classical]}")
    assert learned >= max(classical) + 2


def chest(published: Path, numbers: range, mask: Tensor) -> tuple[Problem, Tensor]:
    paths = [published / "ChestTrain" / f"im-{number:02d}.mat" for number in numbers]
    images = torch.stack([matlab(path, "im_ori") for path in paths])
    images = images.float()
    return sampled(images, mask), images


def train(network: Unrolled, problem: Problem, images: Tensor, iterations: int) -> None:
    optimiser = torch.optim.LBFGS(
        network.parameters(), max_iter=iterations, history_size=5, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = nmse(network(problem), images).mean()
        loss.backward()
        return loss

    optimiser.step(closure)


@pytest.mark.slow
def test_five_stages_learn_from_four_images(published: Path) -> None:
    mask = matlab(published / "mask_20.mat", "mask")
    problem, images = chest(published, range(1, 5), mask)
    unseen, truth = chest(published, range(10, 16), mask)
    network = make_admm_net(problem, depth=5)
    with torch.no_grad():
        untrained = psnr(network(unseen), truth)
    train(network, problem, images, iterations=20)
    with torch.no_grad():
        trained = psnr(network(unseen), truth)
    start = psnr(zero_filled(unseen), truth)
    print(f"zero-filled {start:.2f}, untrained {untrained:.2f}, trained {trained:.2f}")
    assert trained >= start + 4
    assert trained >= untrained + 2.5
