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
from labrecon.io.plain import dumps
from labrecon.io.provenance import hash_file

__all__ = ["Asked", "adopt", "find_stale", "open_batch", "output_of", "recover"]

#: Written when a batch is begun: tells its folder from others.
RECIPE = "recipe.json"


@dataclass(frozen=True)
class Asked:
    """What a command asks for.

    Attributes:
        setup: how scans are reconstructed.
        patterns: which.
        title: of the instrument.
        model: SHA-256 of the model's tensors, or "".
        options: limits, workers and the like, for `labrecon retry`.
    """

    setup: Setup
    patterns: Sequence[str]
    title: str = ""
    model: str = ""
    options: Mapping[str, Any] | None = None

    @property
    def recipe_hash(self) -> str:
        """SHA-256 of all that decides about a result but its scan."""
        told = {"recipe": self.setup.recipe, "model": self.model}
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
        write_file(out / RECIPE, dumps(asked.setup.plain()), force=True)
    # Patterns add up: what was asked for before is still to be done.
    patterns = list(dict.fromkeys([*facts["patterns"], *asked.patterns]))
    manifest.state_fact(**{**_facts(asked), "patterns": patterns})
    return manifest


def _facts(asked: Asked) -> dict[str, Any]:
    return {
        "setup": asked.setup.plain(),
        "title": asked.title,
        "patterns": list(asked.patterns),
        "model": asked.model,
        "recipe_hash": asked.recipe_hash,
        "options": dict(asked.options or {}),
        "labrecon": labrecon.__version__,
    }


def _changes(facts: Mapping[str, Any], asked: Asked) -> str:
    old, new = _flat(facts["setup"]["recipe"]), _flat(asked.setup.recipe)
    if facts["model"] != asked.model:
        old["model"], new["model"] = facts["model"] or "none", asked.model or "none"
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "\n".join(f"  {k}: {old.get(k, '–')} → {new.get(k, '–')}" for k in keys)


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    """``{"solver.iterations": 50}`` of nested values."""
    pairs: Any = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        pairs = enumerate(value)
    else:
        return {at: value}
    flat: dict[str, Any] = {}
    for key, item in pairs:
        flat |= _flat(item, f"{at}.{key}" if at else str(key))
    return flat


def output_of(out: Path, name: str) -> Path:
    """The folder of a scan."""
    return out / "scans" / name


def adopt(manifest: Manifest, out: Path, row: Mapping[str, Any]) -> bool:
    """Whether the scan's output is there already, made of its file by the batch's recipe.

    Then it is noted as done: a process that was killed had no time to.
    """
    folder = output_of(out, row["name"])
    try:
        made = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        facts = manifest.facts()
        same = (
            made["recipe"] == facts["setup"]["recipe"]
            and made.get("model", {}).get("sha256", "") == facts["model"]
            and made["scan"] == row["path"]
            and all(hash_file(Path(one["path"])) == one["sha256"] for one in made["inputs"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if not same:
        return False
    main = made["reconstructions"][0]
    told = {
        "title": main["title"],
        "status": made["status"],
        "iterations": made["iterations"],
        "numbers": numbers_of(made),
        "timings": made["timings_seconds"],
        "warnings": [],
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
        stage="",
        stale="",
    )
    return True


def recover(manifest: Manifest, out: Path) -> int:
    """Put back what was running when the last process ended; how many scans that are."""
    lost = manifest.rows("running")
    for row in lost:
        folder = output_of(out, row["name"])
        for partial in folder.parent.glob(f".{glob.escape(folder.name)}.*.part"):
            shutil.rmtree(partial, ignore_errors=True)
        if not adopt(manifest, out, row):
            # It was not the scan that failed.
            manifest.put_back(row["id"], attempts=max(0, row["attempts"] - 1))
    return len(lost)


def find_stale(manifest: Manifest) -> dict[str, int]:
    """Compare files and recipe with those that results were made of, and note it.

    Failed scans whose file is another one now are put back.

    Returns:
        How many finished ones have another recipe (``"recipe"``) or file (``"input"``), and how
        many failed ones are tried again (``"again"``).
    """
    recipe = manifest.facts()["recipe_hash"]
    found = {"recipe": 0, "input": 0, "again": 0}
    with manifest.together():
        for row in manifest.rows("done"):
            stale = "recipe" if row["recipe"] != recipe else ""
            if _changed(row["seen"], row["inputs"]):
                stale = "input"
            if stale:
                found[stale] += 1
            if stale != row["stale"]:
                manifest.change(row["id"], stale=stale)
        for row in manifest.rows("failed"):
            now_seen = fingerprint([Path(row["path"])])
            if now_seen and row["seen"] and now_seen != row["seen"]:
                manifest.put_back(row["id"], attempts=0, alone=0)
                found["again"] += 1
    return found


def _changed(seen: Mapping[str, int], inputs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether files differ from those that were hashed; those that are gone do not count."""
    paths = [Path(one["path"]) for one in inputs]
    at_present = fingerprint(paths)
    if not at_present or at_present == seen:
        return False
    # Copied or touched, perhaps.
    return any(hash_file(Path(one["path"])) != one["sha256"] for one in inputs)
