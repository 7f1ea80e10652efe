"""External functions as operators: derivatives, batches, dtypes, aliasing, refusals."""

from __future__ import annotations

import copy
import ctypes
import logging
import os
import pickle
import sys
import threading
import types

import numpy as np
import pytest
import torch
from operator_cases import dense
from torch.autograd import gradcheck, gradgradcheck

from labrecon.bridge import (
    SPSA,
    BridgeError,
    Columns,
    External,
    FiniteDifference,
    GradientError,
    external,
)
from labrecon.design import Binary, Box
from labrecon.noise import Gaussian
from labrecon.operator import LinearityError, Operator
from labrecon.operators import Matrix
from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import CG, FISTA
from labrecon.space import Space

RNG = np.random.RandomState(0)
REAL = RNG.randn(5, 4)
COMPLEX = REAL + 1j * RNG.randn(5, 4)
REALS, COMPLEXES = torch.float64, torch.complex128


def spaces(dtype, n=4, m=5):
    return {"domain": Space((n,), dtype), "range": Space((m,), dtype)}


def matrix_of(dtype):
    return (COMPLEX if dtype.is_complex else REAL).astype(torch.empty(0, dtype=dtype).numpy().dtype)


def linear(dtype, **options):
    a = matrix_of(dtype)
    return external(
        lambda x: a @ x, lambda y: a.conj().T @ y, **spaces(dtype), linear=True, name="a", **options
    )


def sines(x, t):
    """A nonlinear model with a parameter: ``sin(R x) · Σ t + x₀ t₀``."""
    return np.sin(REAL @ x) * t.sum() + x[0] * t[0]


def sines_vjp(x, v, t):
    gx = REAL.T @ (np.cos(REAL @ x) * v) * t.sum()
    gx[0] += t[0] * v.sum()
    gt = np.full(3, (np.sin(REAL @ x) * v).sum())
    gt[0] += x[0] * v.sum()
    return {"x": gx, "t": gt}


def sines_jvp(x, u, t):
    return np.cos(REAL @ x) * (REAL @ u) * t.sum() + u[0] * t[0]


def sines_torch(x, t):
    return torch.sin(x @ torch.from_numpy(REAL).mT) * t.sum() + x[..., :1] * t[0]


T = torch.tensor([0.3, -0.2, 0.9], dtype=REALS)


def nonlinear(**options):
    return external(sines, **spaces(REALS), linear=False, designs={"t": (T, Box(-1, 1))}, **options)


def random(*shape, dtype=REALS, seed=0):
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_()


def checked_twice(function, inputs, tolerance=1e-6, eps=1e-6):
    assert gradcheck(function, inputs, atol=tolerance)
    assert gradgradcheck(function, inputs, eps=eps, atol=tolerance)


# -- derivatives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [REALS, COMPLEXES])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_linear_derivatives_to_any_order(dtype, batch):
    a = linear(dtype)
    checked_twice(a, random(*batch, 4, dtype=dtype))
    checked_twice(a.adjoint, random(*batch, 5, dtype=dtype))


@pytest.mark.parametrize("dtype", [REALS, COMPLEXES])
def test_linear_model_is_the_dense_one(dtype):
    a = linear(dtype)
    torch.testing.assert_close(dense(a), torch.from_numpy(matrix_of(dtype)))
    torch.testing.assert_close(dense(a.H), torch.from_numpy(matrix_of(dtype).conj().T))


@pytest.mark.parametrize("jvp", [None, sines_jvp])
def test_nonlinear_derivatives_with_a_parameter(jvp):
    a = nonlinear(vjp=sines_vjp, jvp=jvp)
    inputs = random(2, 4), T.clone().requires_grad_()
    # Second derivatives are differences: the checker's own must be larger.
    checked_twice(lambda x, t: a(x, t=t), inputs, 1e-5, eps=1e-4)


