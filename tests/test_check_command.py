"""`labrecon check` as a user runs it: exit codes, JSON, the page, hangs and crashes."""

from __future__ import annotations

import json
import subprocess

import pytest

BROKEN = """
import os, time
from labrecon import Operator, Space

class Broken(Operator):
    def __init__(self):
        super().__init__(Space((4,)), Space((4,)))

    def forward(self, x):
        return 2 * x

    def adjoint(self, y):
        os.kill(os.getpid(), 11)

    def norm(self):
        print("a vendor library talks on standard output")
        time.sleep(100)

class Dies:
    os._exit(7) if os.environ.get("DIE") else None
"""


@pytest.fixture
def labrecon(labrecon_command, toy_environment, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)

    def run(*arguments, **environment):
        return subprocess.run(
            [*labrecon_command, *map(str, arguments)],
            cwd=tmp_path,
            env={**toy_environment, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.mark.slow
def test_an_installed_instrument(labrecon, tmp_path):
    done = labrecon("check", "toy", "--html", "page.html", "--skip", "memory")
    assert done.returncode == 0, done.stderr
    assert "✓ adjoint            exact" in done.stdout
    assert "! geometry" in done.stdout
    assert "→ model_config" in done.stdout
    assert "toy: 1 warned" in done.stdout
    page = (tmp_path / "page.html").read_text()
    assert "toy: conforms" in page
    assert "⟨Ax, y⟩ = ⟨x, Aᴴy⟩" in page
    again = labrecon("check", "toy", "--html", "page.html")
    assert again.returncode == 5
    assert "page.html exists" in again.stderr


@pytest.mark.slow
def test_json(labrecon):
    done = labrecon("check", "toy", "--json", "--only", "adjoint", "--only", "noise")
    told = json.loads(done.stdout)
    assert (told["passed"], told["subject"]) == (True, "toy")
    assert [check["check"] for check in told["checks"]] == ["build", "adjoint", "noise"]
    finding = told["checks"][1]["findings"][0]
    assert finding["status"] == "passed"
    assert finding["value"] < finding["tolerance"]


@pytest.mark.slow
def test_a_crash_and_a_hang_cost_only_themselves(labrecon):
    names = ("build", "adjoint", "graph", "norm", "precision")
    only = [word for name in names for word in ("--only", name)]
    done = labrecon("check", "broken:Broken", "--timeout", "3", *only)
    assert done.returncode == 6
    lines = {line[2:].split()[0]: line for line in done.stdout.splitlines() if line[:1] in "✓✗"}
    assert "crashed the process: SIGSEGV" in lines["adjoint"]
    assert "takes more than 3 s" in lines["norm"]
    assert lines["precision"].startswith("✓")
    assert "2 failed, 3 passed" in done.stdout


@pytest.mark.slow
def test_a_module_that_ends_the_process(labrecon):
    done = labrecon("check", "broken:Dies", DIE="1")
    assert done.returncode == 6
    assert "ended the process with exit code 7" in done.stdout


@pytest.mark.slow
def test_wrong_names(labrecon):
    for arguments, message in (
        (["toyy"], "no instrument is called 'toyy' (did you mean 'toy'?)"),
        (["broken:Nothing"], "can not be loaded (AttributeError"),
        (["nothing_here:Class"], "can not be loaded (ModuleNotFoundError"),
        (["toy", "--only", "adjiont"], "no check is called 'adjiont'"),
        ([], "name an instrument"),
    ):
        done = labrecon("check", *arguments)
        assert done.returncode == 2, done.stdout
        assert message in done.stderr


@pytest.mark.slow
def test_the_list_of_checks(labrecon):
    done = labrecon("check", "--list")
    assert done.returncode == 0
    assert "second derivative" in done.stdout
    assert len(done.stdout.splitlines()) == 27


@pytest.mark.slow
def test_what_a_module_raises_is_told_with_its_place(labrecon, tmp_path):
    (tmp_path / "raises.py").write_text("import math\n\nmath.sqrt(-1)\n")
    done = labrecon("check", "raises:Lab")
    assert done.returncode == 2
    assert "ValueError: math domain error at" in done.stderr
    assert "raises.py:3" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_json_is_all_that_is_printed(labrecon, tmp_path):
    (tmp_path / "chatty.py").write_text(
        "from labrecon import Operator, Space\n"
        "class Chatty(Operator):\n"
        "    def __init__(self): super().__init__(Space((4,)), Space((4,)))\n"
        "    def forward(self, x):\n"
        "        print('hello')\n"
        "        return 2 * x\n"
    )
    done = labrecon("check", "chatty:Chatty", "--json", "--only", "adjoint")
    assert json.loads(done.stdout)["passed"]
