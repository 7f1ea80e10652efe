"""Trained denoisers in files of their own, for any instrument."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import parametrize

from labrecon.io.atomic import write_file
from labrecon.networks.limited import Limited
from labrecon.prior import Prior, PriorError
from labrecon.priors.denoisers import Denoiser, DnCNN
from labrecon.priors.drunet import DRUNet

__all__ = [
    "KINDS",
    "SUFFIX",
    "denoiser_from_file",
    "fitting_denoiser",
    "read_denoiser",
    "write_denoiser",
]

#: How the names of such files end.
SUFFIX = ".safetensors"
KINDS: dict[str, type[DRUNet] | type[DnCNN]] = {"drunet": DRUNet, "dncnn": DnCNN}


def write_denoiser(path: str | Path, network: nn.Module) -> None:
    """Write a `DRUNet` or `DnCNN`: safetensors, with what it takes to build it as JSON.

    Raises:
        PriorError: another kind of network, or one that would not come back as it is.
        OutputError: the file exists, or can not be written.
    """
    told = _options(network)
    tensors = {n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}
    if not _comes_back(network, told, tensors):
        raise PriorError(
            f"{type(network).__name__}: the network that its file would give back is not this one: "
            "layers were changed (activations, bounds of spectral norms), or weights are not finite"
        )
    write_file(Path(path), save(tensors, {"labrecon denoiser": json.dumps(told)}))


def _comes_back(network: nn.Module, told: dict[str, Any], tensors: dict[str, Tensor]) -> bool:
    """Whether ``D(x)`` stays as it is: the file does not hold all that can be changed."""
    try:
        built = _built(told, tensors)
    except RuntimeError:
        return False
    channels = told["channels"] + getattr(network, "noise_channel", False)
    x = torch.rand(1, channels, *[8] * told["axes"], generator=torch.Generator().manual_seed(0))
    x = x.to(next(built.parameters()).dtype)
    # In another order in memory sums are rounded otherwise.
    given = copy.deepcopy(network).cpu().eval()
    given.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.no_grad():
        return torch.equal(built(x), given(x))


def _options(network: nn.Module) -> dict[str, Any]:
    if isinstance(network, DRUNet):
        return {
            "kind": "drunet",
            "channels": network.channels,
            "axes": network.axes,
            "features": network.head.weight.shape[0],  # type: ignore[index]
            "levels": network.levels,
            "blocks": len(list(network.body.children())),
        }
    if isinstance(network, DnCNN):
        chain: list[Any] = [m for m in network.residual if hasattr(m, "kernel_size")]
        norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        return {
            "kind": "dncnn",
            "channels": network.channels,
            "axes": chain[0].weight.ndim - 2,
            "features": chain[0].weight.shape[0],
            "depth": len(chain),
            "batch_norm": any(isinstance(m, norms) for m in network.residual),
            "spectral": parametrize.is_parametrized(chain[0]),
        }
    raise PriorError(f"denoiser files hold a DRUNet or a DnCNN, got {type(network).__name__}")


def read_denoiser(path: str | Path) -> nn.Module:
    """The network in a file of `write_denoiser`, in evaluation mode. Nothing in it can run code.

    Raises:
        PriorError: there is no such file, it is damaged, or it holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = dict(json.loads((file.metadata() or {})["labrecon denoiser"]))
            tensors = {n: file.get_tensor(n).clone() for n in file.keys()}  # noqa: SIM118
        return _built(told, tensors)
    except FileNotFoundError as error:
        raise PriorError(f"there is no denoiser {path}") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise PriorError(
            f"{path} holds no denoiser of labrecon, or is damaged ({error}); "
            "labrecon.networks.denoiser_file.write_denoiser makes such files"
        ) from error


def _built(told: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    options = {name: value for name, value in told.items() if name != "kind"}
    network = KINDS[told["kind"]](**options)
    # Counters of batches are whole numbers.
    floating = (t.dtype for t in tensors.values() if t.is_floating_point())
    network.to(next(floating, torch.float32)).load_state_dict(tensors)
    return network.eval()


def fitting_denoiser(
    network: nn.Module,
    *,
    noise_level: float | None = None,
    weight: float | None = None,
    scale: float = 1.0,
    complex_as: str | None = None,
    axes: int = 2,
    low: float | None = None,
    high: float | None = None,
) -> Prior:
    """The prior that a network makes for objects that it was not trained on.

    Args:
        network: see `labrecon.priors.denoisers.Denoiser`.
        noise_level: likewise.
        weight: likewise.
        scale: likewise.
        complex_as: likewise; None for "parts" where the network has one channel, else "channels".
        axes: likewise, for other networks than `DRUNet` and `DnCNN`, which have their own.
        low: lowest value of the object, None for none.
        high: highest value, None for none.

    Raises:
        PriorError: an option is wrong.
    """
    if complex_as is None:
        complex_as = "parts" if getattr(network, "channels", 2) == 1 else "channels"
    if isinstance(network, DRUNet | DnCNN):
        axes = _options(network)["axes"]
    made = Denoiser(
        network,
        noise_level=noise_level,
        weight=weight,
        scale=scale,
        complex_as=complex_as,
        axes=axes,
    )
    return made if low is None and high is None else Limited(made, low, high)


def denoiser_from_file(
    *,
    file: str,
    weight: float | None = None,
    noise_level: float | None = None,
    scale: float = 1.0,
    complex_as: str | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Prior:
    """A trained denoiser as the prior of a recipe: plug and play with any solver and instrument.

    Args:
        file: written by `write_denoiser`.
        weight: ``σ² = weight · step`` for the denoiser, see `labrecon.priors.denoisers.Denoiser`.
        noise_level: ``σ`` in units of the object, in place of ``weight``.
        scale: typical size of the object's values.
        complex_as: "channels", "parts" or "modulus"; None for what the network takes.
        low: lowest value of the object.
        high: highest value.

    Raises:
        PriorError: the file holds no denoiser, or an option is wrong.
    """
    network = read_denoiser(file)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return fitting_denoiser(
        network,
        noise_level=noise_level,
        weight=weight,
        scale=scale,
        complex_as=complex_as,
        low=low,
        high=high,
    )
