"""Learn an acquisition: when should the shutter of a moving camera open?

The shutter pattern is the design parameter of the instrument in ``register_instrument.py``. A
reconstruction with fixed regularisation is scored on simulated scenes; the error is differentiated
through measurement, noise and reconstruction down to the pattern. After each step the pattern is
projected onto [0, 1]; in the end it is hardened to open and closed. Which code one ends in depends
on where one starts, so several starts are learned from. The best is judged on scenes that were not
used for learning, and written as the table that a shutter driver would load.
Run it: ``python examples/learn_shutter.py out/``.
"""

import csv
import sys
from pathlib import Path

import matplotlib.figure
import torch
from register_instrument import CodedShutterCamera

from labrecon import FitConfig, Learner, Problem, fit

SLOTS, STARTS = 13, 6


class Shutter(Learner):
    """A shutter pattern, learned for Tikhonov reconstruction."""

    def __init__(self, camera, geometry, rho: float = 1e-3) -> None:
        self.operator = camera.operator(geometry)
        self.noise = camera.noise(geometry)
        self.feasible = self.operator.designs["shutter"]
        (self.pattern,) = self.operator.learn("shutter")
        self.generator = torch.Generator().manual_seed(0)
        self.rho = rho

    def parameters(self):
        return [self.pattern]

    def loss(self, batch):
        error = (self.reconstruct(batch) - batch).square().mean()
        return error, {"rmse": float(error.detach()) ** 0.5}

    def after_step(self) -> None:
        with torch.no_grad():
            self.pattern.copy_(self.feasible.project(self.pattern))

    def reconstruct(self, scenes: torch.Tensor) -> torch.Tensor:
        """``argmin ½‖Ax − y‖² + ½ρ‖x‖²`` of simulated data: gradients reach the pattern twice."""
        problem = Problem(self.operator, self.noise.sample(self.operator(scenes), self.generator))
        rhs = self.operator.adjoint(problem.data)
        return self.operator.solve(rhs, self.rho, iterations=20)

    def judge(self, scenes: torch.Tensor, pattern: torch.Tensor) -> float:
        """Relative error of a pattern, with the same noise for each."""
        self.generator.manual_seed(1)
        with torch.no_grad():
            self.pattern.copy_(pattern)
            return float((self.reconstruct(scenes) - scenes).norm() / scenes.norm())


def main(out: Path) -> None:
    """Learn, harden, compare on unseen scenes, draw, export."""
    camera = CodedShutterCamera()
    geometry = camera.Geometry(height=16, width=48, shutter=(0.5,) * SLOTS)
    generator = torch.Generator().manual_seed(3)
    scenes = camera.objects(geometry, 32, generator)
    unseen = camera.objects(geometry, 64, generator)

    learner = Shutter(camera, geometry)
    candidates = []
    for start in torch.rand(STARTS, SLOTS, generator=generator):
        learner.pattern.data.copy_(start)
        fit(learner, scenes.split(16), FitConfig(epochs=25, learning_rate=0.2))
        candidates.append(learner.feasible.harden(learner.pattern.detach().clone()))
    learned = min(candidates, key=lambda pattern: learner.judge(scenes, pattern))
    patterns = {
        "always open": torch.ones(SLOTS),
        "half open": (torch.arange(SLOTS) < SLOTS // 2).float(),
        "random": (torch.rand(SLOTS, generator=generator) > 0.5).float(),
        "learned": learned,
    }
    errors = {name: learner.judge(unseen, pattern) for name, pattern in patterns.items()}
    lottery = (torch.rand(20, SLOTS, generator=generator) > 0.5).float()
    drawn = torch.tensor([learner.judge(unseen, pattern) for pattern in lottery])
    for name, error in errors.items():
        code = "".join(str(int(v)) for v in patterns[name])
        print(f"{name:12s} {code}  relative error on unseen scenes {error:.3f}")
    print(f"20 random patterns: mean {drawn.mean():.3f}, best {drawn.min():.3f}")
    print(f"violations: {learner.feasible.violations(patterns['learned']) or 'none'}")

    out.mkdir(parents=True, exist_ok=True)
    with (out / "shutter.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["slot", "open"])
        table.writerows(enumerate(int(v) for v in patterns["learned"]))

    figure = matplotlib.figure.Figure(figsize=(9, 2.4), layout="constrained")
    axes = figure.subplots(2, len(patterns), height_ratios=[1, 2])
    for column, (name, pattern) in enumerate(patterns.items()):
        learner.judge(unseen, pattern)
        axes[0, column].bar(range(SLOTS), pattern, width=1.0, color="k")
        axes[0, column].set(title=f"{name}: error {errors[name]:.2f}", xticks=[], yticks=[])
        with torch.no_grad():
            image = learner.reconstruct(unseen[:1])[0]
        axes[1, column].imshow(image, cmap="gray", vmin=0, vmax=1)
        axes[1, column].set(xticks=[], yticks=[])
    figure.savefig(out / "learn_shutter.png", dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
