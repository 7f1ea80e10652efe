"""Trained networks in files: tensors as safetensors, everything else as JSON; reading runs no code.

A network is built again by its registered name and options; the file only fills in its tensors.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from labrecon.arrays import Array
from labrecon.errors import ModelError
from labrecon.io.atomic import write_file
from labrecon.io.plain import brief
from labrecon.io.provenance import hash_file
from labrecon.operator import Operator
from labrecon.plugins import CONTRACT, ConflictError, Host, UnknownNameError
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor
from labrecon.space import Space

__all__ = [
    "CARD",
    "WEIGHTS",
    "ModelCard",
    "SavedModel",
    "SpaceCard",
    "load_model",
    "save_model",
    "unequal_fields",
]

CARD = "model.json"
WEIGHTS = "model.safetensors"
#: Numbers of two geometries that differ by less, relative to the largest, are the same: a file
#: in single precision gives back what was written in double.
SAME = 1e-5


class SpaceCard(BaseModel):
    """A `Space` in JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...]

    @classmethod
    def of(cls, space: Space) -> Self:
        """That of a space."""
        dtype = str(space.dtype).removeprefix("torch.")
        return cls(shape=space.shape, dtype=dtype, axes=space.axes)


class ModelCard(BaseModel):
    """What ``model.json`` says: how to build the network, and what it was trained for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["labrecon model 1"] = "labrecon model 1"
    network: str
    options: dict[str, Any] = {}
    scale: float
    seed: int
    data_term: Literal["unit", "noise"] = "unit"
    instrument: str
    geometry: dict[str, Any]
    operator: dict[str, Any] = {}
    prepare: list[dict[str, Any]] = []
    domain: SpaceCard
    range: SpaceCard
    parameters: int
    sha256: str = ""
    contract: tuple[int, int] = CONTRACT
    versions: dict[str, Any] = {}


@dataclass(frozen=True)
class SavedModel:
    """A trained network as it lies in a run folder.

    Attributes:
        folder: the run.
        card: what ``model.json`` says.
        tensors: of the network, by name.
        designs: values of the operator's designs that were trained with it.
    """

    folder: Path
    card: ModelCard
    tensors: Mapping[str, Tensor]
    designs: Mapping[str, Tensor]

    @property
    def options(self) -> dict[str, Any]:
        """What its factory is given, also where it took something else by default in its day."""
        return _as_trained(self.card.network, self.card.options)

    def told(self) -> dict[str, Any]:
        """What provenance says of the model."""
        kept = ("network", "options", "scale", "data_term", "parameters", "sha256")
        return {"run": str(self.folder.absolute()), **self.card.model_dump(include=set(kept))}

    def require_instrument(self, name: str) -> None:
        """Raise `ModelError` where the model was trained for another instrument."""
        if self.card.instrument != name:
            raise ModelError(
                f"the model in {self.folder} was trained for the instrument "
                f"{self.card.instrument!r}, and this is {name!r}"
            )

    def differences(
        self,
        geometry: BaseModel,
        operator: Operator,
        tolerances: Mapping[str, float] | None = None,
    ) -> list[str]:
        """What is not as it was in training, a line each; nothing where the model fits.

        Args:
            geometry: of the scan.
            operator: of the scan.
            tolerances: relative differences that are allowed, by field; the rest must agree.
        """
        now = json.loads(geometry.model_dump_json())
        allowed = tolerances or {}
        found = [
            f"{name}: trained with {_brief(old)}, the scan has {_brief(new)}"
            for name, old, new in unequal_fields(self.card.geometry, now, allowed)
        ]
        spaces = {"object": (self.card.domain, operator.domain)}
        spaces["data"] = (self.card.range, operator.range)
        for what, (old, space) in spaces.items():
            new = SpaceCard.of(space)
            if new != old:
                found.append(f"{what}: trained with {_space(old)}, the scan has {_space(new)}")
        for name, value in self.designs.items():
            held = dict(operator.named_parameters()).get(name)
            if held is None:
                found.append(f"design {name!r}: trained with it, the scan's operator has none")
            elif not _close(value, held.detach().cpu()):
                found.append(
                    f"design {name!r}: trained with {brief(value.flatten())}, the scan's operator "
                    f"has {brief(held.flatten())}"
                )
        return found

    def as_calibrated(self, operator: Operator) -> Operator:
        """The operator with what was calibrated beside the network; most often the given one.

        Residuals, and data that are simulated for the network, are to be made by it.
        """
        if self.card.network != "calibrated":
            return operator
        values: dict[str, Any] = self.card.options["nuisances"]
        held = operator.current(*values)
        made = copy.deepcopy(operator)
        made.place({k: torch.as_tensor(v, dtype=held[k].dtype) for k, v in values.items()})
        return made

    def build(self, problem: Problem, host: Host) -> Reconstructor:
        """The trained network, for problems like this one, on the problem's device.

        Raises:
            ModelError: no plugin has the network, it refuses the options, or the tensors do not
                fit the operator.
        """
        card = self.card
        try:
            make = host.get("networks", card.network)
        except (UnknownNameError, ConflictError, ImportError, AttributeError) as error:
            raise ModelError(f"{self.folder / CARD}: {error}") from error
        try:
            given = {**self.options, **host.for_factory(make)}
            network: Reconstructor = make(problem, scale=card.scale, seed=card.seed, **given)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"{self.folder / CARD}: the network {card.network!r} can not be built with "
                f"{self.options}: {error}"
            ) from error
        self._require_fit(network)
        network.load_state_dict(dict(self.tensors))
        return network.to(problem.data.device).eval()

    def _require_fit(self, network: Reconstructor) -> None:
        held = network.state_dict()
        shapes = [
            f"{name} {tuple(self.tensors[name].shape)}, here {tuple(held[name].shape)}"
            for name in held
            if name in self.tensors and self.tensors[name].shape != held[name].shape
        ]
        wrong = [*(f"{n} is missing" for n in held if n not in self.tensors), *shapes]
        wrong += [f"{n} has no place" for n in self.tensors if n not in held]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ModelError(
                f"the tensors in {self.folder / WEIGHTS} do not fit the network "
                f"{self.card.network!r} on this geometry: {'; '.join(wrong[:3])}{more}"
            )


def _as_trained(network: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if network in ("reused", "calibrated") and "network" in options:
        inner = _as_trained(options["network"], options.get("options", {}))
        return {**options, "options": inner}
    # Cards once held only what a recipe set, and "unrolled" was of ISTA then; FISTA has the same
    # tensors, and would make another image of them.
    return {"solver": "ista", **options} if network == "unrolled" else dict(options)


def save_model(
    folder: Path,
    card: ModelCard,
    network: Reconstructor,
    designs: Mapping[str, Tensor] | None = None,
) -> SavedModel:
    """Write ``model.safetensors`` and ``model.json``; each appears whole or not at all.

    Raises:
        OSError: the disk is full, or refuses otherwise.
    """
    tensors = _copied(network.state_dict())
    held = _copied(designs or {})
    named = {f"network.{n}": t for n, t in tensors.items()}
    named |= {f"design.{n}": t for n, t in held.items()}
    partial = folder / f".{WEIGHTS}.part"
    try:
        save_file(named, partial, metadata={"labrecon": card.format})
        digest = hash_file(partial)
        partial.replace(folder / WEIGHTS)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)
    card = card.model_copy(update={"sha256": digest})
    write_file(folder / CARD, card.model_dump_json(indent=2), force=True)
    return SavedModel(folder, card, tensors, held)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Tensors that share memory (tied layers) are written once for each name.
    return {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}


def load_model(folder: Path) -> SavedModel:
    """Read a trained network; no code in the files can run.

    Raises:
        ModelError: no run folder, a training that is not done, or a file that is damaged or was
            changed after the training.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no run folder {folder}; `labrecon train … -o RUN` makes one")
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} holds no {CARD}: it is no run of `labrecon train`, or its training is not "
            "done; the same command goes on with it"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{folder / CARD} can not be read: {error}") from error
    try:
        card = ModelCard.model_validate_json(text)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ModelError(f"{folder / CARD} is damaged: {told}") from error
    if card.contract[0] != CONTRACT[0] or card.contract > CONTRACT:
        raise ModelError(
            f"{folder / CARD} is written for contract {card.contract}, this labrecon has {CONTRACT}"
        )
    path = folder / WEIGHTS
    try:
        if hash_file(path) != card.sha256:
            raise ModelError(
                f"{path} is not the file that {CARD} speaks of (its SHA-256 differs): it is "
                "damaged, or of another run; the same `labrecon train` command writes it again "
                f"once {CARD} is removed"
            )
        with safe_open(path, framework="pt") as file:
            named = {n: file.get_tensor(n).clone() for n in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} can not be read: {error}") from error
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "design": {}}
    for name, tensor in named.items():
        kind, _, rest = name.partition(".")
        parts.setdefault(kind, {})[rest] = tensor
    return SavedModel(folder, card, parts["network"], parts["design"])


