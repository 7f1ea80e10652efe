"""Jacobian-free against implicit gradients: speed and accuracy for three kinds of step.

Run: ``PYTHONPATH=tests python tests/benchmarks/jfb.py DATA [--task MRI] [--kind ADMM]``.
Equilibria of gradient, proximal gradient and ADMM steps around the same trained denoiser are
trained on blurred natural images and on sampled k-space, by ``backward="jfb"`` and by
``"implicit"``, with the same batches and rate. It prints the PSNR on test images before and after
equal steps, and that of "implicit" after the time that "jfb" took for all its steps; times are
those of one thread.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from jfb_cases import NETS, TASKS, begin, train, trained_denoiser


def main() -> None:
    """Print a table for each task."""
    options = argparse.ArgumentParser()
    options.add_argument("data", type=Path)
    options.add_argument("--task", choices=list(TASKS))
    options.add_argument("--kind", choices=list(NETS))
    options.add_argument("--steps", type=int, default=45)
    options.add_argument("--rate", type=float, default=3e-3)
    given = options.parse_args()
    torch.set_num_threads(1)
    for name in [given.task] if given.task else list(TASKS):
        task = TASKS[name](given.data)
        denoiser = trained_denoiser(task)
        measured = task.unseen()
        adjoint = task.psnr(measured.operator.adjoint(measured.data))
        print(f"{name}: {adjoint:.2f} dB in the adjoint of the data")
        print(f"{'':20} start   jfb  implicit  implicit, jfb's time   ms jfb   ms implicit")
        for kind in [given.kind] if given.kind else list(NETS):
            make = NETS[kind]
            made = {
                backward: train(
                    begin(make, denoiser, backward),
                    task,
                    given.steps,
                    every=given.steps // 3,
                    rate=given.rate,
                )
                for backward in ("jfb", "implicit")
            }
            jfb, implicit = made["jfb"].scores, made["implicit"].scores
            seconds = jfb[-1][1]
            steps, _, meanwhile = max(s for s in implicit if s[1] <= seconds)
            print(
                f"{kind:20} {jfb[0][2]:5.2f} {jfb[-1][2]:5.2f} {implicit[-1][2]:9.2f} "
                f"{meanwhile:9.2f} ({steps:3} steps) {1e3 * seconds / given.steps:9.0f} "
                f"{1e3 * implicit[-1][1] / given.steps:9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
