"""Learn a k-space trajectory that a scanner can play, and write it as a Pulseq sequence.

Eight golden-angle spokes are the start. Control points of B-splines are moved by the gradient of
the reconstruction error, through noise, CG-SENSE and the NUFFT. After each step they are projected
onto what the gradients of a Siemens Prisma can do (40 mT/m, 200 T/m/s). Both trajectories are then
judged on bodies that were not learned from, by CG-SENSE and by TV. Run it:
``python examples/learn_trajectory.py out/``.
"""

import sys
from pathlib import Path

import matplotlib.figure
import torch
from torch import Tensor

from labrecon import FitConfig, Learner, Problem, fit, solve
from labrecon.noise import Gaussian
from labrecon.priors import TV
from labrecon.solvers import CG, FISTA
from labrecon_mri.exporters.pulseq import export_pulseq
from labrecon_mri.forward_model import forward_model
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.gradient_slew import GradientSlew
from labrecon_mri.phantoms import birdcage_maps, random_objects
from labrecon_mri.spline import BSpline
from labrecon_mri.trajectories import radial

MATRIX, FOV, COILS = (96, 96), (0.22, 0.22), 4
SPOKES, SAMPLES, DWELL, CONTROL = 8, 384, 10e-6, 48
EDGE = MATRIX[0] / (2 * FOV[0])
SOLVERS = {"CG-SENSE": (CG(rho=0.03), 25), "TV": (FISTA(prior=TV(0.01)), 80)}


class Trajectory(Learner):
    """The control points of a trajectory, learned for CG-SENSE."""

    def __init__(self, geometry: MRIGeometry) -> None:
        self.operator = forward_model(geometry)
        self.noise = Gaussian(0.01)
        self.spline = BSpline(CONTROL, SAMPLES, DWELL)
        # The curve keeps the limits at all times where its control points keep them.
        self.limits = GradientSlew.of("prisma", dwell=self.spline.spacing)
        start = self.spline.fit(geometry.trajectory.tensor(torch.float64))
        self.control = torch.nn.Parameter(self.limits.project(start))
        self.generator = torch.Generator().manual_seed(0)

    def parameters(self):
        return [self.control]

    def loss(self, batch: Tensor):
        operator = self.operator.at(**{"sampling.trajectory": self.spline(self.control)})
        problem = Problem(operator, self.noise.sample(operator(batch), self.generator))
        solver = SOLVERS["CG-SENSE"][0]
        state = solver.init(problem)
        for _ in range(8):
            state, _ = solver.step(problem, state)
        error = (solver.estimate(state) - batch).abs().square().mean()
        return error, {"rmse": float(error.detach()) ** 0.5}

    def after_step(self) -> None:
        with torch.no_grad():
            self.control.copy_(self.limits.project(self.control.clamp(-EDGE, EDGE)))


def judge(geometry: MRIGeometry, trajectory: Tensor, bodies: Tensor) -> dict[str, Tensor]:
    """Reconstructions of unseen bodies, with the same noise for each trajectory."""
    operator = forward_model(geometry.changed(trajectory=trajectory))
    generator = torch.Generator().manual_seed(1)
    problem = Problem(operator, Gaussian(0.01).sample(operator(bodies), generator))
    return {name: solve(s, problem, iterations=n).x for name, (s, n) in SOLVERS.items()}


def main(out: Path) -> None:
    """Learn, check the limits, compare on unseen bodies, draw, export."""
    start = radial(SPOKES, SAMPLES, MATRIX, FOV)
    geometry = MRIGeometry(
        matrix=MATRIX,
        fov=FOV,
        coils=COILS,
        maps=birdcage_maps(COILS, MATRIX),
        trajectory=start,
        dwell=DWELL,
    )
    generator = torch.Generator().manual_seed(2)
    bodies, unseen = (random_objects(geometry, n, generator) for n in (32, 8))
    learner = Trajectory(geometry)
    fit(learner, bodies.split(2), FitConfig(epochs=4, learning_rate=2.0))
    learned = learner.spline(learner.control.detach())

    on_samples = GradientSlew.of("prisma", dwell=DWELL)
    print(f"violations: {on_samples.violations(learned) or 'none'}")
    figure = matplotlib.figure.Figure(figsize=(10, 5.4), layout="constrained")
    axes = figure.subplots(2, 4)
    axes[0, 3].imshow(unseen[0].abs(), cmap="gray", vmin=0, vmax=1)
    axes[0, 3].set_title("truth")
    for row, (title, k) in enumerate({"radial": start, "learned": learned}.items()):
        for shot in k:
            axes[row, 0].plot(shot[:, 1], shot[:, 0], lw=0.7)
        axes[row, 0].set(title=f"{title}, k in 1/m", aspect="equal")
        for column, (name, x) in enumerate(judge(geometry, k, unseen).items(), 1):
            error = float((x - unseen).norm() / unseen.norm())
            print(f"{title:8s} {name:9s} relative error on unseen bodies {error:.3f}")
            axes[row, column].imshow(x[0].abs(), cmap="gray", vmin=0, vmax=1)
            axes[row, column].set_title(f"{name}: error {error:.2f}")
    axes[1, 3].plot(on_samples.slew(learned).norm(dim=-1).mT, lw=0.4)
    axes[1, 3].axhline(200, color="k", ls=":")
    axes[1, 3].set_title("slew rate, T/m/s")
    for axis in axes[:, 1:3].flat:
        axis.set(xticks=[], yticks=[])
    axes[0, 3].set(xticks=[], yticks=[])
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "learn_trajectory.png", dpi=110)
    export_pulseq(geometry, {"sampling.trajectory": learned}, out / "learned")
    print((out / "learned.limits.txt").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
