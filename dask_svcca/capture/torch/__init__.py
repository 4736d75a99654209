"""Activations of a live PyTorch model: what its modules put out, recorded by forward hooks."""

from dask_svcca.capture.torch.capture import capture_torch

__all__ = ["capture_torch"]