def test_second_derivatives_are_those_of_the_same_model_in_torch():
    a = nonlinear(vjp=sines_vjp)
    x, t = random(4), T.clone().requires_grad_()

    def products(model):
        (gx, gt) = torch.autograd.grad(model(x, t).square().sum(), (x, t), create_graph=True)
        return torch.autograd.grad(gx.square().sum() + gt.prod(), (x, t))

    found = products(lambda x, t: a(x, t=t))
    torch.testing.assert_close(found, products(sines_torch), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("method", ["forward", "adjoint"])
def test_linear_model_with_a_parameter_by_differences(method):
    def forward(x, t):
        return (REAL * np.sin(t)) @ x

    def adjoint(y, t):
        return (REAL * np.sin(t)).T @ y

    t = random(4, seed=3)
    a = external(
        forward,
        adjoint,
        **spaces(REALS),
        linear=True,
        nuisances={"t": (t, None)},
        gradient={"t": FiniteDifference()},
    )
    size = 4 if method == "forward" else 5

    def function(x, t):
        at = a.at(t=t)
        return at(x) if method == "forward" else at.adjoint(x)

    checked_twice(function, (random(2, size), t), 1e-5, eps=1e-4)
    assert a.cost["t"] == "FiniteDifference: 8 forward calls per gradient"


def test_finite_differences_of_the_image():
    a = nonlinear(gradient="finite-difference")
    inputs = random(2, 4), T.clone().requires_grad_()
    assert gradcheck(lambda x, t: a(x, t=t), inputs, atol=1e-5)


def test_complex_image_by_finite_differences():
    a = external(
        lambda x: np.abs(x) ** 2,
        domain=Space((3,), COMPLEXES),
        range=Space((3,), REALS),
        linear=False,
        gradient="finite-difference",
    )
    assert gradcheck(a, random(3, dtype=COMPLEXES), atol=1e-5)


def test_surrogate_gives_the_derivatives_and_not_the_values():
    a = nonlinear(surrogate=lambda x, t: 2 * sines_torch(x, t))
    x, t = random(2, 4), T.clone().requires_grad_()
    y = a(x, t=t)
    torch.testing.assert_close(y, sines_torch(x, t))
    g = torch.autograd.grad(y.sum(), (x, t), create_graph=True)
    expected = torch.autograd.grad(2 * sines_torch(x, t).sum(), (x, t), create_graph=True)
    torch.testing.assert_close(g, expected)
    torch.testing.assert_close(
        torch.autograd.grad(g[0].sum(), t), torch.autograd.grad(expected[0].sum(), t)
    )


def test_surrogate_for_the_parameter_only():
    a = nonlinear(
        vjp=lambda x, v, t: sines_vjp(x, v, t)["x"],
        surrogate=sines_torch,
        gradient={"x": "vjp", "t": "surrogate"},
    )
    inputs = random(2, 4), T.clone().requires_grad_()
    checked_twice(lambda x, t: a(x, t=t), inputs, 1e-5, eps=1e-4)


def test_spsa_is_unbiased_and_refuses_a_second_derivative():
    generator = torch.Generator().manual_seed(1)
    a = nonlinear(
        vjp=lambda x, v, t: sines_vjp(x, v, t)["x"],
        gradient={"x": "vjp", "t": SPSA(probes=4000, generator=generator)},
    )
    x, t = random(4), T.clone().requires_grad_()
    (g,) = torch.autograd.grad(a(x, t=t).sum(), t, create_graph=True)
    (exact,) = torch.autograd.grad(sines_torch(x, t).sum(), t)
    # The spread of one probe is that of the other entries.
    assert float((g.detach() - exact).abs().max()) < 5 * float(exact.norm()) / 4000**0.5
    with pytest.raises(GradientError, match="SPSA of t is a noisy estimate"):
        torch.autograd.grad(g.sum(), t)


def test_a_design_is_learned_through_external_code():
    """Recover the mask that made the data: impossible with a wrong or constant gradient."""
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=REALS)
    a = external(
        lambda x, mask: x * mask,
        lambda y, mask: y * mask,
        domain=Space((4,), REALS),
        range=Space((4,), REALS),
        linear=True,
        designs={"mask": (torch.full((4,), 0.5, dtype=REALS), Binary())},
        gradient={"mask": "finite-difference"},
    )
    [parameter] = a.learn("mask")
    optimiser = torch.optim.Adam([parameter], lr=0.05)
    x = random(16, 4).detach()
    for _ in range(200):
        optimiser.zero_grad()
        (a.normal(x) - x * mask).square().sum().backward()
        optimiser.step()
    torch.testing.assert_close(a.designs["mask"].harden(parameter.detach()), mask)


