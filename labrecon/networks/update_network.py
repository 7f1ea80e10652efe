"""The small network that learned iterations share: three convolutions that make an update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from labrecon.options import whole
from labrecon.priors.channels import apply_network, convolution
from labrecon.solver import SolverError

__all__ = ["update", "update_network"]

Activation = Literal["relu", "prelu"]


def update_network(
    axes: int, inputs: int, outputs: int, *, features: int = 32, activation: Activation = "relu"
) -> nn.Sequential:
    """Conv, activation, conv, activation, conv; each 3 wide (Adler and Öktem 2017, 2018).

    Weights are Xavier's, biases 0; a "prelu" has a slope per channel that starts at 0, as a ReLU.
    Draw it within `labrecon.seeds.seeded`.

    Args:
        axes: image axes, 1 to 3.
        inputs: channels that go in, real and imaginary parts counted.
        outputs: channels that come out.
        features: channels in between.
        activation: "relu" or "prelu".

    Raises:
        SolverError: a number of channels or axes is wrong.

    Example:
        >>> sum(p.numel() for p in update_network(2, 8, 6).parameters())
        13318
    """
    for what, value in {"inputs": inputs, "outputs": outputs, "features": features}.items():
        whole(f"update network: {what}", value, error=SolverError)
    if axes not in (1, 2, 3):
        raise SolverError(f"update network: axes is 1, 2 or 3, got {axes!r}")
    if activation not in ("relu", "prelu"):
        raise SolverError(f'update network: activation is "relu" or "prelu", got {activation!r}')
    sizes = [(inputs, features), (features, features), (features, outputs)]
    layers: list[nn.Module] = []
    for incoming, outgoing in sizes:
        layer = convolution(axes, incoming, outgoing)
        nn.init.xavier_uniform_(layer.get_parameter("weight"))
        nn.init.zeros_(layer.get_parameter("bias"))
        layers += [layer, nn.ReLU() if activation == "relu" else nn.PReLU(features, init=0.0)]
    return nn.Sequential(*layers[:-1])


def update(
    network: Callable[[Tensor], Tensor], channels: Tensor, axes: int, outputs: int
) -> Tensor:
    """What a network makes of ``(*lead, channels, *image)``: ``(*lead, outputs, *image)``.

    Raises:
        SolverError: the network returns another shape.
    """
    made = apply_network(network, channels, axes)
    if made.shape[-axes:] != channels.shape[-axes:] or made.shape[-axes - 1] != outputs:
        raise SolverError(
            f"the update network returned {tuple(made.shape[-axes - 1 :])} for input "
            f"{tuple(channels.shape[-axes - 1 :])}, expected {outputs} channels of the same size"
        )
    return made
