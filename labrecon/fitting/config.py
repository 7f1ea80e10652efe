"""FitConfig: how a learner is trained."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from labrecon.errors import TrainingError
from labrecon.options import flag, number, whole

__all__ = ["OPTIMISERS", "FitConfig", "FitError"]

OPTIMISERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "lbfgs": torch.optim.LBFGS,
}
SCHEDULES = ("constant", "cosine", "exponential", "step")
PRECISIONS = ("float32", "bf16", "fp16")
KEPT = ("best", "last")


class FitError(TrainingError, ArithmeticError):
    """Training can not go on: a loss is not finite, memory is short, nothing is to be trained."""


@dataclass(frozen=True)
class FitConfig:
    """How `labrecon.fit` trains; everything in it shapes the result, except ``seconds``.

    A step ``k = 0, 1, …`` takes the learning rate ``learning_rate · warm(k) · law(k)`` with
    ``warm(k) = min(1, (k + 1) / warmup)`` and the law that ``schedule`` names:

    - "constant": 1
    - "cosine": from 1 to ``decay`` along half a cosine over all steps
    - "exponential": ``decay^(k / decay_every)``
    - "step": ``decay^⌊k / decay_every⌋``

    Attributes:
        epochs: passes over the data; 1 if neither ``epochs`` nor ``steps`` is given.
        steps: number of steps, instead of epochs.
        batch_size: samples per step over all processes, for data that are `Samples`.
        learning_rate: of every parameter group without an ``lr`` of its own.
        optimiser: "adam", "adamw", "sgd", "rmsprop" or "lbfgs".
        options: further arguments of the torch optimiser: ``betas``, ``weight_decay``…
        schedule: law of the learning rate.
        decay: see the laws; "cosine" takes 0 for None.
        decay_every: steps, see the laws.
        warmup: steps.
        clip: largest gradient norm, or None.
        seconds: stop after so much wall time, that of earlier runs included, or None.
        precision: "float32", or mixed precision: "bf16", "fp16" (CUDA only). Operators compute in
            full precision in all of them.
        accumulate: parts in which a process computes its share of a batch, to save memory.
        ema: after each step, ``average ← d·average + (1 - d)·weights`` with
            ``d = min(ema, (1 + k) / (10 + k))``; the average is what is validated
            and what the learner ends with. None: off.
        validate_every: steps between validations; None: after each epoch.
        monitor: validation metric that says what is best.
        maximise: whether more of it is better.
        patience: stop after so many validations in a row without a better one, or None.
        keep: weights that the learner ends with: "best" validated (without validation the last
            are), or "last".
        seed: of the order of samples and of what a loss draws from torch's global generators.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 1
    learning_rate: float = 1e-3
    optimiser: str = "adam"
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "constant"
    decay: float | None = None
    decay_every: int | None = None
    warmup: int = 0
    clip: float | None = None
    seconds: float | None = None
    precision: str = "float32"
    accumulate: int = 1
    ema: float | None = None
    validate_every: int | None = None
    monitor: str = "loss"
    maximise: bool = False
    patience: int | None = None
    keep: str = "best"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", 1)
        elif self.epochs is not None and self.steps is not None:
            raise ValueError(f"give epochs or steps, not both; got {self.epochs} and {self.steps}")
        for name in ("epochs", "steps", "decay_every", "validate_every", "patience"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name))
        for name in ("batch_size", "accumulate"):
            whole(name, getattr(self, name))
        for name in ("warmup", "seed"):
            whole(name, getattr(self, name), at_least=0)
        number("learning_rate", self.learning_rate, above=0)
        for name in ("clip", "seconds"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), above=0)
        if self.ema is not None:
            number("ema", self.ema, above=0, below=1)
        flag("maximise", self.maximise)
        for name, known in (
            ("optimiser", tuple(OPTIMISERS)),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("keep", KEPT),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is one of {', '.join(known)}; got {getattr(self, name)!r}"
                )
        self._check_schedule()
        self._check_optimiser()

    def _check_schedule(self) -> None:
        if self.schedule in ("exponential", "step"):
            if self.decay is None or self.decay_every is None:
                raise ValueError(f"schedule {self.schedule!r} needs decay and decay_every")
            number("decay", self.decay, above=0)
        elif self.decay_every is not None:
            raise ValueError(f"schedule {self.schedule!r} takes no decay_every")
        elif self.decay is not None and self.schedule == "constant":
            raise ValueError("schedule 'constant' takes no decay")
        elif self.decay is not None:
            number("decay", self.decay, at_least=0)

    def _check_optimiser(self) -> None:
        kind = OPTIMISERS[self.optimiser]
        known = [n for n in inspect.signature(kind).parameters if n not in ("params", "lr")]
        for name in self.options:
            if name not in known:
                raise ValueError(
                    f"options: {self.optimiser} has no {name!r}; it has {', '.join(known)}"
                )
        try:
            kind([torch.zeros(1, requires_grad=True)], lr=self.learning_rate, **self.options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"options of {self.optimiser}: {error}") from error
        if self.optimiser == "lbfgs" and self.precision == "fp16":
            raise ValueError("lbfgs takes no loss scaling: use precision float32 or bf16")
        if self.optimiser == "lbfgs" and self.clip is not None:
            raise ValueError("lbfgs searches along its own direction: clip does not go with it")

    def law(self, step: int, total: int | None) -> float:
        """The factor of the learning rate at a step of ``total``."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "constant":
            return warm
        if self.schedule == "cosine":
            low = self.decay or 0.0
            return warm * (low + (1 - low) * (1 + math.cos(math.pi * step / (total or 1))) / 2)
        through = step / (self.decay_every or 1)
        return warm * (self.decay or 1.0) ** (
            through if self.schedule == "exponential" else math.floor(through)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return dataclasses.asdict(self)
