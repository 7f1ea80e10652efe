"""What a training leaves in its run folder: model, provenance, what the report shows."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from labrecon.io.model import ModelCard, SavedModel, SpaceCard, save_model
from labrecon.io.plain import plain
from labrecon.io.provenance import versions
from labrecon.learner import FitResult
from labrecon.operator import Operator
from labrecon.reconstructor import Reconstructor
from labrecon.report.training import SHOWN, Method, TrainingReport
from labrecon.train.data import TrainingData
from labrecon.train.folder import RunFolder
from labrecon.train.order import Order

__all__ = ["provenance_of", "save", "summary", "training_report"]


def save(
    order: Order,
    data: TrainingData,
    operator: Operator,
    network: Reconstructor,
    run: RunFolder,
) -> SavedModel:
    """Write the model, with all that `labrecon recon --model` needs to make it again."""
    recipe = order.recipe
    card = ModelCard(
        network=recipe.network.name,
        options=order.all_options,
        scale=data.scale,
        seed=recipe.seed,
        data_term=recipe.data_term,
        instrument=order.instrument.name,
        geometry=order.geometry.model_dump(mode="json"),
        operator=recipe.operator,
        prepare=[t.model_dump(exclude_defaults=True) for t in recipe.prepare if not t.skip],
        domain=SpaceCard.of(operator.domain),
        range=SpaceCard.of(operator.range),
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        versions=versions(order.host),
    )
    learned_too = [n for n in operator.designs if operator.get_parameter(n).requires_grad]
    designs = operator.current(*learned_too)
    return save_model(run.path, card, network, designs)


def provenance_of(
    order: Order,
    data: TrainingData,
    result: FitResult,
    methods: list[Method],
    model: SavedModel,
) -> dict[str, Any]:
    """What was trained, from what, and how well: ``provenance.json``."""
    best = result.best
    return order.provenance(
        data.inputs,
        data={**data.told, "scale": data.scale},
        model=model.told(),
        training={
            "status": result.status,
            "steps": result.steps,
            "seconds": float(result.last.get("seconds", 0.0)),
            "best_step": None if best is None else best.step,
            "last": result.last,
            "validation": None if best is None else best.metrics,
        },
        methods=[
            {"title": m.title, "metrics": m.metrics, "seconds": m.seconds, "note": m.note}
            for m in methods
        ],
    )


def training_report(
    order: Order,
    data: TrainingData,
    provenance: dict[str, Any],
    methods: list[Method],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    run: RunFolder,
) -> TrainingReport:
    """What the page shows: the first few of what was held out, and what was learned."""
    domain, space = (data.problems[0].operator.domain, data.problems[0].operator.range)
    truths = [x for _, truth in data.unseen for x in truth.cpu().reshape(-1, *domain.shape)]
    measured = [
        y for problem in data.problems for y in problem.data.cpu().reshape(-1, *space.shape)
    ]
    instrument = order.instrument
    return TrainingReport(
        order.recipe.network.name,
        instrument.title or instrument.name,
        domain.axes,
        instrument.voxel_size(order.geometry),
        instrument.unit,
        provenance,
        _read_log(run.path / "log.csv"),
        methods,
        truths[:SHOWN],
        measured[:SHOWN],
        space.axes,
        instrument.data_unit,
        before,
        after,
        order.warnings,
    )


def summary(out: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What ``--json`` prints of a run."""
    kept = ("instrument", "data", "model", "training", "methods", "warnings", "timings_seconds")
    told: dict[str, Any] = plain({name: provenance[name] for name in kept})
    return {
        "status": told["training"]["status"],
        "output": str(out),
        "report": os.fspath(out / "report.html"),
        **told,
    }


def _read_log(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]
