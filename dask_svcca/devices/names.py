"""Names of devices: which there are, and whether this process can use them. Said before anything runs."""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

from dask_svcca.errors import DeviceError, did_you_mean

NAMES: Final = ("cpu", "cuda", "auto", "torch:cpu")
"""Names of devices, beside ``cuda:1`` and so on: NumPy, a GPU, a GPU where there is one, and PyTorch on this CPU."""

_ORDINAL: Final = re.compile(r"cuda:([0-9]{1,4})")

_GPU: Final = re.compile(r"(?:torch:)?(?:cuda|gpu|rocm|hip)(:[0-9]{1,4})?")
_MEANT: Final = {"numpy": "cpu", "torch": "torch:cpu"}
"""What is meant by names that others use; PyTorch calls AMD's GPUs ``cuda`` as well."""

_OTHERS: Final = ("mps", "xpu", "tpu", "xla", "mtia", "npu", "hpu")
"""Devices that others have."""


def parse_device(name: object) -> str:
    """A name of a device in the form in which it is compared; whether it is there is not asked.

    Parameters
    ----------
    name : str

    Raises
    ------
    DeviceError
        Where nothing has that name.

    Examples
    --------
    >>> parse_device("cuda:01"), parse_device("auto")
    ('cuda:1', 'auto')
    >>> parse_device("gpu")
    Traceback (most recent call last):
    dask_svcca.errors.DeviceError: device is 'cpu', 'cuda', 'cuda:1' and so on, 'auto' or 'torch:cpu'; got 'gpu'. ...
    """
    if isinstance(name, str):
        if name in NAMES:
            return name
        if (found := _ORDINAL.fullmatch(name)) is not None:
            return f"cuda:{int(found[1])}"
    plain = str(name).strip().lower()
    if (gpu := _GPU.fullmatch(plain)) is not None:
        meant = f". Did you mean {'cuda' + (gpu[1] or '')!r}?"
    elif plain in _MEANT:
        meant = f". Did you mean {_MEANT[plain]!r}?"
    else:
        meant = "" if plain.partition(":")[0] in _OTHERS else did_you_mean(plain, NAMES)
    raise DeviceError(f"device is 'cpu', 'cuda', 'cuda:1' and so on, 'auto' or 'torch:cpu'; got {name!r}{meant}")


def is_gpu(name: str) -> bool:
    """Whether a device, by its parsed name, is a GPU.

    Examples
    --------
    >>> is_gpu("cuda:1"), is_gpu("torch:cpu")
    (True, False)
    """
    return name.partition(":")[0] == "cuda"


def find_device(name: object) -> str:
    """The device that a name stands for in this process, which has it.

    Parameters
    ----------
    name : str
        See `NAMES`. ``auto`` is a GPU where there is one that PyTorch can use, else ``cpu``.

    Returns
    -------
    str
        ``cpu``, ``torch:cpu``, ``cuda``, or ``cuda:1`` and so on.

    Raises
    ------
    DeviceError
        Where nothing has that name; where PyTorch is missing, finds no GPU, or has fewer.

    Examples
    --------
    >>> find_device("cpu")
    'cpu'
    """
    wanted = parse_device(name)
    if wanted == "cpu":
        return wanted
    if wanted == "auto":
        return "cuda" if count_gpus() else "cpu"
    torch = _torch(wanted)
    if not is_gpu(wanted):
        return wanted
    count = _count(torch)
    if not count:
        raise DeviceError(
            f"device={wanted!r} needs a GPU, and PyTorch {torch.__version__} has none here: {_reason(torch)}. Use "
            f"device='cpu', or install the build of PyTorch for this machine's GPU"
        )
    ordinal = int(wanted.partition(":")[2] or 0)
    if ordinal >= count:
        there = "one GPU, 'cuda:0'" if count == 1 else f"{count} GPUs, 'cuda:0' to 'cuda:{count - 1}'"
        raise DeviceError(f"there is no {wanted!r}: PyTorch finds {there}")
    return wanted


def why_no_gpu() -> str:
    """Why this process can use no GPU, as a sentence without its end.

    Examples
    --------
    >>> import sys, unittest.mock
    >>> with unittest.mock.patch.dict(sys.modules, {"torch": None}):
    ...     why_no_gpu()
    'PyTorch cannot be imported'
    """
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError):
        return "PyTorch cannot be imported"
    return f"PyTorch {torch.__version__} has no GPU: {_reason(torch)}"


def count_gpus() -> int:
    """How many GPUs this process can use: none where PyTorch is missing."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError):
        return 0
    return _count(torch)


def _torch(name: str) -> Any:
    try:
        return importlib.import_module("torch")
    except (ImportError, OSError) as error:
        raise DeviceError(
            f"device={name!r} needs PyTorch, which cannot be imported ({error}); pip install 'dask-svcca[torch]'"
        ) from error


def _count(torch: Any) -> int:
    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def _reason(torch: Any) -> str:
    """Why PyTorch cannot use a GPU, in its own words."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return str(error).strip().splitlines()[0].rstrip(".")
    return "it finds no device"