# -- what is refused -------------------------------------------------------------------------------


def test_no_gradient_is_an_error_that_says_what_to_supply():
    a = external(sines_without_t, **spaces(REALS), linear=False)
    assert a(random(4).detach()).shape == (5,)
    with pytest.raises(GradientError, match=r"gradient of its input.*Supply vjp=.*surrogate"):
        a(random(4))
    b = external(lambda x: REAL @ x, **spaces(REALS), linear=True, name="b")
    with pytest.raises(GradientError, match=r"b: .*adjoint=Columns\(\)"):
        b.adjoint(random(5).detach())


def sines_without_t(x):
    return np.sin(REAL @ x)


def test_a_parameter_without_a_policy_is_never_silently_constant():
    a = nonlinear(vjp=lambda x, v, t: sines_vjp(x, v, t)["x"], gradient={"t": None})
    a(random(4))
    with pytest.raises(GradientError, match="its parameter 't' is needed"):
        a.learn("t")
    with pytest.raises(GradientError, match="its parameter 't' is needed"):
        a(random(4), t=T.clone().requires_grad_())
    forgetful = nonlinear(vjp=lambda x, v, t: sines_vjp(x, v, t)["x"])
    forgetful.learn("t")
    with pytest.raises(GradientError, match="vjp returned none"):
        forgetful(random(4)).sum().backward()


def test_policies_that_can_not_be_followed():
    for options, message in (
        ({"gradient": "vjp"}, "there is no vjp="),
        ({"gradient": "surrogate"}, "there is no surrogate="),
        ({"gradient": "magic"}, "no such gradient"),
        ({"gradient": {"y": "vjp"}}, "speaks of"),
        ({"gradient": {"x": 3.0}}, "what is 3.0"),
    ):
        with pytest.raises(GradientError, match=message):
            external(sines_without_t, **spaces(REALS), linear=False, **options)
    with pytest.raises(LinearityError, match="give vjp"):
        external(np.sin, np.cos, **spaces(REALS), linear=False)
    with pytest.raises(GradientError, match="no gradient of 't'"):
        nonlinear(vjp=sines_vjp, gradient={"t": "adjoint"})
    with pytest.raises(ValueError, match="takes no argument 'angle'"):
        external(
            sines, **spaces(REALS), linear=False, nuisances={"t": (T, None), "angle": (T, None)}
        )
    with pytest.raises(ValueError, match="expected real"):
        external(sines, **spaces(REALS), linear=False, nuisances={"t": (T.long(), None)})


def test_expensive_differences_are_refused_before_they_start():
    a = external(
        np.sin,
        domain=Space((2000,)),
        range=Space((2000,)),
        linear=False,
        gradient="finite-difference",
    )
    with pytest.raises(GradientError, match=r"4000 forward calls per gradient, above.*2000"):
        a(torch.zeros(2000, requires_grad=True))


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: (REAL @ x)[:4], r"shape \(4,\), expected \(5,\)"),
        (lambda x: (REAL @ x).astype(np.float32), "float32, expected torch.float64.*compute="),
        (lambda x: list(REAL @ x), "expected a NumPy array, got builtins.list"),
        (lambda x: None, "expected a NumPy array, got builtins.NoneType"),
        (lambda x: 1 / 0, "forward raised ZeroDivisionError"),
        (lambda x: np.multiply(x, 2, out=x), "read-only.*writable=True"),
        (lambda x: np.array(["a"] * 5), "no dtype for NumPy's <U1"),
    ],
)
def test_what_external_code_returns_is_checked(forward, message):
    a = external(forward, **spaces(REALS), linear=False, name="bad")
    with pytest.raises(BridgeError, match=f"bad: .*{message}"):
        a(random(4).detach())


