"""Which backend is taken, what is refused before it costs anything, and the matrix cache."""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from ct_phantoms import error, turn

from labrecon_ct.backends import cache as matrix_cache
from labrecon_ct.backends import matrix as matrix_module
from labrecon_ct.backends.choice import CTMemoryError
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.projector import CTProjector

FLAT = CTGeometry(angles=turn(9), columns=24, volume_shape=(20, 20))
CONE = CTGeometry(
    beam="cone", source_origin=60, origin_detector=30, angles=turn(3), columns=12, rows=6,
    volume_shape=(5, 10, 10),
)  # fmt: skip


class TestChoice:
    def test_matrix_in_2d(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "labrecon_ct"):
            operator = CTProjector(FLAT)
        assert operator.backend == "matrix"
        assert operator.reason in caplog.text
        assert "GiB" in operator.reason

    def test_matrix_above_the_budget(self) -> None:
        operator = CTProjector(FLAT, memory_budget=1e-6)
        assert operator.backend == "astra"
        assert "too much" in operator.reason
        with pytest.raises(CTMemoryError, match="GiB"):
            CTProjector(FLAT, backend="matrix", memory_budget=1e-6)

    def test_matrix_only_where_it_pays(self) -> None:
        few = CTProjector(FLAT, uses=2)
        assert few.backend == "astra"
        assert "does not pay for 2 projections" in few.reason
        assert CTProjector(FLAT, uses=2, backend="matrix").backend == "matrix"
        tall = CTGeometry(angles=turn(3), columns=24, rows=40, volume_shape=(40, 20, 20))
        assert CTProjector(tall, uses=2).backend == "matrix"

    def test_double_precision(self) -> None:
        assert CTProjector(FLAT, dtype=torch.float64).backend == "rays"
        with pytest.raises(ValueError, match="float32"):
            CTProjector(FLAT, dtype=torch.float64, backend="astra")

    def test_volumes_without_cuda(self) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device")
        assert CTProjector(CONE).backend == "rays"
        for backend in ("matrix", "astra"):
            with pytest.raises(ValueError, match="take backend='rays'"):
                CTProjector(CONE, backend=backend)

    def test_unknown(self) -> None:
        with pytest.raises(ValueError, match="auto, matrix, astra or rays"):
            CTProjector(FLAT, backend="gpu")

    def test_kernel(self) -> None:
        with pytest.raises(ValueError, match="linear"):
            CTProjector(CONE.slice_geometry(), kernel="linear")(torch.zeros(10, 10))

    @pytest.mark.parametrize("kernel", ["line", "strip", "linear"])
    @pytest.mark.parametrize("pitch", [0.5, 1.0, 2.0])
    def test_predicted_memory(self, kernel: str, pitch: float) -> None:
        geometry = CTGeometry(
            angles=turn(30), columns=160, column_pitch=pitch, voxel_size=1.0, volume_shape=(96, 96)
        )
        operator = CTProjector(geometry, kernel=kernel)
        operator(operator.domain.zeros())
        taken = operator.memory
        assert 0.8 < matrix_module.matrix_bytes(geometry, kernel) / taken < 1.6


def test_too_large_is_refused_before_allocation() -> None:
    geometry = CTGeometry(angles=turn(8), columns=64, rows=4000, volume_shape=(60000, 60000, 60000))
    with pytest.raises(CTMemoryError, match=r"80466\d\.\d GiB"):
        CTProjector(geometry)


def test_astra_never_runs_3d_without_cuda() -> None:
    """It would end Python with SIGFPE (return code 136) or return zeros."""
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    program = """
        import torch
        from labrecon_ct.backends.direct import AstraBackend
        from labrecon_ct.geometry import CTGeometry
        from labrecon_ct.poses import poses
        from labrecon_ct.projector import CTProjector

        cone = CTGeometry(beam="cone", source_origin=60, origin_detector=30, angles=(0.0, 1.0),
                          columns=12, rows=6, volume_shape=(5, 10, 10))
        flat = cone.model_copy(update={"rows": None, "volume_shape": (10, 10)})
        assert CTProjector(cone)(torch.ones(5, 10, 10)).isfinite().all()
        for geometry, options in ((cone, {}), (cone, {"cuda": True}), (flat, {"cuda": True})):
            pose = poses(geometry, torch.tensor(geometry.angles), torch.tensor(0.0)).numpy()
            try:
                AstraBackend(geometry, pose, "line", **options)
            except RuntimeError as error:
                assert "no CUDA device" in str(error), error
            else:
                raise SystemExit("ASTRA was let loose")
        print("alive")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "alive"


def test_astra_loads_when_a_projection_needs_it() -> None:
    program = """
        import sys
        import torch
        from labrecon_ct.geometry import CTGeometry
        from labrecon_ct.projector import CTProjector

        flat = CTGeometry(angles=(0.0, 1.0), columns=12)
        CTProjector(flat, backend="rays")(torch.ones(12, 12))
        assert "astra" not in sys.modules
        CTProjector(flat, backend="astra")(torch.ones(12, 12))
        assert "astra" in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


