"""A batch begun, or gone on with: what is asked for, compared with what there is."""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import labrecon
from labrecon.batch import manifest as manifests
from labrecon.batch.inventory import common_root, fingerprint
from labrecon.batch.manifest import Manifest, now
from labrecon.batch.tasks import Setup
from labrecon.batch.told import numbers_of
from labrecon.errors import RecipeError
from labrecon.io.atomic import write_file
from labrecon.io.changes import changes
from labrecon.io.plain import dumps
from labrecon.io.provenance import hash_file, hash_options
from labrecon.uncertainty.card import INTERVALS

__all__ = [
    "Asked",
    "adopt",
    "changed_failures",
    "find_stale",
    "open_batch",
    "output_of",
    "recover",
    "sweep",
]

#: Written when a batch is begun: tells its folder from others.
RECIPE = "recipe.json"


@dataclass(frozen=True)
class Asked:
    """What a command asks for.

    Attributes:
        setup: how scans are reconstructed.
        patterns: which.
        options: limits, workers and the like, for `labrecon retry`.
    """

    setup: Setup
    patterns: Sequence[str]
    options: Mapping[str, Any] | None = None

    @property
    def recipe_hash(self) -> str:
        """SHA-256 of all that decides about a result but its scan."""
        told = {
            "instrument": self.setup.instrument,
            "recipe": self.setup.recipe,
            "model": self.setup.model_hash,
            "files": [one["sha256"] for one in hash_options(self.setup.recipe)],
        }
        # Error bars are made by what lies beside the model, which can be calibrated anew.
        if self.setup.model is not None:
            intervals = Path(self.setup.model) / INTERVALS
            if intervals.is_file():
                told["intervals"] = hash_file(intervals)
        return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def open_batch(out: Path, asked: Asked, *, new_recipe: bool = False) -> Manifest:
    """The manifest of a new batch, or of one to go on with.

    Args:
        out: the batch's folder; it is there.
        asked: what is asked for.
        new_recipe: go on although the recipe is another one.

    Raises:
        OutputError: the manifest is damaged.
        RecipeError: the batch was begun with another recipe, model or instrument.
    """
    path = out / manifests.FILE
    if not path.exists():
        write_file(out / RECIPE, dumps(asked.setup.plain()), force=True)
        root = common_root(asked.patterns)
        begun = {"created": now(), "root": str(root), "messages": [], **_facts(asked)}
        return Manifest.create(path, begun)
    manifest = Manifest(path)
    facts = manifest.facts()
    if facts["setup"]["instrument"] != asked.setup.instrument:
        manifest.close()
        raise RecipeError(
            f"{out} is a batch of the instrument {facts['setup']['instrument']!r}, not "
            f"{asked.setup.instrument!r}; name another folder"
        )
    if facts["recipe_hash"] != asked.recipe_hash:
        changes = _changes(facts, asked)
        if not new_recipe:
            manifest.close()
            raise RecipeError(
                f"{out} was begun with another recipe:\n{changes}\nname another folder; or, with "
                "--new-recipe, what is done stays as it is and the rest is made by the new one "
                "(`labrecon retry OUT --stale` then makes the old ones anew)"
            )
        told = f"{now()}: another recipe from here on: {changes.strip()}"
        manifest.state_fact(messages=[*facts["messages"], told])
        for row in manifest.rows("failed"):
            manifest.put_back(row["id"], attempts=0, alone=0)
        write_file(out / RECIPE, dumps(asked.setup.plain()), force=True)
    # Patterns add up: what was asked for before is still to be done.
    patterns = list(dict.fromkeys([*facts["patterns"], *asked.patterns]))
    manifest.state_fact(**{**_facts(asked), "patterns": patterns})
    return manifest


def _facts(asked: Asked) -> dict[str, Any]:
    return {
        "setup": asked.setup.plain(),
        "patterns": list(asked.patterns),
        "recipe_hash": asked.recipe_hash,
        "options": dict(asked.options or {}),
        "labrecon": labrecon.__version__,
    }


