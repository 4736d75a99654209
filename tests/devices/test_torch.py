"""What only PyTorch has: its settings, its failures, solvers that may be wrong, and products in place of solvers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_svcca.devices import open_device
from dask_svcca.errors import DaskSvccaError, DeviceFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed")

from dask_svcca.devices.torch import TorchDevice, eigen, polar, work  # noqa: E402 - PyTorch may be missing
from dask_svcca.devices.torch.couplings import CORRELATION_STEPS, CORRELATION_TOLERANCE  # noqa: E402


def tf32(x: np.ndarray) -> np.ndarray:
    """What a product of TF32 sees of numbers in single precision: ten bits behind the point, rounded."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x0FFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)).view(
        np.float32
    )


def telling() -> tuple[np.ndarray, np.ndarray, float]:
    """Scores of two layers whose one correlation TF32 gets wrong, and what it is."""
    # Examples with the same share: their rounding does not cancel out.
    scores = np.full((64, 524), 524**-0.5, np.float32)
    return scores, scores, float(np.square(scores[0].astype(np.float64)).sum())


def test_telling__is_what_tf32_gets_wrong() -> None:
    a, b, expected = telling()
    assert abs(float(tf32(a[0]) @ tf32(b[0])) - expected) > 5e-4
    assert abs(float(a[0] @ b[0]) - expected) < 3e-7


@pytest.mark.parametrize("name", ["torch:cpu", "cuda"])
@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
def test_products__are_in_true_single_precision(name: str, allowed: str) -> None:
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    a, b, expected = telling()
    device = open_device(name)
    torch.set_float32_matmul_precision(allowed)
    try:
        total = device.products(2**14)
        total.add(device.sent(a), device.sent(b))
        np.testing.assert_allclose(total.value, expected, rtol=0, atol=2e-6)
        assert torch.get_float32_matmul_precision() == allowed
    finally:
        torch.set_float32_matmul_precision("highest")


