"""Jacobian-free training of gradient, proximal gradient and ADMM steps (Fung et al. 2022).

Equilibria around one trained denoiser on blurred natural images, trained on from there by
``backward="jfb"`` and by ``"implicit"`` with the same batches. The figures of the seed (CelebA,
21.57 to 25.69 dB) are of other images, another kernel and 100 epochs, and are not compared;
`tests/benchmarks/jfb.py` prints ours, with MRI and times.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jfb_cases import NETS, Task, begin, deblurring, train, trained_denoiser

from labrecon.networks import Equilibrium
from labrecon.priors.denoisers import Denoiser

pytestmark = [pytest.mark.reproduction, pytest.mark.slow]

#: Few: they take seconds. Figures go on rising for hundreds of steps.
STEPS, RATE = 40, 1e-3


@pytest.fixture(scope="module")
def task(lab_data: Path) -> Task:
    if not (lab_data / "images" / "bsd400_set12" / "train").is_dir():
        pytest.skip(f"the images of BSD400 are not in {lab_data}")
    return deblurring(lab_data)


@pytest.fixture(scope="module")
def denoiser(task: Task) -> Denoiser:
    return trained_denoiser(task)


@pytest.mark.parametrize("kind", NETS)
def test_jacobian_free_training_gains_on_plug_and_play(
    kind: str, task: Task, denoiser: Denoiser
) -> None:
    made = train(begin(NETS[kind], denoiser, "jfb"), task, STEPS, rate=RATE)
    print(f"{kind}: {made.scores}, blurred {task.unprocessed():.2f} dB")
    _, _, plug_and_play = made.scores[0]
    assert plug_and_play >= task.unprocessed() + 0.5
    assert made.last >= plug_and_play + 0.5


@pytest.mark.nightly
@pytest.mark.parametrize("kind", NETS)
def test_jacobian_free_training_is_as_good_as_implicit(
    kind: str, task: Task, denoiser: Denoiser
) -> None:
    found = {}
    for backward in ("jfb", "implicit"):
        net = begin(NETS[kind], denoiser, backward)
        found[backward] = train(net, task, STEPS, rate=RATE).last
    print(f"{kind}: {found}")
    assert found["jfb"] >= found["implicit"] - 0.75


@pytest.mark.parametrize("kind", NETS)
def test_the_gradient_is_a_direction_of_descent(kind: str, task: Task, denoiser: Denoiser) -> None:
    generator = torch.Generator().manual_seed(11)
    x = task.draw(generator)
    problem = task.problem(x, generator)
    solver = begin(NETS[kind], denoiser, "jfb").solver
    found = []
    for backward in ("jfb", "implicit"):
        net = Equilibrium(
            solver, backward=backward, iterations=60, start="adjoint", on_failure="ignore"
        )
        loss = (net(problem) - x).square().mean()
        parts = torch.autograd.grad(loss, list(solver.parameters()))
        found.append(torch.cat([part.flatten() for part in parts]))
    assert float(found[0] @ found[1]) > 0
