"""An interrupted run: what is saved beside the output, and how it goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labrecon.chunks import Joined
from labrecon.errors import OutputError, RecipeError
from labrecon.io.atomic import write_text
from labrecon.io.plain import dumps
from labrecon.io.states import StateError, load_state, save_state
from labrecon.solver import Solution, Solver

__all__ = ["Checkpoint", "check_not_interrupted", "saved_folder"]


def saved_folder(out: Path) -> Path:
    """Where an interrupted run to ``out`` is saved."""
    return out.with_name(out.name + ".interrupted")


def check_not_interrupted(out: Path, *, force: bool) -> None:
    """Raise `OutputError` where an interrupted run to ``out`` waits and ``force`` is off."""
    folder = saved_folder(out)
    if folder.exists() and not force:
        raise OutputError(
            f"an interrupted run waits in {folder}; go on with --resume, or use --force to start "
            "again"
        )


@dataclass(frozen=True)
class Checkpoint:
    """The main solve of an interrupted run.

    Attributes:
        folder: holds ``state.safetensors`` and ``run.json``.
        told: the content of ``run.json``.
    """

    folder: Path
    told: dict[str, Any]

    @classmethod
    def save(cls, out: Path, solution: Solution, **told: Any) -> Path:
        """Save a solution, finished or not, with what is needed to go on.

        The folder is complete before it takes its name, so that a second Ctrl-C leaves either
        the old one or the new one.
        """
        folder = saved_folder(out)
        partial = folder.with_name(f".{folder.name}.part")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save_state(partial / "state.safetensors", solution.state)
            record = {
                **told,
                "status": solution.status,
                "seconds": solution.seconds,
                "history": solution.history,
                "joined": isinstance(solution.state, Joined),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
            write_text(partial / "run.json", dumps(record))
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except OSError as error:
            raise OutputError(f"interrupted, and the state can not be saved: {error}") from error
        return folder

    @classmethod
    def load(cls, out: Path) -> Checkpoint:
        """The checkpoint of an interrupted run to ``out``.

        Raises:
            RecipeError: there is none, or it is damaged.
        """
        folder = saved_folder(out)
        try:
            return cls(folder, json.loads((folder / "run.json").read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise RecipeError(
                f"there is nothing to resume: {folder} does not exist; run without --resume"
            ) from error
        except ValueError as error:
            raise RecipeError(f"{folder}/run.json is damaged: {error}") from error

    def check(self, instrument: str, inputs: list[dict[str, Any]]) -> list[str]:
        """What would keep the result from being bit-identical to an uninterrupted run.

        Raises:
            RecipeError: the run was of another instrument or another scan.
        """
        hashes = [entry["sha256"] for entry in self.told["inputs"]]
        if self.told["instrument"] != instrument or hashes != [e["sha256"] for e in inputs]:
            raise RecipeError(
                f"{self.folder} belongs to another scan or instrument; give that one, or remove "
                "the folder and run without --resume"
            )
        now = {"threads": torch.get_num_threads(), "torch": torch.__version__}
        return [
            f"resumed with {name} {value} after {self.told[name]}: the last bits may differ"
            for name, value in now.items()
            if self.told[name] != value
        ]

    def solution(self, solver: Solver, device: torch.device) -> Solution:
        """The saved solution.

        Raises:
            RecipeError: the state is damaged, or that of another solver.
        """
        try:
            joined = self.told.get("joined", False)
            kind = Joined if joined else solver.state_type
            state = load_state(
                self.folder / "state.safetensors", kind, torch.device("cpu") if joined else device
            )
        except StateError as error:
            raise RecipeError(f"{error}; remove {self.folder} and start again") from error
        told = self.told
        # JSON has no infinity: it was written as a word.
        history = [{key: float(value) for key, value in one.items()} for one in told["history"]]
        x = state.x if isinstance(state, Joined) else solver.estimate(state)
        return Solution(x, state, told["status"], history, told["seconds"])

    def remove(self) -> None:
        """Delete the folder, once the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)
