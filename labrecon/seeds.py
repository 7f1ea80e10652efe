"""Random weights from a seed, without a trace in torch's global generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block, torch's CPU generator starts from ``seed``; after it, it is as before.

    For constructors of torch that draw their weights without asking for a generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