def _changes(facts: Mapping[str, Any], asked: Asked) -> str:
    old, new = dict(facts["setup"]["recipe"]), dict(asked.setup.recipe)
    models = facts["setup"]["model_hash"], asked.setup.model_hash
    if models[0] != models[1]:
        old["model"], new["model"] = (each[:12] or "none" for each in models)
    told = [f"  {line}" for line in changes(old, new)]
    nothing = "  a file that an option names, or the model's intervals.json, is another one"
    return "\n".join(told or [nothing])


def output_of(out: Path, name: str) -> Path:
    """The folder of a scan.

    Raises:
        ValueError: it would lie elsewhere.
    """
    folder = out / "scans" / name
    if ".." in folder.relative_to(out).parts:
        raise ValueError(f"the name {name!r} leads out of the batch's folder")
    return folder


def sweep(out: Path, name: str) -> None:
    """Remove what a worker that was killed had begun to write of a scan."""
    folder = output_of(out, name)
    for partial in folder.parent.glob(f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}.part"):
        shutil.rmtree(partial, ignore_errors=True)


def adopt(manifest: Manifest, out: Path, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The provenance of the scan's output where it is there already, made of its file as asked for.

    Then it is noted as done: a process that was killed had no time to.
    """
    folder = output_of(out, row["name"])
    try:
        made: dict[str, Any] = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        facts = manifest.facts()
        setup = facts["setup"]
        files = [*made["inputs"], *made["option_files"]]
        same = (
            made["call"]["instrument"] == setup["instrument"]
            and made["recipe"] == setup["recipe"]
            and made.get("model", {}).get("sha256", "") == setup["model_hash"]
            and made["scan"] == row["path"]
            and all(hash_file(Path(one["path"])) == one["sha256"] for one in files)
        )
        numbers = numbers_of(made)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not same:
        return None
    told = {
        "title": made["reconstructions"][0]["title"],
        "status": made["status"],
        "iterations": made["iterations"],
        "numbers": numbers,
        "timings": made["timings_seconds"],
        "warnings": made["warnings"],
        "volume": made["volume"],
    }
    manifest.change(
        row["id"],
        state="done",
        finished=made["created"],
        seconds=sum(made["timings_seconds"].values()),
        inputs=made["inputs"],
        seen=fingerprint(Path(one["path"]) for one in made["inputs"]),
        recipe=facts["recipe_hash"],
        output=f"scans/{row['name']}",
        told=told,
        **{"kind": "", "reason": "", "trace": "", "stage": "", "stale": "", "alone": 0},
    )
    return made


def recover(manifest: Manifest, out: Path) -> int:
    """Put back what was running when the last process ended; how many scans that are.

    They come last, and alone: one that takes the whole machine down must not be the first again.
    """
    lost = manifest.rows("running")
    for row in lost:
        sweep(out, row["name"])
        # Adopted, should it be whole, before it would be begun.
        manifest.put_back(row["id"], attempts=max(0, row["attempts"] - 1), alone=1)
    return len(lost)


def find_stale(manifest: Manifest) -> dict[str, list[str]]:
    """Compare files and recipe with those that results were made of, and note it.

    Returns:
        Names of finished scans that have another recipe (``"recipe"``) or file (``"input"``).
    """
    recipe = manifest.facts()["recipe_hash"]
    found: dict[str, list[str]] = {"recipe": [], "input": []}
    changes: list[tuple[int, dict[str, Any]]] = []
    for row in manifest.rows("done"):
        stale = "recipe" if row["recipe"] != recipe else ""
        at_present = fingerprint([Path(one["path"]) for one in row["inputs"]])
        # Files that are gone have not changed: they were archived, say.
        if at_present and at_present != row["seen"]:
            if any(hash_file(Path(one["path"])) != one["sha256"] for one in row["inputs"]):
                stale = "input"
            else:
                changes.append((row["id"], {"seen": at_present}))
        if stale:
            found[stale].append(row["name"])
        if stale != row["stale"]:
            changes.append((row["id"], {"stale": stale}))
    with manifest.together():
        for scan, columns in changes:
            manifest.change(scan, **columns)
    return found


def changed_failures(manifest: Manifest) -> dict[Path, int]:
    """Failed scans whose file is another one now, by path."""
    found = {}
    for row in manifest.rows("failed"):
        at_present = fingerprint([Path(row["path"])])
        if at_present and row["seen"] and at_present != row["seen"]:
            found[Path(row["path"])] = row["id"]
    return found
