"""The state of the process that a well-behaved operator leaves alone."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["differs", "kept", "process_state", "restore"]


@contextmanager
def kept() -> Iterator[None]:
    """Put the state back afterwards, so that one check's effects are not another's cause."""
    before = process_state()
    try:
        yield
    finally:
        restore(before)


def process_state() -> dict[str, Any]:
    """The state as it is now, by what it is called."""
    return {
        "torch's random numbers": torch.get_rng_state(),
        "NumPy's random numbers": np.random.get_state(legacy=False),  # noqa: NPY002
        "Python's random numbers": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "number of threads": torch.get_num_threads(),
        "gradient mode": torch.is_grad_enabled(),
        "determinism flag": torch.are_deterministic_algorithms_enabled(),
        "warning filters": list(warnings.filters),
        "NumPy's error handling": np.geterr(),
        "working directory": os.getcwd(),
        "environment variables": dict(os.environ),
    }


def restore(state: dict[str, Any]) -> None:
    """Put back what the next checks would trip over, where it differs."""
    now = process_state()
    put: dict[str, Callable[[Any], Any]] = {
        "torch's random numbers": torch.set_rng_state,
        "default dtype": torch.set_default_dtype,
        "number of threads": torch.set_num_threads,
        "Python's random numbers": random.setstate,
        "NumPy's random numbers": np.random.set_state,
        "NumPy's error handling": lambda told: np.seterr(**told),
        "working directory": os.chdir,
    }
    for what, function in put.items():
        if differs(state[what], now[what]):
            function(state[what])
    before, after = state["environment variables"], now["environment variables"]
    for name in {*before, *after}:
        if name not in before:
            os.environ.pop(name, None)
        elif before[name] != after.get(name):
            os.environ[name] = before[name]


def differs(a: Any, b: Any) -> bool:
    """Whether two values of one part of the state differ."""
    if isinstance(a, Tensor):
        return not torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return not np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() != b.keys() or any(differs(a[key], b[key]) for key in a)
    return bool(a != b)
