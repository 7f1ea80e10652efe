"""Published Deep ADMM-Net and ADMM-CSNet weights: the authors' own MATLAB files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labrecon.networks.admm_csnet import PiecewiseLinearResidual, PriorFirstADMM
from labrecon.networks.admm_net import FilterADMM
from labrecon.networks.unrolled import Unrolled
from labrecon.priors.filter_bank import FilterBank
from labrecon.priors.piecewise_linear import PiecewiseLinear
from labrecon.problem import SolverError
from labrecon.schedule import Schedule

__all__ = ["load_admm_csnet", "load_admm_net"]

#: What the layers that carry weights are called in the files, by what they are.
_IMAGE = ("X_org", "X_mid", "Reorg", "Remid", "Refinal")
_FILTER = ("Convo", "conv")
_SHRINK = ("Non_linorg", "Non_linmid", "Non_linear")
_DUAL = ("Multi_org", "Multi_mid", "Multi_final")


def load_admm_net(path: Path | str, *, scale: float = 1.0) -> Unrolled:
    """A Deep ADMM-Net of any number of stages (Yang, Sun, Li and Xu 2016), in float64.

    The authors' "stage n" has n + 2 stages here and n + 3 reconstruction layers. It was trained on
    real images in [0, 1] with Cartesian sampling, periodic boundaries.

    Args:
        path: ``net-stage….mat``.
        scale: typical size of object values.

    Raises:
        SolverError: the file is no such network.
    """
    layers = _layers(Path(path), "Deep ADMM-Net")
    images = _of(layers, _IMAGE)
    analysis = [_bank(coefficients) for (coefficients,) in _of(layers, _FILTER)]
    solver = FilterADMM(
        analysis,
        [_shrink(values, scale) for (values,) in _of(layers, _SHRINK)],
        [_bank(coefficients) for coefficients, _ in images],
        torch.stack([rho.flatten() for _, rho in images]),
        torch.stack([step.flatten() for (step,) in _of(layers, _DUAL)]),
    )
    return Unrolled(solver.double(), len(analysis))


def load_admm_csnet(path: Path | str, *, scale: float = 1.0) -> Unrolled:
    """An ADMM-CSNet for MRI of any number of stages and features (Yang et al. 2020), in float64.

    Args:
        path: ``net_….mat``.
        scale: typical size of object values.

    Raises:
        SolverError: the file is no such network.
    """
    layers = _layers(Path(path), "ADMM-CSNet")
    convolutions = _of(layers, _FILTER)
    shrinks = [values for (values,) in _of(layers, _SHRINK)]
    priors = []
    for k, values in enumerate(shrinks):
        (first, first_bias), (second, second_bias) = convolutions[2 * k : 2 * k + 2]
        features, size = len(values), first.shape[-1]
        prior = PiecewiseLinearResidual(2, features, size, scale=scale)
        # MATLAB's (row, column, input, output), which HDF5 turns round.
        weights = {
            "first.weight": first.mT,
            "first.bias": first_bias.flatten(),
            "shrink.values": values,
            "second.weight": second.mT.unsqueeze(0),
            "second.bias": second_bias.flatten(),
        }
        prior.double().load_state_dict(weights)
        priors.append(prior)
    rho, dual = ([float(number) for (number,) in _of(layers, kind)] for kind in (_IMAGE, _DUAL))
    solver = PriorFirstADMM(
        prior=nn.ModuleList(priors),
        rho=Schedule(rho, constraint=None, learn=True),
        dual_step=Schedule(dual, constraint=None, learn=True),
    )
    return Unrolled(solver.double(), len(priors))


def _bank(coefficients: Tensor) -> FilterBank:
    """A bank from ``γ (filter, atom)`` in the authors' order of atoms."""
    size = round((coefficients.shape[1] + 1) ** 0.5)
    bank = FilterBank(2, size).double()
    # Their atoms are columns of kron(DCT, DCT) reshaped column by column: frequency along columns
    # counts first, here that along rows does.
    order = torch.arange(size * size).reshape(size, size).T.flatten()[1:] - 1
    with torch.no_grad():
        bank.coefficients.copy_(coefficients[:, order])
    return bank


def _shrink(values: Tensor, scale: float) -> PiecewiseLinear:
    shrink = PiecewiseLinear(*values.shape[:1], knots=values.shape[1], scale=scale).double()
    with torch.no_grad():
        shrink.values.copy_(values)
    return shrink


def _of(layers: list[tuple[str, list[Tensor]]], kinds: tuple[str, ...]) -> list[list[Tensor]]:
    return [weights for kind, weights in layers if kind in kinds]


def _layers(path: Path, what: str) -> list[tuple[str, list[Tensor]]]:
    """Type and weights of each layer; the axes are MATLAB's from last to first."""
    import h5py

    try:
        with h5py.File(path) as file:
            entries = [file[reference] for reference in np.ravel(file["net/layers"][()])]
            return [(_text(entry["type"]), _weights(file, entry)) for entry in entries]
    except (OSError, KeyError) as error:
        raise SolverError(
            f"{path} is no {what} in a MATLAB file of version 7.3 (net.layers): {error}"
        ) from error


def _text(characters: Any) -> str:
    return "".join(chr(c) for c in np.ravel(characters[()]))


def _weights(file: Any, entry: Any) -> list[Tensor]:
    held = entry.get("weights")
    if held is None or held.dtype != object:
        return []
    return [torch.from_numpy(file[reference][()]) for reference in np.ravel(held[()])]
