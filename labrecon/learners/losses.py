"""Losses: how far reconstructions are from the truth, as the number that training minimises.

Each takes estimates and truths ``(batch, *domain.shape)`` and returns a scalar.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from labrecon.metrics import SSIM_WINDOW, local_similarity
from labrecon.plugins import resolve

__all__ = ["LOSSES", "Loss", "l1", "mse", "one_minus_ssim", "pick_loss"]

#: A loss, or a task hook: anything that is differentiable in its first argument.
Loss = Callable[[Tensor, Tensor], Tensor]


def mse(estimate: Tensor, truth: Tensor) -> Tensor:
    """``mean |x − t|²`` over all samples of the batch; complex ones by the squared modulus."""
    return (estimate - truth).abs().square().mean()


def l1(estimate: Tensor, truth: Tensor) -> Tensor:
    """``mean |x − t|``: less weight on few large errors; complex samples by modulus."""
    return (estimate - truth).abs().mean()


def one_minus_ssim(estimate: Tensor, truth: Tensor) -> Tensor:
    """``1 − mean SSIM`` over the last two axes, as `labrecon.metrics.ssim` defines it.

    The dynamic range is that of each truth, and 1 for a truth that is constant. Its gradient says
    little about the scale of the values: where that matters, add `mse` in a loss of your own.
    """
    if estimate.is_complex():
        estimate, truth = estimate.abs(), truth.abs()
    span = truth.amax((-2, -1)) - truth.amin((-2, -1))
    return 1 - local_similarity(estimate, truth, span.where(span > 0, 1.0)).mean()


#: By the names that recipes use.
LOSSES: dict[str, Loss] = {"mse": mse, "l1": l1, "ssim": one_minus_ssim}


def pick_loss(loss: str | Loss, shape: tuple[int, ...]) -> Loss:
    """The loss of a name, or the function that was given.

    Args:
        loss: "mse", "l1", "ssim", a function of estimate and truth, or the dotted path
            ``"module:function"`` of one.
        shape: of the objects.

    Raises:
        ValueError: there is no such loss, or objects are too small for it.
    """
    if not isinstance(loss, str):
        return loss
    if ":" in loss:
        return _from_path(loss)
    if loss not in LOSSES:
        raise ValueError(
            f"a loss is one of {', '.join(LOSSES)}, or 'module:function' for one of your own; "
            f"got {loss!r}"
        )
    if loss == "ssim" and (len(shape) < 2 or min(shape[-2:]) < SSIM_WINDOW):
        raise ValueError(
            f"the loss 'ssim' needs objects of at least {SSIM_WINDOW} pixels along two axes, "
            f"got {shape}; take 'mse' or 'l1'"
        )
    return LOSSES[loss]


def _from_path(path: str) -> Loss:
    try:
        found = resolve(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the loss {path!r} can not be loaded: {error}") from error
    if not callable(found):
        raise ValueError(f"the loss {path!r} is a {type(found).__name__}, expected a function")
    loss: Loss = found
    return loss