class TestCache:
    @pytest.fixture(autouse=True)
    def small_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(matrix_cache, "SMALLEST", 0)

    @pytest.fixture
    def builds(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Grows by one each time a matrix is made."""
        made: list[int] = []
        build = matrix_module._build

        def counted(*args: object) -> object:
            made.append(1)
            return build(*args)

        monkeypatch.setattr(matrix_module, "_build", counted)
        return made

    def test_made_once(self, cache: Path, builds: list[int]) -> None:
        x = torch.rand(20, 20)
        first = CTProjector(FLAT)(x)
        assert [p.suffix for p in cache.iterdir()] == [".safetensors"]
        assert torch.equal(CTProjector(FLAT)(x), first)
        assert len(builds) == 1
        CTProjector(FLAT, kernel="strip")(x)
        CTProjector(FLAT.model_copy(update={"centre_offset": 0.5}))(x)
        assert len(builds) == 3

    @pytest.mark.parametrize("damage", ["truncated", "scribbled", "empty"])
    def test_damaged_file_is_made_again(
        self, cache: Path, builds: list[int], damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        x = torch.rand(20, 20)
        first = CTProjector(FLAT)(x)
        (path,) = cache.iterdir()
        content = bytearray(path.read_bytes())
        if damage == "truncated":
            content = content[: len(content) // 2]
        elif damage == "empty":
            content = bytearray()
        else:
            for i in range(len(content) // 2, len(content) // 2 + 64):
                content[i] ^= 0x5A
        path.write_bytes(content)
        assert torch.equal(CTProjector(FLAT)(x), first)
        assert len(builds) == 2
        assert "damaged" in caplog.text
        assert torch.equal(CTProjector(FLAT)(x), first)
        assert len(builds) == 2

    def test_bounded(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        x = torch.rand(20, 20)
        CTProjector(FLAT)(x)
        (path,) = cache.iterdir()
        monkeypatch.setattr(matrix_cache, "LIMIT", int(2.5 * path.stat().st_size))
        for offset in (1.0, 2.0, 3.0):
            CTProjector(FLAT.model_copy(update={"centre_offset": offset}))(x)
        files = list(cache.iterdir())
        assert len(files) == 2
        assert path not in files

    def test_other_processes_are_left_alone(self, cache: Path) -> None:
        cache.mkdir()
        theirs = cache / "theirs.part"
        theirs.write_bytes(b"half")
        CTProjector(FLAT)(torch.rand(20, 20))
        assert theirs.exists()

    def test_unwritable_folder_costs_only_time(
        self, cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache.write_text("a file where the folder should be")
        assert CTProjector(FLAT)(torch.rand(20, 20)).isfinite().all()
        assert "not cached" in caplog.text


@pytest.mark.parametrize("backend", ["matrix", "astra", "rays"])
def test_copies_work_on_their_own(backend: str) -> None:
    operator = CTProjector(FLAT, backend=backend)
    x = torch.rand(20, 20)
    y = operator(x)
    twin, restored = copy.deepcopy(operator), pickle.loads(pickle.dumps(operator))
    del operator
    assert error(twin(x), y) < 1e-6
    assert error(restored(x), y) < 1e-6


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestCuda:
    """ASTRA's CUDA projectors against the CPU reference of the same geometry."""

    @pytest.mark.parametrize("geometry", [FLAT, CONE], ids=["parallel", "cone"])
    def test_projection(self, geometry: CTGeometry) -> None:
        operator = CTProjector(geometry, backend="astra", device="cuda", debug=True)
        reference = CTProjector(geometry, backend="rays")
        size = geometry.volume_shape
        x = torch.nn.functional.interpolate(
            torch.rand(1, 1, *[max(2, n // 4) for n in size]), size, mode="nearest"
        )[0, 0]
        y = reference(x)
        assert error(operator(x.cuda()).cpu(), y) < 2e-2
        assert error(operator.adjoint(y.cuda()).cpu(), reference.adjoint(y)) < 5e-2
        assert operator.adjoint_mismatch > 0

    def test_side_stream(self) -> None:
        operator = CTProjector(FLAT, backend="astra", device="cuda", debug=True)
        x = torch.rand(20, 20, device="cuda")
        expected = operator(x)
        with torch.cuda.stream(torch.cuda.Stream()):
            doubled = x * 2
            assert error(operator(doubled).cpu(), 2 * expected.cpu()) < 1e-5
