"""The released parameters of learned gradient descent, as a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from labrecon.networks.learned_gradient import LearnedGradientDescent
from labrecon.networks.safe_step import safe_step
from labrecon.networks.unrolled import Unrolled
from labrecon.networks.update_network import update_network
from labrecon.problem import Problem
from labrecon.solver import SolverError

__all__ = ["read_learned_gradient"]

KEYS = ("w1", "b1", "w2", "b2", "w3", "b3")


def read_learned_gradient(
    path: str | Path, problem: Problem, *, depth: int = 10, step_size: float | None = None
) -> Unrolled:
    """Learned gradient descent with the parameters of the authors' ``.npz`` file.

    Kernels there are ``(3, 3, inputs, outputs)`` for images whose first axis is x and whose second
    is y, upwards; they are turned here for images of rows from the top. Trained on ellipses of
    values near 1, 30 views, 5 % noise (github.com/adler-j/learned_gradient_tomography).

    Args:
        path: of the file, with arrays w1, b1, w2, b2, w3, b3.
        problem: an example with a real object of two axes.
        depth: number of layers; 10 in training.
        step_size: None for ``1 / L``. In training it was ``1 / ‖A‖²``, which the weighted inner
            products of ODL come to.

    Raises:
        SolverError: the file holds other arrays, or the object is not a real image.
    """
    domain = problem.operator.domain
    if domain.dtype.is_complex or domain.ndim < 2:
        raise SolverError(f"the parameters are for real images, got a domain {domain}")
    with np.load(path, allow_pickle=False) as stored:
        if set(stored) != set(KEYS):
            raise SolverError(f"{path}: expected arrays {', '.join(KEYS)}, got {sorted(stored)}")
        arrays = {key: torch.from_numpy(stored[key].astype(np.float64)) for key in KEYS}
    network, memory = _network(arrays, str(path))
    solver = LearnedGradientDescent(
        network.to(domain.real_dtype),
        memory_images=memory,
        step_size=safe_step(problem) if step_size is None else step_size,
    )
    return Unrolled(solver, depth, start="initial")


def _network(arrays: dict[str, Tensor], path: str) -> tuple[nn.Module, int]:
    first, last = arrays["w1"], arrays["w3"]
    memory = last.shape[-1] - 1
    if first.ndim != 4 or first.shape[2] != memory + 3:
        raise SolverError(
            f"{path}: w1 {tuple(first.shape)} and w3 {tuple(last.shape)} are not of a network that "
            f"sees x, two gradients and {memory} images of memory (an ablation?)"
        )
    network = update_network(2, memory + 3, memory + 1, features=first.shape[-1]).double()
    state = {}
    for place, key in zip(("0", "2", "4"), "123", strict=True):
        # (x, y up) to (row down, column).
        state[f"{place}.weight"] = arrays[f"w{key}"].transpose(0, 1).flip(0).permute(3, 2, 0, 1)
        state[f"{place}.bias"] = arrays[f"b{key}"].flatten()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise SolverError(f"{path}: the arrays do not fit each other: {error}") from error
    return network, memory