# -- arrays ----------------------------------------------------------------------------------------


def test_columns_are_the_adjoint_and_their_cost_is_told(caplog):
    a = external(lambda x: COMPLEX @ x, Columns(), **spaces(COMPLEXES), linear=True)
    assert "8 forward calls once" in a.cost["x"]
    with caplog.at_level(logging.INFO, "labrecon.bridge"):
        torch.testing.assert_close(dense(a.H), torch.from_numpy(COMPLEX.conj().T))
    assert "adjoint by columns: 8 forward calls" in caplog.text
    checked_twice(a, random(4, dtype=COMPLEXES))
    large = external(lambda x: x, Columns(at_most=3), **spaces(REALS, 4, 4), linear=True)
    with pytest.raises(GradientError, match="above the limit of 3 calls"):
        large.adjoint(random(4).detach())


def test_columns_follow_a_changed_parameter():
    a = external(
        lambda x, t: t * x,
        Columns(),
        **spaces(REALS, 3, 3),
        linear=True,
        nuisances={"t": (T, None)},
        gradient={"t": "finite-difference"},
    )
    y = torch.ones(3, dtype=REALS)
    torch.testing.assert_close(a.adjoint(y), T)
    torch.testing.assert_close(a.at(t=2 * T).adjoint(y), 2 * T)


@pytest.mark.parametrize("batched", [False, True])
def test_batches_are_looped_or_handed_over(batched):
    shapes = []

    def forward(x):
        shapes.append(x.shape)
        return x @ REAL.T

    a = external(forward, lambda y: y @ REAL, **spaces(REALS), linear=True, batched=batched)
    x = random(2, 3, 4).detach()
    torch.testing.assert_close(a(x), x @ torch.from_numpy(REAL).mT)
    assert shapes == ([(6, 4)] if batched else [(4,)] * 6)
    assert a(x[:0]).shape == (0, 3, 5)


def test_forgotten_batch_axis_is_explained():
    a = external(lambda x: REAL @ x[0], **spaces(REALS), linear=False, batched=True)
    with pytest.raises(BridgeError, match="leading batch axis"):
        a(random(4).detach())


@pytest.mark.parametrize("accepts", ["numpy", "torch", "dlpack"])
def test_nothing_is_copied_and_nothing_is_shared(accepts):
    """Inputs share memory; a buffer that the library fills again does not change old results."""
    seen = []
    retained = {
        "numpy": lambda x: np.empty(4),
        "torch": lambda x: torch.empty(4, dtype=REALS),
        "dlpack": lambda x: torch.empty(4, dtype=REALS),
    }[accepts](None)

    def forward(x):
        seen.append(x.ctypes.data if accepts == "numpy" else x.data_ptr())
        retained[:] = x
        return retained

    options = {**spaces(REALS, 4, 4), "linear": True, "accepts": accepts}
    a = external(forward, **options)
    x1, x2 = random(4, seed=1).detach(), random(4, seed=2).detach()
    y1 = a(x1)
    y2 = a(x2)
    assert seen == [x1.data_ptr(), x2.data_ptr()]
    torch.testing.assert_close((y1, y2), (x1, x2), rtol=0, atol=0)
    identity = external(lambda x: x, **options)
    y = identity(x1)
    y.zero_()
    assert x1.any()


