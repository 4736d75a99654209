"""What a model's weights and modules tell: whether it is the one that was captured, and how finely it computes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture._common import weights_digest
from dask_svcca.stores import _nodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from dask_svcca.stores.zoo import Representation, Zoo

READ_BYTES = 64 * 2**20
"""How much of what a zoo has is read to be compared, of all layers together."""

ROUNDING = 0.02
"""Relative difference of values that another device, or another number of threads, may make in half precision."""


def digests_of(torch: Any, model: Any) -> dict[str, str]:
    """Digests of a model's weights, which are its state, and of the buffers that are not in it, as they are stored."""
    state = model.state_dict()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name not in state}
    return {"weights_digest": _digest(torch, state), "buffers_digest": _digest(torch, buffers)}


def bits(torch: Any, tensor: Any) -> npt.NDArray[Any]:
    """Values of a tensor as NumPy has them; of a type that NumPy lacks, its bits."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    elif str(tensor.layout) != "torch.strided":
        tensor = tensor.to_dense()
    tensor = tensor.cpu().contiguous()
    if str(tensor.dtype) == "torch.bfloat16" or "float8" in str(tensor.dtype):
        tensor = tensor.view(torch.int16 if tensor.dtype.itemsize == 2 else torch.uint8)
    return np.asarray(tensor.numpy())


def with_other_values(
    zoo: Zoo, entries: Mapping[str, Representation], given: Mapping[str, npt.NDArray[Any]]
) -> list[str]:
    """Layers of which a zoo has other values for the first examples than a model gives.

    Parameters
    ----------
    zoo : Zoo
    entries : mapping of str to Representation
        What the zoo has, by layer. The deepest are looked at, as far as `READ_BYTES` reach: what changes in a model
        shows in what follows.
    given : mapping of str to (example, ...) array
        What the model gives for the first examples, with the axes of the zoo.
    """
    differing, read = [], 0
    for layer, entry in sorted(entries.items(), key=lambda item: -(item[1].depth or 0)):
        values = given.get(layer)
        if values is None or values.shape[1:] != entry.shape[1:]:
            continue
        if read > READ_BYTES:
            break
        read += math.prod(entry.shape[1:]) * entry.chunk_examples * entry.dtype.itemsize
        rows = min(len(values), entry.chunk_examples)
        stored = np.asarray(_nodes.open_array(zoo.root, f"{entry.place}/activations")[:rows], dtype=np.float64)
        difference = np.linalg.norm(stored - values[:rows])
        if difference > ROUNDING * np.linalg.norm(stored):
            differing.append(layer)
    return differing


def quantised_modules(model: Any) -> list[str]:
    """Names of modules that compute on quantised activations, or as if they did."""
    found: list[str] = []
    for path, module in model.named_modules():
        by_type = "quantized" in type(module).__module__.split(".") or "FakeQuant" in type(module).__name__
        if by_type and not any(path.startswith(f"{above}.") for above in found):
            found.append(path or type(module).__name__)
    return found


def _digest(torch: Any, tensors: Mapping[str, Any]) -> str:
    return weights_digest(
        (f"{path} {array.dtype.name} {array.shape}", array.tobytes()) for path, array in _arrays(torch, tensors)
    )


def _arrays(torch: Any, tensors: Mapping[str, Any]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for key, value in tensors.items():
        if isinstance(value, torch.Tensor) and value.device.type != "meta":
            yield ".".join(part for part in key.split(".") if part != "_orig_mod"), bits(torch, value)
