"""The toy instrument with files that break whoever reads or reconstructs them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from toy_instrument import Toy, ToyOperator, ToyReader

#: Kept so that memory is really taken.
_HOARD: list[np.ndarray] = []


def misbehave(fate: str, path: Path) -> None:
    """What vendor libraries do."""
    word, _, number = fate.partition(" ")
    if word == "segfault":
        ctypes.string_at(0)
    elif word == "exit":
        os._exit(3)
    elif word == "hang":
        time.sleep(1000)
    elif word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "kill-once":
        marker = path.with_suffix(".killed")
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    elif word == "memory":
        for _ in range(int(number)):
            _HOARD.append(np.ones((128, 1 << 10, 1 << 10), np.uint8))
            time.sleep(0.02)
        time.sleep(1.0)
        _HOARD.clear()
    elif word == "slow":
        time.sleep(float(number))
    elif word == "cuda":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    elif word == "no-memory":
        raise MemoryError
    elif word == "raise":
        raise KeyError("vendor")


class FragileReader(ToyReader):
    """Toy archives with a fate, met in the stage that its first word names."""

    def read(self, path):
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            fate = str(file["fate"]) if "fate" in file else ""
        if fate.startswith("read "):
            misbehave(fate.removeprefix("read "), path)
        scan = super().read(path)
        provenance = {**scan.provenance, "fate": fate, "at": str(path)}
        return scan.replace(provenance=provenance)


def meet_fate(scan):
    """A preparation step that goes wrong."""
    fate = scan.provenance["fate"]
    if fate.startswith("prepare "):
        misbehave(fate.removeprefix("prepare "), Path(scan.provenance["at"]))
    return scan.with_step("fate")


class Fragile(Toy):
    """The toy, reading fragile files."""

    name = "fragile"

    @property
    def readers(self):
        return {"npz": FragileReader()}

    @property
    def steps(self):
        return {**super().steps, "fate": meet_fate}

    def operator(self, geometry, *, delay: float = 0.0):
        return ToyOperator(geometry, delay)

    def recipes(self):
        return {
            "recon": {
                "prepare": [{"step": "fate"}],
                "solver": {"name": "fista", "iterations": 5},
                "prior": {"name": "tv", "weight": 0.02},
            }
        }


def write_scan(path: Path, seed: int = 0, fate: str = "") -> None:
    """A file of a simulated scan."""
    toy = Toy()
    scan = toy.simulate(toy.example(), torch.Generator().manual_seed(seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, toy=scan.data.numpy(), sigma=0.05, fate=np.array(fate))


#: Instrument as the command line names it.
NAME = "fragile_toy:Fragile"