def test_a_fresh_result_is_not_copied():
    made = []

    def forward(x):
        y = 2 * x
        made.append(y.ctypes.data)
        return y

    def view(x):
        y = np.stack([x, x])
        made.append(y.ctypes.data)
        return y.reshape(-1)

    a = external(forward, **spaces(REALS, 4, 4), linear=True)
    b = external(view, **spaces(REALS, 4, 8), linear=True)
    assert [a(random(4).detach()).data_ptr(), b(random(4).detach()).data_ptr()] == made


def test_memory_of_c_is_copied():
    buffer = (ctypes.c_double * 4)()

    def forward(x):
        array = np.ctypeslib.as_array(buffer)
        array[:] = x
        return array

    a = external(forward, **spaces(REALS, 4, 4), linear=True)
    first, second = random(4, seed=1).detach(), random(4, seed=2).detach()
    y = a(first)
    a(second)
    assert torch.equal(y, first)


def test_strided_conjugated_and_reversed_arrays():
    a = external(lambda x: x[::-1], **spaces(COMPLEXES, 4, 4), linear=True)
    x = random(4, 4, dtype=COMPLEXES).detach()
    torch.testing.assert_close(a(x.mT.conj()), x.mT.conj().flip(-1))


def test_writable_gives_a_copy():
    a = external(
        lambda x: np.multiply(x, 2, out=x), **spaces(REALS, 4, 4), linear=True, writable=True
    )
    x = random(4).detach()
    before = x.clone()
    torch.testing.assert_close(a(x), 2 * before)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("space", "compute"), [("float32", "float64"), ("float64", "float32")])
def test_compute_converts_there_and_back(space, compute):
    seen = []

    def forward(x):
        seen.append(str(x.dtype))
        return x * 2

    space = getattr(torch, space)
    a = external(
        forward,
        forward,
        **spaces(space, 4, 4),
        linear=True,
        compute=getattr(torch, compute),
    )
    y = a(torch.ones(4, dtype=space))
    assert (y.dtype, seen) == (space, [compute])


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_single_precision(dtype):
    a = linear(dtype)
    x, y = random(4, dtype=dtype).detach(), random(5, dtype=dtype).detach()
    left, right = torch.vdot(a(x), y), torch.vdot(x, a.adjoint(y))
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_torch_functions_without_a_graph():
    a = external(
        lambda x: x.numpy() and x if x.requires_grad else 2 * x,
        lambda y: 2 * y,
        **spaces(REALS, 4, 4),
        linear=True,
        accepts="torch",
    )
    checked_twice(a, random(4))


def test_cupy_gets_its_arrays_on_torchs_stream(monkeypatch):
    """The calls to CuPy, with a stand-in that lives on the CPU; the real one is marked cuda."""
    fake = types.ModuleType("cupy")
    fake.from_dlpack = np.from_dlpack
    monkeypatch.setitem(sys.modules, "cupy", fake)
    a = external(
        lambda x: 2 * np.asarray(x),
        **spaces(REALS, 4, 4),
        linear=True,
        accepts="cupy",
        device="cpu",
    )
    x = random(4).detach()
    torch.testing.assert_close(a(x), 2 * x)


@pytest.mark.cuda
def test_real_cupy():
    cupy = pytest.importorskip("cupy")
    matrix = cupy.asarray(REAL)
    a = external(
        lambda x: matrix @ x, lambda y: matrix.T @ y, **spaces(REALS), linear=True, accepts="cupy"
    )
    for device in ("cpu", "cuda"):
        x = random(2, 4).detach().to(device)
        expected = x.cpu() @ torch.from_numpy(REAL).mT
        torch.testing.assert_close(a(x).cpu(), expected)
        assert a(x).device == x.device


@pytest.mark.cuda
def test_numpy_models_take_cuda_data_through_the_host():
    a = linear(REALS)
    x = random(2, 4).detach()
    torch.testing.assert_close(a(x.cuda()).cpu(), a(x))
    assert a(x.cuda()).is_cuda


