"""One solver, four lives: classical, unrolled, in equilibrium, plug and play.

The camera of ``register_instrument.py`` smears the scene along x by a coded shutter. Proximal
gradient descent is written once (`labrecon.solvers.ISTA`). Here it is iterated with total
variation; unrolled to six layers whose step sizes and transforms are learned; given a denoiser,
trained without the camera, in place of the prior; and iterated with that denoiser to its fixed
point, through which the denoiser is trained further. The scenes are woven, which total variation
knows nothing of and a network learns.
Run it: ``python examples/four_lives.py out/``, a minute.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import torch
from register_instrument import CodedShutterCamera

from labrecon import FitConfig, Problem, fit, solve
from labrecon.learners import Denoising, ObjectSamples, Supervised
from labrecon.metrics import psnr
from labrecon.networks import Equilibrium, Unrolled
from labrecon.networks.ista_net import make_ista_net_plus
from labrecon.priors import TV
from labrecon.priors.denoisers import Denoiser, DnCNN
from labrecon.seeds import seeded
from labrecon.solvers import FISTA, ISTA

#: Side of a scene in pixels.
SIZE = 40
#: Noise that the denoiser is trained for, in units of the scene.
SIGMA = 0.05


def woven(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Scenes ``(count, y, x)`` of four cloths, each striped at an angle and a pitch of its own."""
    ticks = torch.arange(size) - size / 2
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    scenes = torch.zeros(count, size, size)
    for scene in scenes:
        for cloth in range(4):
            angle, seam, shift, pitch, level = torch.rand(5, generator=generator).tolist()
            across = x * math.cos(math.pi * angle) + y * math.sin(math.pi * angle)
            stripes = torch.sin(2 * math.pi * across / (4 + 4 * pitch))
            side = x * math.cos(2 * math.pi * seam) + y * math.sin(2 * math.pi * seam)
            here = side > (shift - 0.5) * size / 2 if cloth else side == side
            scene[here] = (0.3 + 0.4 * level + 0.25 * stripes)[here]
    return scenes


def scores(estimates: torch.Tensor, scenes: torch.Tensor) -> list[float]:
    return [psnr(x, scene) for x, scene in zip(estimates, scenes, strict=True)]


def main(out: Path) -> None:
    """Simulate, train, compare on scenes that were not trained on, draw."""
    camera = CodedShutterCamera()
    geometry = camera.Geometry(height=SIZE, width=SIZE)
    operator, noise = camera.operator(geometry), camera.noise(geometry)
    generator = torch.Generator().manual_seed(0)
    samples = ObjectSamples(woven(64, SIZE, generator))
    unseen = woven(8, SIZE, generator)
    with torch.no_grad():
        measured = Problem(operator, noise.sample(operator(unseen), generator))
    step = 1 / measured.lipschitz()

    # Classical: the weight of TV that serves these scenes best.
    weights = [1e-4, 3e-4, 1e-3, 3e-3]
    solved = [solve(FISTA(prior=TV(w)), measured, iterations=200).x for w in weights]
    classical = max(solved, key=lambda x: sum(scores(x, unseen)))

    # Unrolled: six layers, each with its own step size, threshold and transforms.
    unrolled = make_ista_net_plus(measured, depth=6, features=12)
    config = FitConfig(steps=240, batch_size=8, learning_rate=4e-3, schedule="cosine", clip=1.0)
    train("unrolled", lambda: fit(Supervised(unrolled, operator, noise), samples, config))

    # Plug and play: a denoiser that knows nothing of the camera takes the place of the prior.
    with seeded(0):
        network = DnCNN(depth=6, features=24, batch_norm=False, spectral=True)
    denoiser = Denoiser(network)
    learner = Denoising(denoiser, SIGMA, shape=operator.domain.shape)
    config = FitConfig(steps=300, batch_size=8, learning_rate=2e-3, schedule="cosine")
    train("denoiser", lambda: fit(learner, samples, config))
    solver = ISTA(prior=denoiser, step_size=step)
    plugged = Unrolled(solver, 100, start="initial")
    with torch.no_grad():
        plug_and_play = plugged(measured)

    # Equilibrium: the same solver at its fixed point, and the denoiser trained through it.
    equilibrium = Equilibrium(
        solver, start="initial", backward="jfb", iterations=60, tolerance=1e-3, on_failure="ignore"
    )
    config = FitConfig(steps=60, batch_size=4, learning_rate=5e-4)
    train("equilibrium", lambda: fit(Supervised(equilibrium, operator, noise), samples, config))

    with torch.no_grad():
        found = equilibrium.reconstruct(measured)
        images = {
            "adjoint": operator.initial(measured.data),
            "TV, 200 iterations": classical,
            "plug and play": plug_and_play,
            "equilibrium": found.x,
            "unrolled, 6 layers": unrolled(measured),
        }
    print(f"equilibrium: {found.status}, {found.told}")
    draw(out, unseen, images)


def train(what: str, run: Callable[[], object]) -> None:
    begin = time.perf_counter()
    run()
    print(f"{what}: trained in {time.perf_counter() - begin:.0f} s")


def draw(out: Path, scenes: torch.Tensor, images: dict[str, torch.Tensor]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    figure = matplotlib.figure.Figure(figsize=(12, 2.6), layout="constrained")
    panels = {"scene": scenes, **images}
    for axis, (title, shown) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axis.imshow(shown[0], cmap="gray", vmin=0, vmax=1)
        axis.set(title=title, xticks=[], yticks=[])
        if title != "scene":
            mean = sum(scores(shown, scenes)) / len(scenes)
            axis.set_xlabel(f"{mean:.1f} dB on average")
            print(f"{title:20s} {mean:.2f} dB")
    figure.savefig(out / "four_lives.png", dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
