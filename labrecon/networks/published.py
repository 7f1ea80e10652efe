"""Released weights of ISTA-Net, ISTA-Net⁺ and DnCNN, as networks of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labrecon.networks.ista_net import LOSS_WEIGHTS
from labrecon.networks.unrolled import Start, Unrolled
from labrecon.priors.denoisers import DnCNN
from labrecon.priors.transform_pair import TransformPair, convolutional_pair
from labrecon.schedule import Schedule
from labrecon.solver import SolverError
from labrecon.solvers.proximal import ISTA

__all__ = ["read_dncnn", "read_ista_net"]

#: A ``.npz`` file, or its arrays by name (a state dictionary).
Source = str | Path | Mapping[str, Any]

_PHASE = re.compile(r"fcs\.(\d+)\.(\w+)")


def read_ista_net(source: Source, *, start: Start = "initial", scale: float = 1.0) -> Unrolled:
    """ISTA-Net or ISTA-Net⁺ with released weights, whatever their number of phases and features.

    The arrays tell which of the two it is. Names are those of the authors' state dictionaries
    (github.com/jianzhangcs/ISTA-Net-PyTorch), ``fcs.0.conv1_forward`` and so on. The published
    networks for compressed sensing see blocks of 33 × 33 pixels in [0, 1], flattened by rows, and
    start from ``Qinit y``; those for MRI see real images and start from ``Re Fᴴ y``.

    Args:
        source: a ``.npz`` file, or its arrays.
        start: as for `Unrolled`.
        scale: value of the objects that is 1 to the network.

    Raises:
        SolverError: arrays are missing, or do not belong to such a network, or do not fit.
    """
    arrays, told = _arrays(source)
    phases: dict[int, dict[str, Tensor]] = {}
    for key, value in arrays.items():
        found = _PHASE.fullmatch(key)
        if found is None:
            raise SolverError(f"{told}: array {key!r} is not of an ISTA-Net (fcs.0.soft_thr, …)")
        phases.setdefault(int(found[1]), {})[found[2]] = value
    if sorted(phases) != list(range(len(phases))) or not phases:
        raise SolverError(f"{told}: expected phases fcs.0, fcs.1, …, got {sorted(phases)}")
    pairs, steps = [], []
    for k in range(len(phases)):
        pairs.append(_pair(phases[k], scale, f"{told}: phase {k}"))
        steps.append(float(phases[k]["lambda_step"]))
    solver = ISTA(
        prior=nn.ModuleList(pairs), step_size=Schedule(steps, constraint=None, learn=True)
    )
    network = Unrolled(solver.to(arrays["fcs.0.soft_thr"].dtype), len(pairs), start=start)
    network.loss_weights = LOSS_WEIGHTS
    return network.eval()


#: Where the authors' arrays go: the transforms are sequences of convolution, ReLU, convolution.
_BASE = {
    "soft_thr": "threshold.raw",
    "conv1_forward": "analysis.0.weight",
    "conv2_forward": "analysis.2.weight",
    "conv1_backward": "synthesis.0.weight",
    "conv2_backward": "synthesis.2.weight",
}
_PLUS = {**_BASE, "conv_D": "extract.weight", "conv_G": "combine.weight"}


def _pair(arrays: dict[str, Tensor], scale: float, told: str) -> TransformPair:
    residual = "conv_D" in arrays
    names = _PLUS if residual else _BASE
    expected = {*names, "lambda_step"}
    if set(arrays) != expected:
        raise SolverError(f"{told}: expected arrays {sorted(expected)}, got {sorted(arrays)}")
    outside = arrays["conv_D"] if residual else arrays["conv1_forward"]
    pair = convolutional_pair(
        2, outside.shape[1], features=outside.shape[0], residual=residual, scale=scale
    )
    _load(pair, {names[key]: value for key, value in arrays.items() if key in names}, told)
    return pair


def read_dncnn(source: Source) -> DnCNN:
    """A `DnCNN` with released weights, whatever its depth, features and channels.

    Names are those of a sequence of layers, ``dncnn.0.weight`` and so on, of convolutions without
    bias with or without batch normalisation between them
    (github.com/uclaopt/Provable_Plug_and_Play). To be put into a `Denoiser`; in evaluation mode.

    Args:
        source: a ``.npz`` file, or its arrays.

    Raises:
        SolverError: arrays are missing, or do not belong to such a network, or do not fit.
    """
    arrays, told = _arrays(source)
    renamed = {f"residual.{key.partition('.')[2]}": value for key, value in arrays.items()}
    weights = [v for v in renamed.values() if v.ndim > 2]
    first = renamed.get("residual.0.weight")
    if len(weights) < 2 or first is None or first.ndim != 4:
        raise SolverError(f"{told}: expected the arrays of a DnCNN (dncnn.0.weight, …)")
    network = DnCNN(
        first.shape[1],
        features=first.shape[0],
        depth=len(weights),
        batch_norm=any(key.endswith("running_mean") for key in renamed),
    )
    _load(network, renamed, told)
    return network.eval()


def _load(module: nn.Module, state: dict[str, Tensor], told: str) -> None:
    module.to(next(iter(state.values())).dtype)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise SolverError(f"{told}: the arrays do not fit: {error}") from error


def _arrays(source: Source) -> tuple[dict[str, Tensor], str]:
    """The arrays, and what to call their source in messages."""
    if isinstance(source, Mapping):
        pairs, told = dict(source), "the arrays"
    else:
        told = str(source)
        with np.load(source, allow_pickle=False) as stored:
            pairs = dict(stored)
    # Networks that were trained on several GPUs call themselves a module.
    named = {key.removeprefix("module."): value for key, value in pairs.items()}
    return {key: torch.as_tensor(value) for key, value in named.items()}, told