def test_cupy_that_is_not_there_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    a = external(np.abs, **spaces(REALS), linear=False, accepts="cupy", device="cpu")
    with pytest.raises(ImportError, match="pip install cupy"):
        a(random(4).detach())


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="accepts is one of"):
        external(np.abs, **spaces(REALS), linear=False, accepts="jax")
    with pytest.raises(ValueError, match="live on the CPU"):
        external(np.abs, **spaces(REALS), linear=False, device="cuda")


# -- processes, threads, sessions ------------------------------------------------------------------


class Session:
    """A vendor's handle, which can not be pickled."""

    made = 0

    def __init__(self, device):
        type(self).made += 1
        self.lock = threading.Lock()
        self.device = device

    def double(self, x):
        return 2 * x


def doubled(session, x):
    return session.double(x)


def test_sessions_are_made_where_they_are_used():
    Session.made = 0
    a = external(doubled, doubled, **spaces(REALS, 4, 4), linear=True, setup=Session)
    x = random(4).detach()
    for model in (a, pickle.loads(pickle.dumps(a)), copy.deepcopy(a)):
        for _ in range(2):
            torch.testing.assert_close(model(x), 2 * x)
    assert Session.made == 3


def test_calls_wait_for_each_other_unless_declared_threadsafe():
    inside, most = 0, 0

    def forward(x):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        gate.wait(0.05)
        inside -= 1
        return x + 0

    for threadsafe in (False, True):
        gate, most = threading.Event(), 0
        a = external(forward, **spaces(REALS, 4, 4), linear=True, threadsafe=threadsafe)
        x = random(4).detach()
        threads = [threading.Thread(target=a, args=(x,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (most > 1) == threadsafe == a.threadsafe


def test_interruption_and_memory_errors_are_not_wrapped():
    def raises(error):
        def forward(x):
            raise error

        return external(forward, **spaces(REALS), linear=False)

    for error in (MemoryError("no memory"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            raises(error)(random(4).detach())


# -- in the house ----------------------------------------------------------------------------------


def test_solvers_find_the_dense_answer():
    a = linear(REALS)
    y = random(5, seed=4).detach()
    expected = torch.from_numpy(np.linalg.lstsq(REAL, y.numpy(), rcond=None)[0])
    problem = Problem(a, y, Gaussian())
    for solver, iterations in ((CG(), 20), (FISTA(), 3000)):
        found = solve(solver, problem, iterations=iterations)
        torch.testing.assert_close(found.x, expected, rtol=1e-4, atol=1e-4)


def test_it_composes_with_operators_of_torch():
    a, b = linear(REALS), Matrix(random(4, 3, seed=2).detach())
    composed = 2.0 * (a @ b)
    expected = 2.0 * torch.from_numpy(REAL) @ b.matrix
    torch.testing.assert_close(dense(composed), expected)
    torch.testing.assert_close(Operator.adjoint(composed, torch.eye(5, dtype=REALS)), expected)


def test_parameters_are_designs_and_travel_in_the_state():
    a, b = nonlinear(vjp=sines_vjp), nonlinear(vjp=sines_vjp)
    assert isinstance(a, External)
    assert list(a.designs) == ["t"]
    a.t.data += 1
    b.load_state_dict(a.state_dict())
    x = random(4).detach()
    assert torch.equal(a(x), b(x))
    assert "t: one call of vjp" in repr(a)


# -- what a review found ---------------------------------------------------------------------------


def test_torch_results_never_share_a_buffer_or_the_input():
    buffer = np.zeros(4)

    def detached(x):
        return x.detach()

    def filled(x):
        buffer[:] = x.numpy()
        return torch.from_numpy(buffer)

    for forward in (detached, filled):
        a = external(forward, **spaces(REALS, 4, 4), linear=True, accepts="torch")
        x = random(4).detach()
        before, y = x.clone(), a(x)
        a(2 * x)
        assert torch.equal(y, before)
        y += 1
        assert torch.equal(x, before)


def test_torch_functions_that_change_their_input_are_caught():
    a = external(
        lambda x, t: x.mul_(2) * t, **spaces(REALS, 3, 3), linear=False, accepts="torch",
        nuisances={"t": (T, None)},
    )  # fmt: skip
    with pytest.raises(BridgeError, match="changed its input in place"):
        a(random(3).detach())


def test_writable_parameters_are_fresh_for_each_element():
    def forward(x, t):
        t *= 2
        return x * t

    a = external(
        forward, **spaces(REALS, 3, 3), linear=True, writable=True, nuisances={"t": (T, None)}
    )
    x = torch.ones(3, 3, dtype=REALS)
    torch.testing.assert_close(a(x), 2 * T.expand(3, 3))


def test_masked_arrays_are_refused():
    a = external(lambda x: np.ma.masked_less(x, 0.5), **spaces(REALS, 4, 4), linear=False)
    with pytest.raises(BridgeError, match=r"plain NumPy array, got numpy\.ma"):
        a(random(4).detach())


def test_differences_have_a_step_for_each_element_of_a_batch():
    x = torch.tensor([[1e-4], [1e2]], dtype=REALS)
    options = {**spaces(REALS, 1, 1), "linear": False}
    cube = external(lambda x: x**3, vjp=lambda x, v: 3 * x**2 * v, **options)
    torch.testing.assert_close(cube.jvp(x, torch.ones_like(x)), 3 * x**2, rtol=1e-6, atol=0)
    by_differences = external(lambda x: x**3, gradient="finite-difference", **options)
    torch.testing.assert_close(
        by_differences.vjp(x, torch.ones_like(x)), 3 * x**2, rtol=1e-6, atol=0
    )


def test_steps_are_those_that_are_stated():
    omega = 1e9
    options = {**spaces(REALS, 1, 1), "linear": False}
    a = external(
        lambda x: np.sin(omega * x),
        vjp=lambda x, v: omega * np.cos(omega * x) * v,
        steps={"x": 1e-14},
        **options,
    )
    one = torch.ones(1, dtype=REALS)
    torch.testing.assert_close(a.jvp(0 * one, one), omega * one, rtol=1e-6, atol=0)
    b = external(
        lambda x, p: x * np.sin(omega * p),
        lambda y, p: y * np.sin(omega * p),
        **{**options, "linear": True},
        nuisances={"p": (0 * one, None)},
        gradient={"p": FiniteDifference(step=1e-14)},
    )
    x, p = one.clone().requires_grad_(), (0 * one).requires_grad_()
    (gp,) = torch.autograd.grad(b(x, p=p).sum(), p, create_graph=True)
    torch.testing.assert_close(gp.detach(), omega * one, rtol=1e-6, atol=0)
    (mixed,) = torch.autograd.grad(gp.sum(), x)
    torch.testing.assert_close(mixed, omega * one, rtol=1e-6, atol=0)


def test_a_step_that_rounding_swallows_is_refused():
    p = torch.tensor([100.0, 200.0])
    a = external(
        lambda x, p: x * p,
        lambda y, p: y * p,
        domain=Space((2,)),
        range=Space((2,)),
        linear=True,
        nuisances={"p": (p, None)},
        gradient={"p": FiniteDifference(step=1e-6)},
    )
    with pytest.raises(GradientError, match="lost in the rounding of a value of 200"):
        a(torch.ones(2), p=p.clone().requires_grad_()).sum().backward()


def test_the_step_fits_the_precision_that_is_computed_in():
    options = {**spaces(REALS, 1, 1), "linear": False, "compute": torch.float32}
    a = external(np.sin, gradient="finite-difference", **options)
    x = torch.tensor([1.0], dtype=REALS)
    # With the step of float64, 6e-6, rounding of float32 would leave 1 %.
    torch.testing.assert_close(a.vjp(x, torch.ones_like(x)), torch.cos(x), rtol=2e-4, atol=0)


def test_small_changes_of_large_data_are_not_lost_in_their_sum():
    n = 2**18
    a = external(
        lambda x, p: (1000 + x * p).astype(np.float32),
        domain=Space((n,)),
        range=Space((n,)),
        linear=False,
        nuisances={"p": (torch.ones(1), None)},
        gradient={"p": FiniteDifference(step=0.5)},
    )
    x = torch.rand(n, generator=torch.Generator().manual_seed(0))
    p = torch.ones(1, requires_grad=True)
    a(x, p=p).sum().backward()
    torch.testing.assert_close(p.grad, x.sum()[None], rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtypes", [(COMPLEXES, REALS), (REALS, COMPLEXES), (COMPLEXES, COMPLEXES)])
def test_columns_of_maps_that_are_linear_over_the_reals(dtypes):
    forward = {
        (COMPLEXES, REALS): lambda x: x.real + 2 * x.imag,
        (REALS, COMPLEXES): lambda x: (1 + 2j) * x,
        (COMPLEXES, COMPLEXES): np.conj,
    }[dtypes]
    a = external(
        forward, Columns(), domain=Space((3,), dtypes[0]), range=Space((3,), dtypes[1]), linear=True
    )
    assert gradcheck(a, random(3, dtype=dtypes[0]))
    x, y = random(3, dtype=dtypes[0]).detach(), random(3, dtype=dtypes[1], seed=1).detach()
    left = (a(x).conj() * y).sum().real
    right = (x.conj() * a.adjoint(y)).sum().real
    torch.testing.assert_close(left, right)


def test_the_policy_decides_even_where_there_is_an_adjoint():
    a = external(
        lambda x: 2 * x, lambda y: 2 * y, lambda x, v: 3 * v,
        **spaces(REALS, 4, 4), linear=True, gradient="vjp",
    )  # fmt: skip
    y = random(4).detach()
    torch.testing.assert_close(a.adjoint(y), 3 * y)


def test_reserved_names_are_refused():
    for name in ("x", "v", "input", "gradient_t"):
        with pytest.raises(ValueError, match="have a meaning of their own"):
            external(np.abs, **spaces(REALS), linear=False, nuisances={name: (T, None)})


def test_the_lock_is_that_of_the_function():
    inside, most = 0, 0

    def forward(x):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.02)
        inside -= 1
        return x + 0

    options = {**spaces(REALS, 4, 4), "linear": True}
    a = external(forward, **options)
    models = [a, copy.deepcopy(a), external(forward, **options)]
    x = random(4).detach()
    threads = [threading.Thread(target=model, args=(x,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_sessions_are_opened_once_for_all_threads():
    Session.made = 0
    a = external(
        doubled, doubled, **spaces(REALS, 4, 4), linear=True, setup=Session, threadsafe=True
    )
    x = random(4).detach()
    threads = [threading.Thread(target=a, args=(x,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Session.made == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_lock_of_the_parent():
    entered, leave = threading.Event(), threading.Event()

    def forward(x):
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            leave.wait(20)
        return x + 0

    a = external(forward, **spaces(REALS, 4, 4), linear=True)
    x = random(4).detach()
    worker = threading.Thread(target=a, args=(x,), daemon=True)
    worker.start()
    entered.wait(20)
    child = os.fork()
    if child == 0:
        a(x)
        os._exit(0)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        leave.wait(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        status = -1
    leave.set()
    assert status == 0


def test_an_empty_batch_has_zero_gradients():
    a = nonlinear(vjp=sines_vjp)
    x, t = torch.zeros(0, 4, dtype=REALS), T.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(a(x, t=t).sum(), t)
    assert torch.equal(gradient, torch.zeros(3, dtype=REALS))
