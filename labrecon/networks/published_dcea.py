"""Released DCEA weights, as a network of this package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from labrecon.networks.dcea import DCEA
from labrecon.problem import SolverError

__all__ = ["read_dcea"]


def read_dcea(
    source: Path | str,
    *,
    depth: int = 15,
    stride: int = 7,
    clip: float = 4.0,
    gain: float = 1.0,
) -> DCEA:
    """DCEA-C or DCEA-UC with released weights; the arrays tell which of the two it is.

    Names are those of the authors' state dictionaries (github.com/btolooshams/dea): ``H`` and
    ``b``, untied also ``We`` and ``Wd``. What the files do not tell are the options; their defaults
    are those of the released networks for counts of 4 in the brightest pixel.

    Args:
        source: a ``.npz`` file.
        depth: as for `DCEA`.
        stride: likewise.
        clip: likewise, the counts of the brightest pixel in training.
        gain: likewise.

    Raises:
        SolverError: the file holds no such network.
    """
    with np.load(source, allow_pickle=False) as stored:
        arrays = {key: torch.from_numpy(value) for key, value in stored.items()}
    if set(arrays) not in ({"H", "b"}, {"H", "b", "We", "Wd"}):
        raise SolverError(
            f"{source} is no DCEA: expected arrays H and b, or also We and Wd, got {sorted(arrays)}"
        )
    # (atom, 1, *size): an axis for the one channel.
    atoms = {name: array.squeeze(1) for name, array in arrays.items() if name != "b"}
    return DCEA(
        atoms["H"],
        arrays["b"].flatten(),
        depth=depth,
        stride=stride,
        clip=clip,
        gain=gain,
        analysis=atoms.get("We"),
        decoder=atoms.get("Wd"),
    ).eval()
