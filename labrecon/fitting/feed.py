"""Feed: batches in their order, cut into what this process computes."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from labrecon.fitting.config import FitConfig, FitError
from labrecon.fitting.interfaces import Samples
from labrecon.fitting.processes import Processes

__all__ = ["Feed", "IterableFeed", "Portion", "SampleFeed", "mixed_seed"]


@dataclass(frozen=True)
class Portion:
    """What this process computes of one batch.

    Attributes:
        epoch: pass over the data.
        parts: weight in the mean, over the batch or in validation over all, and how to make the
            part.
        where: which samples the whole batch is, for messages.
    """

    epoch: int
    parts: Sequence[tuple[float, Callable[[], Any]]]
    where: str


class Feed(ABC):
    """Data as portions."""

    @property
    @abstractmethod
    def per_epoch(self) -> int | None:
        """Number of batches of an epoch, where it is known."""

    @abstractmethod
    def training(self, done: int) -> Iterator[Portion]:
        """Portions epoch by epoch, as many as the config has, after the first ``done``."""

    @abstractmethod
    def validation(self) -> Iterator[Portion]:
        """One pass, in order."""

    def start(self) -> dict[str, Any] | None:
        """What `rewind` needs."""
        return None

    def rewind(self, start: dict[str, Any] | None) -> None:  # noqa: B027
        """Before going on: as it was before the first batch."""


class SampleFeed(Feed):
    """Samples in an order that only the seed and the epoch determine."""

    def __init__(self, samples: Samples, config: FitConfig, processes: Processes) -> None:
        if len(samples) == 0:
            raise FitError("nothing to train on, or to validate with: the data are empty")
        self.samples = samples
        self.config = config
        self.processes = processes

    @property
    def per_epoch(self) -> int:
        """Batches, the last one not always full."""
        return -(-len(self.samples) // self.config.batch_size)

    def training(self, done: int) -> Iterator[Portion]:
        """Each epoch in an order of its own."""
        epoch, skipped = divmod(done, self.per_epoch)
        while epoch < _epochs(self.config):
            generator = torch.Generator().manual_seed(mixed_seed(self.config.seed, epoch))
            order = torch.randperm(len(self.samples), generator=generator).tolist()
            for batch in range(skipped, self.per_epoch):
                indices = self._batch(order, batch)
                yield self._portion(indices, epoch, len(indices), self.config.accumulate)
            epoch, skipped = epoch + 1, 0

    def validation(self) -> Iterator[Portion]:
        """All samples, in their own order."""
        order = list(range(len(self.samples)))
        for batch in range(self.per_epoch):
            yield self._portion(self._batch(order, batch), 0, 1, 1)

    def _batch(self, order: list[int], batch: int) -> list[int]:
        return order[batch * self.config.batch_size : (batch + 1) * self.config.batch_size]

    def _portion(self, indices: list[int], epoch: int, total: int, parts: int) -> Portion:
        mine = self.processes.share(indices)
        size = -(-len(mine) // parts) if mine else 1
        cuts = [mine[i : i + size] for i in range(0, len(mine), size)]
        made = [(len(c) / total, partial(self.samples.batch, c, epoch)) for c in cuts]
        named = [*map(str, sorted(indices)[:16]), *["…"][: len(indices) > 16]]
        told = ", ".join(named)
        return Portion(epoch, made, f"samples {told}")


class IterableFeed(Feed):
    """Ready batches. To go on, all that were yielded before are drawn again, unless indexable."""

    def __init__(self, batches: Iterable[Any], config: FitConfig, processes: Processes) -> None:
        if processes.size > 1:
            raise FitError(
                f"{processes.size} processes can not share ready batches: give data with "
                "__len__() and batch(indices, epoch), see labrecon.learner.Samples"
            )
        if config.accumulate > 1:
            raise FitError(
                "ready batches can not be cut into parts for accumulate: give smaller ones, or "
                "data with __len__() and batch(indices, epoch), see labrecon.learner.Samples"
            )
        if isinstance(batches, Sized) and len(batches) == 0:
            raise FitError("nothing to train on, or to validate with: the data are empty")
        self.batches = batches
        self.config = config

    @property
    def per_epoch(self) -> int | None:
        """Batches, if the data have a length."""
        return len(self.batches) if isinstance(self.batches, Sized) else None

    def training(self, done: int) -> Iterator[Portion]:
        """Again from the start of the data each epoch."""
        epoch, seen = 0, 0
        while epoch < _epochs(self.config):
            before = seen
            for number, make in enumerate(self._makers()):
                seen += 1
                if seen > done:
                    yield Portion(epoch, [(1.0, make)], f"batch {number} of the epoch")
            if seen == before:
                raise FitError(
                    "nothing to train on: the data are empty"
                    if not seen
                    else f"the data are used up after epoch {epoch - 1}: a generator runs once; "
                    "give a list, or an object whose __iter__ starts anew"
                )
            epoch += 1

    def validation(self) -> Iterator[Portion]:
        """All batches."""
        for number, make in enumerate(self._makers()):
            yield Portion(0, [(1.0, make)], f"batch {number} of the validation data")

    def _makers(self) -> Iterator[Callable[[], Any]]:
        if isinstance(self.batches, Sequence):
            yield from (partial(self.batches.__getitem__, i) for i in range(len(self.batches)))
        else:
            yield from (partial(_itself, batch) for batch in self.batches)

    def start(self) -> dict[str, Any] | None:
        """The global generators that the data may draw from."""
        if isinstance(self.batches, Sequence):
            return None
        kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
        return {
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        }

    def rewind(self, start: dict[str, Any] | None) -> None:
        """The global generators as they were."""
        if start is None:
            return
        kind, keys, *rest = start["numpy"]
        torch.set_rng_state(start["torch"])
        random.setstate(start["python"])
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002


def _epochs(config: FitConfig) -> float:
    return math.inf if config.epochs is None else config.epochs


def _itself(batch: Any) -> Any:
    return batch


def mixed_seed(*numbers: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
