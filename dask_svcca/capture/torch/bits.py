"""Values of tensors as NumPy has them, bit by bit, for digests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt


def weights_of(torch: Any, model: Any) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Weights and buffers of a model by name, without what wraps it."""
    for key, value in model.state_dict().items():
        if isinstance(value, torch.Tensor) and value.device.type != "meta":
            yield ".".join(part for part in key.split(".") if part != "_orig_mod"), bits_of(torch, value)


def bits_of(torch: Any, tensor: Any) -> npt.NDArray[Any]:
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
