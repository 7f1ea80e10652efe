"""What ``provenance.json`` says of how an output was made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from labrecon.errors import RecipeError
from labrecon.io.atomic import is_labrecon_output
from labrecon.io.model import WEIGHTS

__all__ = ["Record", "SlabCut"]

#: JSON has no infinity: provenance has it as a word.
_NOT_FINITE = ("inf", "-inf", "nan")


@dataclass(frozen=True)
class SlabCut:
    """How a volume was cut into slabs.

    Attributes:
        size: slices of a slab.
        halo: slices before and after it, or "auto".
    """

    size: int
    halo: int | Literal["auto"]


@dataclass(frozen=True)
class Record:
    """An output and its provenance.

    Attributes:
        folder: the output.
        told: the content of ``provenance.json``.
    """

    folder: Path
    told: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Record:
        """That of an output.

        Raises:
            RecipeError: the folder is no output of one reconstruction, or was made of a scan that
                was in memory.
        """
        if not is_labrecon_output(folder):
            raise RecipeError(
                f"{folder} is no output of labrecon recon: it holds no provenance.json that can be "
                "read"
            )
        record = cls(folder, json.loads((folder / "provenance.json").read_text(encoding="utf-8")))
        missing = [key for key in ("instrument", "inputs", "recipe", "volume", "machine")
                   if key not in record.told]  # fmt: skip
        if missing:
            raise RecipeError(
                f"{folder / 'provenance.json'} does not say {', '.join(missing)}: it is not that "
                "of a reconstruction, or it was changed"
            )
        if not record.told["inputs"]:
            raise RecipeError(
                f"{folder} was made of a scan in memory, not of a file: there is nothing to read "
                "again"
            )
        return record

    @property
    def call(self) -> dict[str, Any]:
        """How it was called; {} where an older labrecon did not say."""
        return dict(self.told.get("call") or {})

    @property
    def files(self) -> list[dict[str, Any]]:
        """What is read again: files of the scan, those that options name, the model's weights."""
        files = [*self.told["inputs"], *self.told.get("option_files", [])]
        if self.weights is not None:
            files.append({"path": self.weights, "sha256": self.told["model"]["sha256"]})
        return files

    @property
    def weights(self) -> str | None:
        """File with the tensors of the model that was used."""
        model = self.told.get("model")
        return None if model is None else str(Path(model["run"]) / WEIGHTS)

    @property
    def scan(self) -> Path:
        """The scan as it was named: a file or folder.

        Raises:
            RecipeError: an older labrecon noted a relative path that fits none of the inputs.
        """
        if "scan" in self.call:
            return Path(self.call["scan"])
        named = Path(self.told["scan"])
        first = Path(self.told["inputs"][0]["path"])
        for path in (first, *first.parents):
            if path == named or path.parts[-len(named.parts) :] == named.parts:
                return path
        raise RecipeError(
            f"{self.folder} does not say where the scan {named} was; run it in the folder in which "
            "the reconstruction was called"
        )

    @property
    def slabs(self) -> SlabCut | None:
        """How it was made in slabs; None where it was made at once."""
        slabs = self.told.get("slabs")
        if not slabs:
            return None
        # All have as many slices, but for the last.
        return SlabCut(slabs[0]["stop"] - slabs[0]["start"], self.told.get("halo", "auto"))

    @property
    def device(self) -> str:
        """Where it was computed, such as ``"cuda:0"``."""
        return str(self.told["machine"]["device"]).partition(" (")[0]

    @property
    def shape(self) -> list[int] | None:
        """Of the volume."""
        made = self.told.get("reconstructions") or [{}]
        return made[0].get("shape")

    def recipe(self) -> tuple[dict[str, Any], list[str]]:
        """What makes the volume again, and notes of where that is not the stored recipe.

        Comparisons are left out, as no volume of theirs is kept; a solve that its time limit ended
        does as many iterations again.
        """
        recipe = _with_infinities(self.told["recipe"])
        recipe.pop("compare", None)
        if self.told.get("status") != "time":
            return recipe, []
        count = self.told["iterations"]
        recipe["solver"] = {**recipe["solver"], "iterations": count}
        recipe["solver"].pop("seconds", None)
        return recipe, [f"its time limit ended it after {count} iterations: as many are done again"]


def _with_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_infinities(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_infinities(item) for item in value]
    return float(value) if value in _NOT_FINITE else value