def unequal_fields(
    old: Mapping[str, Any], new: Mapping[str, Any], allowed: Mapping[str, float]
) -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of the fields in which two geometries in JSON differ.

    Args:
        old: one of them.
        new: the other.
        allowed: relative differences that are none, by field.
    """
    for name in dict.fromkeys([*old, *new]):
        tolerance = max(SAME, allowed.get(name, 0.0))
        if tolerance < math.inf and not _same(old.get(name), new.get(name), tolerance):
            yield name, old.get(name), new.get(name)


def _same(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, dict) and isinstance(b, dict) and not Array.is_json(a):
        return a.keys() == b.keys() and all(_same(a[key], b[key], tolerance) for key in a)
    one, other = _numbers(a), _numbers(b)
    if one is None or other is None:
        return bool(a == b)
    return _close(one, other, tolerance)


def _numbers(value: Any) -> Tensor | None:
    if value is None or isinstance(value, bool | str):
        return None
    if isinstance(value, dict) and not Array.is_json(value):
        return None
    try:
        if Array.is_json(value):
            held = Array.from_json(value).tensor()
            return held.to(torch.complex128 if held.is_complex() else torch.float64)
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return None


def _close(a: Tensor, b: Tensor, tolerance: float = SAME) -> bool:
    if a.shape != b.shape:
        return False
    largest = max((float(t.abs().max()) for t in (a, b) if t.numel()), default=0.0)
    return bool((a - b).abs().le(tolerance * largest).all()) and math.isfinite(largest)


def _brief(value: Any) -> str:
    if Array.is_json(value):
        value = Array.from_json(value)
    return "none" if value is None else brief(value)


def _space(card: SpaceCard) -> str:
    axes = zip(card.axes, card.shape, strict=True)
    return " × ".join(f"{axis} {size}" for axis, size in axes) + f" {card.dtype}"
