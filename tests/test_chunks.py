"""Stacks solved in parts: the same result, less memory, and what can not be taken apart."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from toy_instrument import Toy, ToyOperator

from labrecon import chunks, memory, posing, reading, stages
from labrecon.chunks import Joined, elements_that_fit, part, solve_stack, why_coupled
from labrecon.errors import RecipeError, ReconstructionError
from labrecon.interruption import Checkpoint
from labrecon.noise import Gaussian, PoissonGaussian, Scaled
from labrecon.operators.matrix import Matrix
from labrecon.plan import make_plans
from labrecon.plugins import Host
from labrecon.priors.tv import TV
from labrecon.problem import Problem, SolverError
from labrecon.recipe import load_recipe
from labrecon.recon import reconstruct_scan
from labrecon.solver import solve
from labrecon.solvers.alternating import Alternating
from labrecon.solvers.gauss_newton import GaussNewton
from labrecon.solvers.proximal import FISTA

CPU = torch.device("cpu")
SLICES = 7


def stack(count: int = SLICES):
    """A stack whose slices differ in content, noise level and bad samples."""
    toy = Toy()
    generator = torch.Generator().manual_seed(0)
    truth = toy.objects(toy.example(), count, generator)
    sigma = torch.linspace(0.02, 0.2, count).reshape(-1, 1, 1)
    with torch.no_grad():
        data = Gaussian(sigma).sample(toy.operator(toy.example())(truth), generator)
    weights = (torch.rand(data.shape, generator=generator) > 0.1).float()
    return toy.simulate(toy.example(), generator).replace(
        data=data, noise=Gaussian(sigma), weights=weights, truth=None
    )


def solved(host: Host, values: dict[str, object], scan=None):
    """Task and solution of a recipe on the stack."""
    toy, scan = Toy(), stack() if scan is None else scan
    plan, *_ = make_plans(load_recipe(values, toy), toy, host)
    with torch.no_grad():
        task = posing.pose(toy, reading.prepare(toy, scan, plan), plan, CPU)
        return task, stages.run(task)


TV_2D = {"name": "tv", "relative_weight": 1e-3, "nonneg": True, "iterations": 5}
TGV_2D = {"name": "tgv", "weight": 0.5, "iterations": 5}
METHODS = {
    "fista": ({"name": "fista"}, TV_2D),
    "restart": (
        {"name": "fista", "restart": True},
        {"name": "tgv", "weight": 0.5, "iterations": 5},
    ),
    "ista": ({"name": "ista", "start": "initial"}, {"name": "wavelet", "weight": 0.3}),
    "admm": ({"name": "admm", "rho": 30.0}, TV_2D),
    "pdhg": ({"name": "pdhg"}, TV_2D),
    "cg": ({"name": "cg", "rho": 0.1}, {"name": "zero"}),
    "gradient": ({"name": "gradient", "momentum": 0.5}, {"name": "zero"}),
    "direct": ({"name": "direct"}, {"name": "zero"}),
}


@pytest.mark.parametrize("method", METHODS)
def test_parts_give_what_the_whole_gives(method: str, toy_host: Host) -> None:
    solver, prior = METHODS[method]
    recipe = {"solver": {"iterations": 20, **solver}, "prior": prior}
    whole_task, whole = solved(toy_host, recipe)
    recipe["solver"] |= {"batch": 3}
    task, parts = solved(toy_host, recipe)
    assert isinstance(parts.state, Joined)
    assert parts.state.size == 3
    assert float((parts.x - whole.x).abs().max()) < 1e-6 * float(whole.x.abs().max())
    if whole_task.weight is not None:
        assert task.weight == pytest.approx(whole_task.weight, rel=1e-6)
    assert parts.status == whole.status
    assert parts.state.k == whole.state.k
    assert [r["iteration"] for r in parts.history] == [r["iteration"] for r in whole.history]
    for one, other in zip(parts.history, whole.history, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds"}:
            # Objectives of single precision, added up in another order.
            assert one[name] == pytest.approx(other[name], rel=1e-4)
    seconds = [r["seconds"] for r in parts.history]
    assert seconds == sorted(seconds)
    judged, wanted = stages.judge(task, parts), stages.judge(whole_task, whole)
    assert torch.allclose(judged.predicted, wanted.predicted, atol=1e-6)
    assert judged.quality.chi2 == pytest.approx(wanted.quality.chi2, rel=1e-5)


def test_each_part_ends_by_its_own_tolerance(toy_host: Host) -> None:
    solver = {"name": "fista", "iterations": 400, "tolerance": 1e-3, "check_every": 5}
    recipe = {"solver": solver, "prior": TV_2D}
    _, whole = solved(toy_host, recipe)
    solver["batch"] = 1
    _, parts = solved(toy_host, recipe)
    assert whole.status == parts.status == "converged"
    assert parts.state.k == whole.state.k, "the slowest slice decides for the whole"
    assert parts.history[-1]["change"] <= 1e-3
    assert float((parts.x - whole.x).norm() / whole.x.norm()) < 0.01


def test_the_time_limit_is_dealt_to_the_parts(monkeypatch) -> None:
    operator = ToyOperator(Toy().example())
    problem, solver = Problem(operator, torch.ones(SLICES, 24, 24)), FISTA(step_size=0.1)
    clock, given = [100.0], []
    monkeypatch.setattr(chunks.time, "perf_counter", lambda: clock[0])

    def solve_part(some, x0, seconds):
        given.append(seconds)
        # The second takes more than its share.
        clock[0] += 3.0 if len(given) == 2 else seconds
        made = solve(solver, some, iterations=1)
        return dataclasses.replace(made, status="time" if len(given) == 2 else "converged")

    with torch.no_grad():
        solution = solve_stack(solver, problem, solve_part, size=2, seconds=7.0)
    assert given == pytest.approx([2.0, 2.0, 2 / 3 * 2, 2 / 3 * 1])
    assert solution.status == "time"
    assert solution.seconds == pytest.approx(7.0)


def test_each_part_gets_its_share_of_the_first_estimate(toy_host: Host) -> None:
    recipe = {"solver": {"name": "fista", "iterations": 1, "batch": 3}, "prior": TV_2D}
    task, _ = solved(toy_host, recipe)
    x0 = torch.rand(SLICES, 24, 24, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        parts = stages.run(task, x0=x0)
        whole = stages.run(dataclasses.replace(task, size=None), x0=x0)
    assert torch.allclose(parts.x, whole.x, atol=1e-6)


class Greedy(ToyOperator):
    """As a GPU without memory for more than so many slices."""

    def __init__(self, geometry, most: int, error: Exception) -> None:
        super().__init__(geometry)
        self.most, self.error = most, error
        self.seen: list[int] = []

    def forward(self, x):
        count = x.numel() // self.domain.size
        if count > self.most:
            raise self.error
        self.seen.append(count)
        return super().forward(x)


OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("batch", [None, 6])
def test_halves_where_memory_runs_out(error, batch, toy_host: Host, monkeypatch) -> None:
    recipe = {"solver": {"name": "fista", "iterations": 10}, "prior": {"name": "tv", "weight": 1.0}}
    _, whole = solved(toy_host, recipe)
    scan, greedy = stack(), Greedy(Toy().example(), 2, error)
    monkeypatch.setattr(Toy, "operator", lambda *_, **__: greedy)
    if batch:
        recipe["solver"]["batch"] = batch
    _, parts = solved(toy_host, recipe, scan)
    assert parts.state.size == 2
    assert torch.allclose(parts.x, whole.x, atol=1e-6)
    assert max(greedy.seen) == 2


def test_one_slice_too_many_is_told(toy_host: Host, monkeypatch) -> None:
    scan = stack()
    monkeypatch.setattr(Toy, "operator", lambda *_, **__: Greedy(Toy().example(), 0, OUT[0]))
    with pytest.raises(ReconstructionError, match=r"out of memory: CUDA out of memory"):
        solved(toy_host, {"solver": {"name": "gradient", "step_size": 0.1}}, scan)


@pytest.mark.parametrize("batch", [7, 6])
def test_other_errors_are_not_taken_for_memory(batch, toy_host: Host, monkeypatch) -> None:
    error = RuntimeError("CUDA error: device-side assert triggered")
    scan, greedy = stack(), Greedy(Toy().example(), 2, error)
    monkeypatch.setattr(Toy, "operator", lambda *_, **__: greedy)
    with pytest.raises(ReconstructionError, match="device-side assert"):
        solved(toy_host, {"solver": {"name": "gradient", "step_size": 0.1, "batch": batch}}, scan)
    assert not greedy.seen


def test_memory_decides_where_the_recipe_does_not(toy_host: Host, monkeypatch) -> None:
    each = chunks.COPIES * 2 * 24 * 24 * 4
    recipe = {"solver": {"name": "gradient", "iterations": 2, "memory": 3.5 * each / memory.GIB}}
    task, solution = solved(toy_host, recipe)
    assert task.size == solution.state.size == 3
    del recipe["solver"]["memory"]
    task, solution = solved(toy_host, recipe)
    assert task.size is None
    assert not isinstance(solution.state, Joined)
    monkeypatch.setattr(chunks, "free", lambda _: int(2.5 * each / chunks.SHARE) + 1)
    task, _ = solved(toy_host, recipe)
    assert task.size == 2
    operator = ToyOperator(Toy().example())
    assert elements_that_fit(operator, (7, 2), CPU) == 1
    assert elements_that_fit(operator, (7,), CPU, budget=1e-9) == 1


def test_what_can_not_be_taken_apart(toy_host: Host) -> None:
    assert why_coupled(FISTA(prior=TV(ndim=2)), 2) is None
    assert "TV with ndim = 3 joins" in str(why_coupled(FISTA(prior=TV(ndim=3)), 2))
    assert why_coupled(GaussNewton(), 2) is None
    calibrating = Alternating(GaussNewton(), nuisances=("x",))
    assert "nuisances" in str(why_coupled(calibrating, 2))
    recipe = {"solver": {"name": "fista", "batch": 3}, "prior": {**TV_2D, "ndim": 3}}
    with pytest.raises(ReconstructionError, match=r"TV with ndim = 3 joins .* leave out"):
        solved(toy_host, recipe)
    # Where the number is not asked for, all are solved together, as ever.
    recipe["solver"] = {"name": "fista", "memory": 1e-6, "iterations": 2}
    task, _ = solved(toy_host, recipe)
    assert task.size is None


def test_batch_of_a_single_image_and_impossible_numbers(toy_host: Host) -> None:
    one = stack(1)
    image = one.replace(data=one.data[0], noise=Gaussian(0.1), weights=None)
    with pytest.raises(ReconstructionError, match=r"solver.batch is for stacks"):
        solved(toy_host, {"solver": {"batch": 2}}, image)
    for table in ({"batch": 0}, {"memory": 0.0}, {"batch": 1.5}):
        with pytest.raises(RecipeError, match=next(iter(table))):
            load_recipe({"solver": table}, Toy())


def test_an_operator_of_its_own_for_each_slice_is_refused() -> None:
    matrices = torch.rand(7, 5, 4, generator=torch.Generator().manual_seed(0))
    operator = Matrix(matrices[0])
    operator.matrix = torch.nn.Parameter(matrices, requires_grad=False)
    problem = Problem(operator, torch.ones(7, 5))
    solver = FISTA(step_size=0.1)

    def solve_part(some, x0, seconds):
        return solve(solver, some, x0=x0, iterations=2)

    with torch.no_grad():
        assert solve_stack(solver, problem, solve_part).x.shape == (7, 4)
        with pytest.raises(SolverError, match="not the same for all"):
            solve_stack(solver, problem, solve_part, size=1)


def test_a_part_takes_its_share_of_noise_and_weights() -> None:
    operator = ToyOperator(Toy().example())
    data = torch.rand(SLICES, 24, 24)
    sigma = torch.arange(1.0, SLICES + 1).reshape(-1, 1, 1)
    some = part(Problem(operator, data, Gaussian(sigma), torch.ones(24)), slice(2, 4))
    assert torch.equal(some.data, data[2:4])
    assert torch.equal(some.noise.sigma, sigma[2:4])
    assert some.weights.shape == (24,), "shared weights stay"
    level = PoissonGaussian(sigma)
    nested = part(Problem(operator, data, Scaled(level, 2.0)), slice(2, 4)).noise
    assert [b.shape[0] for b in nested.buffers() if b.ndim == 3] == [2]
    assert level.sigma.shape[0] == SLICES, "that of the whole is left alone"


def test_a_finished_solve_in_parts_can_be_saved(toy_host: Host, tmp_path) -> None:
    recipe = {"solver": {"name": "fista", "iterations": 10, "batch": 3}}
    task, solution = solved(toy_host, recipe)
    Checkpoint.save(tmp_path / "out", solution, instrument="toy", inputs=[], recipe={})
    read = Checkpoint.load(tmp_path / "out").solution(task.solver, CPU)
    assert torch.equal(read.x, solution.x)
    assert read.state.size == 3
    assert read.history == solution.history
    assert stages.run(task, begun=read) is read


def test_ctrl_c_leaves_nothing_to_resume(toy_host: Host, tmp_path, monkeypatch) -> None:
    scan = stack()
    monkeypatch.setenv("TOY_CTRL_C_AT", "80")
    recipe = {"solver": {"name": "fista", "iterations": 20, "batch": 3}}
    with pytest.raises(KeyboardInterrupt, match="in elements 3 to 5 of 7"):
        reconstruct_scan(Toy(), scan, tmp_path / "out", recipe=recipe, host=toy_host)
    assert not list(tmp_path.iterdir())


MEASURED = """
import json, sys
from pathlib import Path
import torch
from labrecon.operator import Operator
from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.chunks import solve_stack
from labrecon.priors.tv import TV
from labrecon.solvers.proximal import FISTA
from labrecon.space import Space

