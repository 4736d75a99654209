"""Names of devices, and what is said of those that are not there."""

from __future__ import annotations

import sys

import pytest
from fake_torch import fake_torch

from dask_svcca.devices.names import count_gpus, find_device, is_gpu, parse_device
from dask_svcca.errors import DeviceError


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cpu", "cpu"),
        ("cuda", "cuda"),
        ("cuda:0", "cuda:0"),
        ("cuda:007", "cuda:7"),
        ("auto", "auto"),
        ("torch:cpu",) * 2,
    ],
)
def test_parse_device__has_one_form_of_each_name(given: str, name: str) -> None:
    assert parse_device(given) == name
    assert parse_device(name) == name


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("gpu", "'cuda'"),
        ("CUDA:1", "'cuda:1'"),
        ("torch:cuda:2", "'cuda:2'"),
        ("rocm", "'cuda'"),
        ("GPU", "'cuda'"),
        ("CUDA", "'cuda'"),
        ("cude", "'cuda'"),
        ("torch:cuda", "'cuda'"),
        ("torch", "'torch:cpu'"),
        ("numpy", "'cpu'"),
        ("cpus", "'cpu'"),
        ("Auto", "'auto'"),
        (" cuda ", "'cuda'"),
        ("cuda:-1", ""),
        ("cuda:one", ""),
        ("cuda:1.0", ""),
        ("cuda:99999", ""),
        ("cuda:\u0661", ""),
        ("tpu0", ""),
        ("", ""),
        (1, ""),
        (None, ""),
        (b"cpu", ""),
    ],
)
def test_parse_device__says_what_may_be_meant(given: object, meant: str) -> None:
    with pytest.raises(DeviceError) as error:
        parse_device(given)
    assert f"device is 'cpu', 'cuda', 'cuda:1' and so on, 'auto' or 'torch:cpu'; got {given!r}" in str(error.value)
    if meant:
        assert str(error.value).endswith(f"Did you mean {meant}?")


def test_parse_device__is_an_error_of_a_value() -> None:
    with pytest.raises(ValueError, match="device is"):
        parse_device("tpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "torch:cpu"])
def test_find_device__names_the_extra_where_pytorch_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceError, match=rf"device='{name}' needs PyTorch.*pip install 'dask-svcca\[torch\]'"):
        find_device(name)


def test_find_device__auto_is_the_cpu_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert find_device("auto") == "cpu"
    assert count_gpus() == 0


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_find_device__says_why_there_is_no_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(0, "Found no NVIDIA driver on your system.\nAnd more."))
    with pytest.raises(DeviceError) as error:
        find_device(name)
    assert str(error.value) == (
        f"device={name!r} needs a GPU, and PyTorch 2.99.0 has none here: Found no NVIDIA driver on your system. Use "
        f"device='cpu', or install the build of PyTorch for this machine's GPU"
    )
    assert find_device("auto") == "cpu"


def test_find_device__says_how_many_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(2))
    assert [find_device(name) for name in ("cuda", "cuda:01", "auto")] == ["cuda", "cuda:1", "cuda"]
    with pytest.raises(DeviceError, match="there is no 'cuda:2': PyTorch finds 2 GPUs, 'cuda:0' to 'cuda:1'"):
        find_device("cuda:2")
    monkeypatch.setitem(sys.modules, "torch", fake_torch(1))
    with pytest.raises(DeviceError, match="there is no 'cuda:1': PyTorch finds one GPU, 'cuda:0'"):
        find_device("cuda:1")


def test_find_device__asks_the_pytorch_that_is_installed() -> None:
    torch = pytest.importorskip("torch")
    assert find_device("torch:cpu") == "torch:cpu"
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(DeviceError, match=r"device='cuda' needs a GPU, and PyTorch .* has none here: \w+"):
        find_device("cuda")
    assert find_device("auto") == "cpu"


def test_find_device__loads_nothing_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert find_device("cpu") == "cpu"


def test_is_gpu__tells_by_the_name() -> None:
    assert [is_gpu(name) for name in ("cpu", "torch:cpu", "cuda", "cuda:3")] == [False, False, True, True]
