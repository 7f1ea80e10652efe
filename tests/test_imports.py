"""What is imported when: listing and help stay light, the heavy packages wait for their use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "numpy", "scipy", "matplotlib", "h5py", "astra", "zarr", "pywt", "tifffile")
PLUGINS = Path(__file__).parents[1] / "plugins"
BUNDLED = sorted(path.parent.name for path in PLUGINS.glob("*/__init__.py"))


def imported_by(statement: str) -> set[str]:
    """The heavy packages that a fresh interpreter has imported after a statement."""
    program = f"import sys; {statement}; print(*sorted(set(sys.modules) & {set(HEAVY)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    ["labrecon", "labrecon.cli", "labrecon.commands", "labrecon.plugins", "labrecon.recipe"],
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    assert imported_by(f"import {module}") == set()


def test_public_name_loads_its_module_on_first_use() -> None:
    assert "torch" not in imported_by("import labrecon")
    assert "torch" in imported_by("import labrecon; labrecon.Operator")


def test_public_names_exist_and_import_no_instrument_package() -> None:
    found = imported_by("import labrecon; [getattr(labrecon, n) for n in dir(labrecon)]")
    assert "torch" in found
    assert not found & {"astra", "matplotlib", "zarr"}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_plugin_waits_until_it_is_used(name: str) -> None:
    assert imported_by(f"import {name}") == set()
