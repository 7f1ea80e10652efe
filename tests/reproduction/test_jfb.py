"""Jacobian-free training of gradient, proximal gradient and ADMM steps (Fung et al. 2022).

Equilibria around one trained denoiser on blurred natural images and on brain slices of four coils,
trained on from there by ``backward="jfb"`` and by ``"implicit"`` with the same batches. The figures
of the seed (CelebA, 21.57 to 25.69 dB) are of other images, another kernel and 100 epochs, and are
not compared; `tests/benchmarks/jfb.py` prints ours, with larger slices, one coil and times.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from jfb_cases import NETS, Task, begin, deblurring, mri, patient, train, trained_denoiser

from labrecon.networks import Equilibrium
from labrecon.priors.denoisers import Denoiser

pytestmark = [pytest.mark.reproduction, pytest.mark.slow]

RATE = 1e-3


@dataclass(frozen=True)
class Case:
    """A task, a denoiser for it, and steps of training.

    Few: they take seconds. Figures go on rising for hundreds of steps.
    """

    task: Task
    denoiser: Denoiser
    steps: int


@pytest.fixture(scope="module", params=["deblurring", "MRI"])
def case(lab_data: Path, request: pytest.FixtureRequest) -> Case:
    if request.param == "MRI":
        task = mri(needs(lab_data, "published/ista_net/brain_test"), size=32)
        return Case(task, trained_denoiser(task, steps=300), 15)
    task = deblurring(needs(lab_data, "images/bsd400_set12/train"))
    return Case(task, trained_denoiser(task), 40)


def needs(data: Path, folder: str) -> Path:
    if not (data / folder).is_dir():
        pytest.skip(f"{folder} is not in {data}")
    return data


@pytest.mark.parametrize("kind", NETS)
def test_jacobian_free_training_gains_on_plug_and_play(kind: str, case: Case) -> None:
    made = train(begin(NETS[kind], case.denoiser, "jfb"), case.task, case.steps, rate=RATE)
    print(f"{kind}: {made.scores}, blurred or zero-filled {case.task.unprocessed():.2f} dB")
    _, _, plug_and_play = made.scores[0]
    assert plug_and_play >= case.task.unprocessed() + 0.5
    assert made.last >= plug_and_play + 0.5


@pytest.mark.nightly
@pytest.mark.parametrize("kind", NETS)
def test_jacobian_free_training_is_as_good_as_implicit(kind: str, case: Case) -> None:
    found = {}
    for backward in ("jfb", "implicit"):
        net = begin(NETS[kind], case.denoiser, backward)
        found[backward] = train(net, case.task, case.steps, rate=RATE).last
    print(f"{kind}: {found}")
    assert found["jfb"] >= found["implicit"] - 0.75


@pytest.mark.parametrize("kind", NETS)
def test_the_gradient_is_a_direction_of_descent(kind: str, case: Case) -> None:
    generator = torch.Generator().manual_seed(11)
    x = case.task.draw(generator)
    problem = case.task.problem(x, generator)
    solver = begin(NETS[kind], case.denoiser, "jfb").solver
    found = []
    for backward in ("jfb", "implicit"):
        net = Equilibrium(
            solver, backward=backward, iterations=60, start="adjoint", on_failure="ignore"
        )
        loss = (net(problem) - x).abs().square().mean()
        parts = torch.autograd.grad(loss, list(solver.parameters()))
        found.append(torch.cat([part.flatten() for part in parts]))
    cosine = float(found[0] @ found[1] / (found[0].norm() * found[1].norm()))
    print(f"{kind}: cosine {cosine:.2f}")
    assert cosine > 0


def test_one_coil_is_trained_far_from_its_fixed_point(lab_data: Path) -> None:
    """What one coil does not see is left to the denoiser, which hardly contracts there.

    The tolerance of training stops on the way, and it is the point on the way that gets better.
    """
    gains, off, told = {}, {}, {}
    denoiser = None
    for coils in (1, 4):
        task = mri(needs(lab_data, "published/ista_net/brain_test"), size=32, coils=coils)
        denoiser = denoiser or trained_denoiser(task, steps=300)
        net = begin(NETS["proximal gradient"], denoiser, "jfb")
        made = train(net, task, 15, rate=RATE)
        gains[coils] = made.last - made.scores[0][2]
        problem = task.unseen()
        with torch.no_grad():
            stopped, there = net.reconstruct(problem), patient(net)(problem)
        off[coils] = float((stopped.x - there).norm() / there.norm())
        told[coils] = stopped.told["distance"]
        print(
            f"{coils}: {made.scores}, stopped {task.psnr(stopped.x):.2f} dB {stopped.told}, {off}"
        )
        assert stopped.status == "done"
    assert gains[1] <= gains[4] - 0.5
    assert off[1] > 1.5 * off[4]
    assert told[1] > 1.25 * told[4]
    for coils in (1, 4):
        assert 0.25 * off[coils] < told[coils] < 2 * off[coils]
