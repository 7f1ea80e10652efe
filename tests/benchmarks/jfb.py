"""Jacobian-free against implicit gradients: speed and accuracy for three kinds of step.

Run: ``PYTHONPATH=tests python tests/benchmarks/jfb.py DATA [--tasks MRI] [--steps 30]``; a task
takes some four minutes of one core.
One denoiser is trained for each task. Equilibria of gradient, proximal gradient and ADMM steps
around copies of it go on from there on blurred natural images and on sampled k-space, by
``backward="jfb"`` and by ``"implicit"``, with the same batches and rate; the rate is chosen by
"jfb" on other images than those of the table. It prints the PSNR on test images before and after
equal steps, and that of "implicit" after the time that "jfb" took for all its steps; times are
those of one thread. Scores are those of the fixed point to 1e-5; "off" is how far from it the
tolerance of training stops after "jfb", in percent of the object, which is large where a map
hardly contracts: see the task of one coil, which is not run by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from jfb_cases import NETS, TASKS, Task, begin, best_rate, patient, train, trained_denoiser

from labrecon.networks import Equilibrium
from labrecon.priors.denoisers import Denoiser


def main() -> None:
    """Print a table for each task."""
    options = argparse.ArgumentParser()
    options.add_argument("data", type=Path)
    options.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["deblurring", "MRI"])
    options.add_argument("--steps", type=int, default=30)
    given = options.parse_args()
    torch.set_num_threads(1)
    for name in given.tasks:
        task = TASKS[name](given.data)
        denoiser = trained_denoiser(task)
        print(f"{name}: {task.unprocessed():.2f} dB blurred or zero-filled", flush=True)
        rate = best_rate(task, denoiser, given.steps)
        print(f"rate: {rate:g}", flush=True)
        print(
            f"{'':20} start   jfb  implicit  implicit, jfb's time   ms jfb   ms implicit"
            "   contraction   off, %"
        )
        for kind in NETS:
            compare(kind, task, denoiser, rate, given.steps)


def compare(kind: str, task: Task, denoiser: Denoiser, rate: float, steps: int) -> None:
    """Train both and print a row."""
    made, nets = {}, {}
    for backward in ("jfb", "implicit"):
        nets[backward] = begin(NETS[kind], denoiser, backward)
        # Only of "implicit" is it asked what was reached on the way.
        every = max(1, steps // 6) if backward == "implicit" else 0
        made[backward] = train(nets[backward], task, steps, rate=rate, every=every)
    contraction, off = contracting(nets["jfb"], task)
    jfb, implicit = made["jfb"].scores, made["implicit"].scores
    seconds = jfb[-1][1]
    reached, _, meanwhile = made["implicit"].after(seconds)
    print(
        f"{kind:20} {jfb[0][2]:5.2f} {jfb[-1][2]:5.2f} {implicit[-1][2]:9.2f} "
        f"{meanwhile:9.2f} ({reached:3} steps) {1e3 * seconds / steps:9.0f} "
        f"{1e3 * implicit[-1][1] / steps:9.0f} {contraction:17.3f} {100 * off:8.1f}",
        flush=True,
    )


@torch.no_grad()
def contracting(net: Equilibrium, task: Task) -> tuple[float, float]:
    """Change of distances near the fixed point, and how far from it training stops."""
    problem = task.unseen()
    there, stopped = patient(net).reconstruct(problem), net(problem)
    return there.told["contraction"], float((stopped - there.x).norm() / there.x.norm())


if __name__ == "__main__":
    main()
