"""Released DetNet weights, as a network of this package."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labrecon.networks.detnet import DetNetLayer, DetNetStep
from labrecon.networks.unrolled import Unrolled
from labrecon.problem import SolverError

__all__ = ["read_detnet"]

_LAYER = re.compile(r"Wrelu(\d+)")
#: The authors' names of weights and biases, by those of `DetNetLayer`.
_NAMES = {"hidden": "relu", "marks": "sign", "memory": "aff"}


def read_detnet(source: Path | str, *, mixing: float = 0.9) -> Unrolled:
    """DetNet for BPSK symbols with released weights, of any number of layers and any size.

    The arrays of the authors' checkpoint (github.com/neevsamuel/DeepMIMODetection) are
    ``Wrelu1, wrelu1, Wsign1, …`` and ``Variable``, two rates per layer. It was trained for 30
    symbols ±1 seen by 60 receivers through independent normal channels, at 7 to 14 dB.

    Args:
        source: a ``.npz`` file.
        mixing: share that marks and memory keep from layer to layer.

    Raises:
        SolverError: the file holds no such network.
    """
    with np.load(source, allow_pickle=False) as stored:
        arrays = {key: torch.from_numpy(value) for key, value in stored.items()}
    depth = sum(_LAYER.fullmatch(key) is not None for key in arrays)
    try:
        layers = [_layer(arrays, k) for k in range(depth)]
        solver = DetNetStep(layers, (1.0, -1.0), mixing=mixing)
    except (KeyError, RuntimeError, SolverError) as error:
        raise SolverError(f"{source} is no DetNet (Wrelu1, wrelu1, …, Variable): {error}") from (
            error
        )
    return Unrolled(solver, depth).eval()


def _layer(arrays: dict[str, Tensor], k: int) -> DetNetLayer:
    inputs, hidden = arrays[f"Wrelu{k + 1}"].shape
    memory = arrays[f"Waff{k + 1}"].shape[1]
    layer = DetNetLayer(inputs - memory, 2, hidden, memory)
    state = {"rates": arrays["Variable"][2 * k : 2 * k + 2]}
    for ours, theirs in _NAMES.items():
        state[f"{ours}.weight"] = arrays[f"W{theirs}{k + 1}"].mT
        state[f"{ours}.bias"] = arrays[f"w{theirs}{k + 1}"].flatten()
    layer.load_state_dict(state)
    return layer
