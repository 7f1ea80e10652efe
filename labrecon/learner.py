"""Learner: what is trained, from what, with which loss; and the loop that trains it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.fitting import Best, FitConfig, FitError, FitResult
from labrecon.fitting.feed import Feed, IterableFeed, SampleFeed
from labrecon.fitting.interfaces import Checkpoints, Log, Samples, StepCallback
from labrecon.fitting.loop import Loop
from labrecon.fitting.processes import Processes
from labrecon.operator import Operator

__all__ = [
    "Best",
    "Checkpoints",
    "FitConfig",
    "FitError",
    "FitResult",
    "Learner",
    "Log",
    "Samples",
    "fit",
]


class Learner(ABC):
    """Something that is trained: a network, a design, a prior.

    A learner holds its modules; `fit` only asks for parameters, a loss per batch and what to do
    after a step.
    """

    @abstractmethod
    def parameters(self) -> Iterable[Tensor] | Iterable[dict[str, Any]]:
        """The tensors that the optimiser changes, or groups of them as torch's optimisers take.

        ``[{"params": network.parameters()}, {"params": [design], "lr": 0.1}]``
        """

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The scalar to minimise, a mean over the samples of the batch, and metrics to record."""

    def after_step(self) -> None:  # noqa: B027
        """Called after each optimiser step: project designs onto what the hardware can do."""

    def validate(self, batch: Any) -> dict[str, float]:
        """Metrics of a batch never trained on; called without gradients, modules in eval mode."""
        loss, metrics = self.loss(batch)
        return {"loss": float(loss.detach()), **metrics}

    def modules(self) -> Mapping[str, nn.Module]:
        """Everything with weights, by name: networks, and operators whose designs are learned.

        `fit` puts them in training or evaluation mode and moves them to the device.
        """
        return {}

    def tensors(self) -> Mapping[str, Tensor]:
        """What training changes, by name: what is averaged, saved in checkpoints, exported.

        By default the trained parameters of `modules` and their buffers, those of operators apart,
        and, numbered, what `parameters` has besides.
        """
        found: dict[str, Tensor] = {}
        known: set[int] = set()
        for name, module in self.modules().items():
            own = {k: t for k, t in _trained_of(module, name).items() if id(t) not in known}
            found.update(own)
            known.update(map(id, own.values()))
        loose = [p for p in _flat(self.parameters()) if p.requires_grad and id(p) not in known]
        found.update({f"parameter.{number}": tensor for number, tensor in enumerate(loose)})
        return found

    def state(self) -> dict[str, Any]:
        """What else a continuation needs, as numbers, strings, tensors, lists and dicts of them.

        By default the states of the ``torch.Generator`` that are attributes of the learner.
        """
        held = {n: g for n, g in vars(self).items() if isinstance(g, torch.Generator)}
        return {"generators": {name: g.get_state() for name, g in held.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        for name, value in state["generators"].items():
            getattr(self, name).set_state(value)

    def advice(self, batch: Any) -> str:
        """What to do when memory does not suffice for a batch; a sentence, or nothing."""
        return ""


def fit(
    learner: Learner,
    data: Samples | Iterable[Any],
    config: FitConfig | None = None,
    *,
    validation: Samples | Iterable[Any] | None = None,
    callbacks: Iterable[StepCallback] = (),
    checkpoints: Checkpoints | None = None,
    device: torch.device | str | None = None,
    identity: Mapping[str, Any] | None = None,
) -> FitResult:
    """Minimise ``learner.loss`` over ``data``; the result is also the list of records by step.

    In one process, or in those that ``torchrun`` started; then ``data`` are `Samples`, a step has
    the gradient of its whole batch, and the first process alone calls back and writes. A
    curriculum, such as layer by layer, is several calls, each with logs and checkpoints of its own.

    Args:
        learner: what is trained.
        data: `Samples`, or an iterable of ready batches, iterated once per epoch; what it yields,
            and in which order, is its own affair (and its own generator's).
        config: how.
        validation: like ``data``; never trained on.
        callbacks: called with the number of steps done and the record of the last; one that
            returns a true value ends the training. A `Log` is one.
        checkpoints: where to save, and to go on from if something is there.
        device: where to train; None: where the learner's parameters are.
        identity: what else a continuation must agree in: network, instrument, data.

    Raises:
        FitError: no parameter has gradients on, ``data`` is empty, a loss is not finite, memory
            does not suffice, or the checkpoint is of another training.
        OutputError: a checkpoint can not be written.

    Example:
        >>> class Mean(Learner):
        ...     def __init__(self):
        ...         self.mean = torch.zeros((), requires_grad=True)
        ...     def parameters(self):
        ...         return [self.mean]
        ...     def loss(self, batch):
        ...         return (self.mean - batch).square().mean(), {}
        >>> learner = Mean()
        >>> data = [torch.tensor([1.0, 3.0])]
        >>> result = fit(learner, data, FitConfig(epochs=80, learning_rate=0.1))
        >>> result.status, len(result), round(learner.mean.item(), 1)
        ('finished', 80, 2.0)
    """
    config = config or FitConfig()
    processes = Processes(_device(learner, device), config.precision)
    for module in learner.modules().values() if device is not None else ():
        module.to(processes.device)

    def feed(source: Samples | Iterable[Any], settings: FitConfig) -> Feed:
        if isinstance(source, Samples):
            return SampleFeed(source, settings, processes)
        return IterableFeed(source, settings, processes)

    heldout = None
    if validation is not None:
        heldout = feed(validation, dataclasses.replace(config, accumulate=1))
    loop = Loop(
        learner,
        feed(data, config),
        config,
        processes,
        validation=heldout,
        callbacks=callbacks,
        checkpoints=checkpoints,
        identity=identity,
    )
    return loop.run()


def _device(learner: Learner, device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    found = {tensor.device for tensor in _flat(learner.parameters())}
    if len(found) > 1:
        raise FitError(
            f"parameters are on {', '.join(sorted(map(str, found)))}: give device=, and name all "
            "modules in modules()"
        )
    return found.pop() if found else torch.device("cpu")


def _trained_of(module: nn.Module, name: str) -> dict[str, Tensor]:
    """Trained parameters, and the buffers that a state dict has, except those of operators."""
    found: dict[str, Tensor] = {}
    operators: list[str] = []
    for prefix, part in module.named_modules(prefix=name):
        tensors = {k: p for k, p in part.named_parameters(recurse=False) if p.requires_grad}
        if isinstance(part, Operator):
            operators.append(f"{prefix}.")
        elif not any(prefix.startswith(operator) for operator in operators):
            hidden = part._non_persistent_buffers_set
            tensors |= {k: b for k, b in part.named_buffers(recurse=False) if k not in hidden}
        found.update({f"{prefix}.{key}": tensor for key, tensor in tensors.items()})
    return found


def _flat(parameters: Iterable[Any]) -> Iterable[Tensor]:
    for entry in parameters:
        if isinstance(entry, Tensor):
            yield entry
        elif isinstance(entry, dict):
            held = entry.get("params", ())
            yield from [held] if isinstance(held, Tensor) else held