class Blur(Operator):
    def __init__(self):
        super().__init__(Space((128, 128)), Space((128, 128)))
    def forward(self, x):
        return 0.5 * x + 0.25 * (x.roll(1, -1) + x.roll(-1, -1))
    def adjoint(self, y):
        return self.forward(y)

torch.set_num_threads(1)
solver = FISTA(prior=TV(0.01, iterations=1))
problem = Problem(Blur(), torch.rand(640, 128, 128))
size = int(sys.argv[1]) or None
# Not getrusage, which begins with the peak of the parent.
status = Path("/proc/self/status").read_text
peak = lambda: 1024 * int(status().split("VmHWM:")[1].split()[0])
with torch.no_grad():
    problem.operator.norm()
    before = peak()
    solve_stack(solver, problem, lambda p, x0, s: solve(solver, p, iterations=2), size=size)
print(json.dumps((peak() - before) / (problem.data.numel() * 4)))
"""


@pytest.mark.slow
def test_less_memory() -> None:
    """Peak of the process above its data, in sizes of the stack."""

    def measured(size: int) -> float:
        told = subprocess.run(
            [sys.executable, "-c", MEASURED, str(size)], capture_output=True, text=True, check=True
        )
        return json.loads(told.stdout)

    whole, parts = measured(0), measured(4)
    assert whole > 8
    # The result itself is one; another is a copy of it that some machines keep.
    assert parts < 3


def test_free_memory_knows_limits_of_jobs(tmp_path, monkeypatch) -> None:
    plenty = memory.free(CPU)
    assert 0 < plenty < 2**50
    job = tmp_path / "job" / "step"
    job.mkdir(parents=True)
    for folder, limit, used in ((job, "max", 5), (tmp_path / "job", "1000000", 400_000)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 7\ninactive_file 100000\n")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_own_group", lambda: "job/step")
    assert memory.free(CPU) == 700_000
    (tmp_path / "job" / "memory.max").write_text("nonsense")
    assert memory.free(CPU) > 2**20
