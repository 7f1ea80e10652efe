"""Jacobian-free against implicit gradients: speed and accuracy for three kinds of step.

Run: ``PYTHONPATH=tests python tests/benchmarks/jfb.py DATA [--task MRI] [--steps 40]``.
One denoiser is trained for each task. Equilibria of gradient, proximal gradient and ADMM steps
around copies of it go on from there on blurred natural images and on sampled k-space, by
``backward="jfb"`` and by ``"implicit"``, with the same batches and rate; the rate is chosen by
"jfb" on other images than those of the table. It prints the PSNR on test images before and after
equal steps, and that of "implicit" after the time that "jfb" took for all its steps; times are
those of one thread.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from jfb_cases import NETS, TASKS, Task, begin, best_rate, train, trained_denoiser

from labrecon.priors.denoisers import Denoiser


def main() -> None:
    """Print a table for each task."""
    options = argparse.ArgumentParser()
    options.add_argument("data", type=Path)
    options.add_argument("--task", choices=list(TASKS))
    options.add_argument("--steps", type=int, default=40)
    given = options.parse_args()
    torch.set_num_threads(1)
    for name in [given.task] if given.task else list(TASKS):
        task = TASKS[name](given.data)
        denoiser = trained_denoiser(task)
        print(f"{name}: {task.unprocessed():.2f} dB blurred or zero-filled", flush=True)
        rate = best_rate(task, denoiser, given.steps)
        print(f"rate: {rate:g}", flush=True)
        print(f"{'':20} start   jfb  implicit  implicit, jfb's time   ms jfb   ms implicit")
        for kind in NETS:
            compare(kind, task, denoiser, rate, given.steps)


def compare(kind: str, task: Task, denoiser: Denoiser, rate: float, steps: int) -> None:
    """Train both and print a row."""
    every = max(1, steps // 8)
    made = {}
    for backward in ("jfb", "implicit"):
        net = begin(NETS[kind], denoiser, backward)
        made[backward] = train(net, task, steps, rate=rate, every=every)
    jfb, implicit = made["jfb"].scores, made["implicit"].scores
    seconds = jfb[-1][1]
    reached, _, meanwhile = made["implicit"].after(seconds)
    print(
        f"{kind:20} {jfb[0][2]:5.2f} {jfb[-1][2]:5.2f} {implicit[-1][2]:9.2f} "
        f"{meanwhile:9.2f} ({reached:3} steps) {1e3 * seconds / steps:9.0f} "
        f"{1e3 * implicit[-1][1] / steps:9.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
