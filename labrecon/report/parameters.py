"""What a network has learned: its numbers per layer, and how far its weights have moved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from labrecon.schedule import Schedule

__all__ = ["learned", "moved_weights", "numbers_by_layer"]


def learned(network: nn.Module) -> dict[str, Tensor]:
    """What the optimiser changes, by name: values behind constraints, not what is stored."""
    found: dict[str, Tensor] = {}
    for name, value in _values(network):
        found[name] = value.detach().cpu().clone()
    return found


def _values(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    hidden: tuple[str, ...] = ()
    for prefix, module in network.named_modules():
        at = f"{prefix}." if prefix else ""
        if hidden and prefix.startswith(hidden):
            continue
        if isinstance(module, Schedule):
            if module.raw.requires_grad:
                count = len(module.raw)
                names = [prefix] if count == 1 else [f"{prefix}.{k}" for k in range(count)]
                yield from ((name, module(k)) for k, name in enumerate(names))
            continue
        if parametrize.is_parametrized(module):
            kept = module.parametrizations
            hidden = (*hidden, f"{at}parametrizations")
            for name, held in kept.items():
                if any(p.requires_grad for p in held.parameters()):
                    yield f"{at}{name}", getattr(module, name)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                yield f"{at}{name}", parameter


def numbers_by_layer(values: Mapping[str, Tensor]) -> dict[str, list[tuple[int, float]]]:
    """Single numbers, of all layers together: ``"solver.step_size"`` with ``(layer, value)``."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, value in values.items():
        if value.numel() == 1 and not value.is_complex():
            title, layer = _layer(name)
            found.setdefault(title, []).append((layer, float(value)))
    return {title: sorted(points) for title, points in found.items()}


def moved_weights(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> dict[str, tuple[int, int, list[tuple[int, float]]]]:
    """Of weights: how many layers, how many numbers, and ``‖w − w₀‖ / ‖w₀‖`` by layer."""
    found: dict[str, tuple[int, int, list[tuple[int, float]]]] = {}
    for name, value in after.items():
        if value.numel() == 1 or name not in before:
            continue
        start = before[name].to(torch.complex128 if value.is_complex() else torch.float64)
        size = float(torch.linalg.vector_norm(start))
        change = float(torch.linalg.vector_norm(value.to(start.dtype) - start))
        title, layer = _layer(name)
        layers, numbers, points = found.get(title, (0, 0, []))
        ratio = change / size if size else change
        found[title] = (layers + 1, numbers + value.numel(), [*points, (layer, ratio)])
    return found


def _layer(name: str) -> tuple[str, int]:
    """The name without its first number, and that: ``("prior.*.weight", 3)``; without, layer 0."""
    match = re.search(r"(?:^|\.)(\d+)(?=\.|$)", name)
    if match is None:
        return name, 0
    start, end = match.span(1)
    return f"{name[:start]}*{name[end:]}".removesuffix(".*"), int(match[1])
