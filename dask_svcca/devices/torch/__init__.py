"""The second implementation: PyTorch, on a CUDA GPU or, as a test of the same code, on the processor."""

from dask_svcca.devices.torch.device import TorchDevice
from dask_svcca.devices.torch.trial import try_out

__all__ = ["TorchDevice", "try_out"]