def settings() -> list[Any]:
    """All that PyTorch says of the precision of products; the name of the error where it refuses to."""
    backends = torch.backends

    def asked(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except RuntimeError as error:
            return type(error).__name__

    older = asked(torch.get_float32_matmul_precision), asked(lambda: backends.cuda.matmul.allow_tf32)
    if not hasattr(backends, "fp32_precision"):
        return list(older)
    return [*older, backends.fp32_precision, *(place.fp32_precision for place in places())]


def places() -> tuple[Any, Any]:
    return torch.backends.cuda.matmul, torch.backends.mkldnn.matmul


@pytest.fixture
def as_found() -> Iterator[None]:
    """Settings of PyTorch, put back behind a test that changes them."""
    yield
    torch.set_float32_matmul_precision("highest")
    if hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = "none"
        for place in places():
            place.fp32_precision = "none"


def older_api(value: str) -> None:
    torch.set_float32_matmul_precision(value)


def oldest_api(value: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = value == "high"


def newer_api(value: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = value


def newer_api_of_the_processor(value: str) -> None:
    torch.backends.mkldnn.matmul.fp32_precision = value


def newest_api_for_all(value: str) -> None:
    torch.backends.fp32_precision = value


USERS = (
    [],
    [(older_api, "high")],
    [(older_api, "medium")],
    [(older_api, "high"), (older_api, "highest")],
    [(oldest_api, "high")],
    [(newer_api, "tf32")],
    [(newer_api_of_the_processor, "tf32")],
    [(newer_api_of_the_processor, "bf16")],
    [(newest_api_for_all, "tf32")],
    [(newest_api_for_all, "tf32"), (newer_api, "ieee")],
    # Where both were used, PyTorch raises when it is asked by the older.
    [(older_api, "high"), (newer_api, "ieee")],
    [(older_api, "medium"), (newer_api_of_the_processor, "ieee")],
    [(older_api, "highest"), (newer_api, "tf32")],
    [(older_api, "high"), (newest_api_for_all, "ieee"), (newer_api, "none")],
)
"""What a user may have set before, one after another."""


@pytest.mark.parametrize("user", USERS)
def test_true_single__is_what_every_setting_says_and_leaves_them_as_they_were(
    user: list[tuple[Callable[[str], None], str]], as_found: None
) -> None:
    newer = hasattr(torch.backends, "fp32_precision")
    if not newer and any(setter not in {older_api, oldest_api} for setter, _ in user):
        pytest.skip("PyTorch has one setting for all")
    for setter, value in user:
        setter(value)
    before = settings()
    with work.true_single():
        inside = settings()
        # Both ways of asking, neither of which raises: PyTorch asks by either.
        assert inside[:2] == ["highest", False]
        assert not work.REDUCED & set(inside[3:])
        with work.true_single():
            pass
        assert settings() == inside
    assert settings() == before
    if newer and user == [(newest_api_for_all, "tf32")]:
        # What was inherited still is.
        torch.backends.fp32_precision = "none"
        assert settings()[3] == "none"


def test_true_single__of_several_threads_ends_with_the_last(as_found: None) -> None:
    torch.set_float32_matmul_precision("high")
    before = settings()
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        with work.true_single():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    with work.true_single():
        thread.start()
        assert inside.wait(10)
    assert torch.get_float32_matmul_precision() == "highest"
    done.set()
    thread.join()
    assert settings() == before


def test_products__are_in_true_single_precision_inside_of_autocast() -> None:
    a, b, expected = telling()
    device = open_device("torch:cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = device.products(2**14)
        total.add(device.sent(a), device.sent(b))
        assert torch.is_autocast_enabled("cpu")
    np.testing.assert_allclose(total.value, expected, rtol=0, atol=2e-6)


def test_failures__say_the_operation_the_device_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    device = open_device("torch:cpu")

    def fail(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore about it")

    monkeypatch.setattr(torch, "matmul", fail)
    total = device.products(8)
    said = "^the device 'torch:cpu' failed at a product of scores: CUDA out of memory. Tried to allocate 2.00 GiB$"
    with pytest.raises(DeviceFailedError, match=said) as failed:
        total.add(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
    assert isinstance(failed.value, DaskSvccaError)


def test_failures__of_other_kinds_are_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), work.at_work(torch.device("cpu"), "torch:cpu", "nothing"):
        _ = 1 / 0
    here = torch.device("cpu")
    outer, inner = (work.at_work(here, "x", name) for name in ("the outer one", "the inner one"))
    with pytest.raises(DeviceFailedError, match="failed at the inner one"), outer, inner:
        raise RuntimeError("broken")


def hermitian(dtype: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4, 40, 50), dtype=dtype, generator=generator)
    return x @ x.mH


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("damage", ["sum", "norm", "nan", "raises"])
def test_eigenvalues__that_are_silently_wrong_are_solved_again(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, damage: str
) -> None:
    matrices = hermitian(dtype)
    exact, right = np.linalg.eigvalsh(matrices.numpy()), torch.linalg.eigvalsh

    def wrong(given: Any) -> Any:
        values = right(given)
        if damage == "raises":
            raise torch.linalg.LinAlgError("did not converge")
        if damage == "norm":
            # The sum is right.
            values[2, 0] -= 1.0
        values[2, 1] += {"sum": 1e-3, "norm": 1.0, "nan": torch.nan}[damage]
        return values

    monkeypatch.setattr(torch.linalg, "eigvalsh", wrong)
    np.testing.assert_allclose(eigen.eigenvalues(matrices).numpy(), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("damage", ["values", "vectors", "twice", "raises"])
def test_eigenvectors__that_are_silently_wrong_are_solved_again(monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    matrices = hermitian(torch.complex128)
    matrices[0] = torch.eye(matrices.shape[-1])
    right = torch.linalg.eigh

    def wrong(given: Any) -> Any:
        values, vectors = right(given)
        if damage == "raises":
            raise torch.linalg.LinAlgError("did not converge")
        if damage == "twice":
            # Each of a pair of equal values is one, and both are the same.
            vectors[0, :, 1] = vectors[0, :, 0]
        else:
            (values if damage == "values" else vectors)[1, 3] *= 1.001
        return values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", wrong)
    values, vectors = eigen.eigenvectors(matrices)
    left = matrices @ vectors - vectors * values[:, None, :]
    assert float(left.abs().max()) < 1e-10
    unit = torch.eye(matrices.shape[-1], dtype=matrices.dtype)
    assert float((vectors.mH @ vectors - unit).abs().max()) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize(
    "singular",
    [
        np.ones(64),
        np.arange(1, 65) ** -0.7,
        10.0 ** np.linspace(0, -8, 64),
        np.r_[np.ones(32), np.full(32, 1e-5)],
        np.full(64, 4e-7),
        np.zeros(64),
    ],
    ids=["identical", "power", "dense in logarithms", "half hardly there", "tiny", "zero"],
)
def test_nuclear_norms__that_say_they_have_settled_have(dtype: Any, singular: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    imaginary = 1j * rng.normal(size=(2, 64, 64)) if dtype.is_complex else 0
    left, right = np.linalg.qr(rng.normal(size=(2, 64, 64)) + imaginary)[0]
    matrices = torch.from_numpy((left * singular) @ right.conj().T).to(dtype)[None]
    for steps in ((3,), (8,), (8, 12), CORRELATION_STEPS):
        sums, settled = polar.nuclear_norms(matrices, 1.0, steps, 64 * CORRELATION_TOLERANCE)
        error = abs(float(sums[0]) - singular.sum()) / 64
        assert not bool(settled[0]) or error < CORRELATION_TOLERANCE
        if steps == CORRELATION_STEPS:
            assert bool(settled[0])
    # Three steps are not enough for any of them but the last.
    assert bool(polar.nuclear_norms(matrices, 1.0, (3,), 64 * CORRELATION_TOLERANCE)[1][0]) == (not singular.any())


@pytest.mark.parametrize("directions", [200, *(pytest.param(n, marks=pytest.mark.slow) for n in (500, 1000, 1500))])
@pytest.mark.parametrize("spectrum", ["identical", "even", "half zero", "noise"])
def test_correlation_sums__of_many_directions_need_no_solver(
    directions: int, spectrum: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(7)
    if spectrum == "noise":
        matrix = rng.normal(size=(directions, directions)) / np.sqrt(10 * directions)
        singular = np.linalg.svd(matrix.astype(np.float32).astype(float), compute_uv=False)
    else:
        ones, zeros = np.ones(directions // 2), np.zeros(directions - directions // 2)
        even = np.linspace(1, 0, directions)
        singular = {"identical": np.ones(directions), "even": even, "half zero": np.r_[ones, zeros]}[spectrum]
        left, right = np.linalg.qr(rng.normal(size=(2, directions, directions)))[0]
        matrix = (left * singular) @ right
    device = open_device("torch:cpu")
    # Scores in single precision: rounding alone may keep a sum from settling in it.
    couplings = device.couplings([(device.sent(matrix[None, None].astype("f4")), np.zeros(1, int), np.zeros(1, int))])
    # A GPU solves large matrices one after another, which takes a hundred times as long as products.
    solver = torch.linalg.eigvalsh
    solved: list[Any] = []
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda given: (solved.append(given), solver(given))[1])
    found = couplings.correlation_sums(single=True, many=False)
    assert found is not None
    assert abs(found[0] - singular.sum()) / directions < CORRELATION_TOLERANCE
    assert not solved


@pytest.mark.parametrize("directions", [200, pytest.param(500, marks=pytest.mark.slow)])
def test_singular_sums__of_many_directions_need_no_solver(directions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    left, right = np.linalg.qr(rng.normal(size=(2, directions, directions)))[0]
    weights = np.logspace(0, -6, directions)
    noise, dense = rng.normal(size=(directions, directions)) / 100, (left * np.logspace(0, -12, directions)) @ right
    device = open_device("torch:cpu")
    solver, solved = np.linalg.svd, []
    monkeypatch.setattr(np.linalg, "svd", lambda *given, **options: (solved.append(1), solver(*given, **options))[1])
    for matrix, own in ((noise, weights), (dense, np.ones(directions))):
        couplings = device.couplings([(device.sent(matrix[None, None]), np.zeros(1, int), np.zeros(1, int))])
        found = couplings.singular_sums(own[None], own[None])
        expected = solver(own[:, None] * matrix * own, compute_uv=False).sum()
        np.testing.assert_allclose(found, expected, rtol=1e-7)
    assert not solved


def test_sums__that_have_not_settled_are_solved_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    stack = np.linalg.qr(rng.normal(size=(3, 80, 50)))[0].swapaxes(1, 2)[:, :, :60] * 0.9
    device = open_device("torch:cpu")
    cells = device.sent(stack[np.newaxis])
    couplings = device.couplings([(cells, np.zeros(3, int), np.arange(3))])
    exact = np.linalg.svd(stack, compute_uv=False).sum(axis=1)
    monkeypatch.setattr("dask_svcca.devices.torch.couplings.SINGLE_STEPS", (1,))
    monkeypatch.setattr("dask_svcca.devices.torch.couplings.CORRELATION_STEPS", (1,))
    monkeypatch.setattr("dask_svcca.devices.torch.couplings.NUCLEAR_STEPS", (1,))
    monkeypatch.setattr("dask_svcca.devices.torch.couplings.VECTOR_STEPS", (1,))
    found = couplings.correlation_sums(single=True, many=False)
    assert found is not None
    np.testing.assert_allclose(found, exact, rtol=1e-7)
    np.testing.assert_allclose(couplings.singular_sums(np.ones((3, 50)), np.ones((3, 60))), exact, rtol=1e-12)
    left, values, adjoint = couplings.decomposition
    np.testing.assert_allclose((left * values[:, None]) @ adjoint, stack, rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [1, 3, 4, 8])
def test_eigenvectors__of_many_matrices_are_found_some_at_a_time(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks: list[int] = []
    for name in ("eigh", "eigvalsh"):
        solve = getattr(torch.linalg, name)

        def counted(matrices: Any, solve: Any = solve) -> Any:
            stacks.append(len(matrices))
            return solve(matrices)

        monkeypatch.setattr(torch.linalg, name, counted)
    monkeypatch.setattr(eigen, "MOST_AT_ONCE", 3)
    half = np.random.default_rng(0).normal(size=(number, 5, 5))
    matrices = half + half.swapaxes(1, 2)
    expected = np.linalg.eigvalsh(matrices)
    values, vectors = (found.numpy() for found in eigen.eigenvectors(torch.from_numpy(matrices)))
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(matrices @ vectors, vectors * values[:, None], rtol=0, atol=1e-13)
    np.testing.assert_allclose(eigen.eigenvalues(torch.from_numpy(matrices)).numpy(), expected, rtol=0, atol=1e-13)
    assert max(stacks) <= 3
    assert sum(stacks) == 2 * number


def test_device__without_a_number_is_the_first() -> None:
    # Each thread may have chosen another as its own.
    assert [str(TorchDevice(name)._device) for name in ("cuda", "cuda:1", "torch:cpu")] == ["cuda:0", "cuda:1", "cpu"]


def test_device__of_the_processor_has_no_memory_of_its_own() -> None:
    device = open_device("torch:cpu")
    assert device.memory() is None
    device.synchronise()
    assert open_device("torch:cpu") is device
    device.mark()()
    buffer = device.buffer((3, 4), np.dtype(np.complex64))
    assert buffer.shape == (3, 4)
    assert buffer.dtype == np.complex64
