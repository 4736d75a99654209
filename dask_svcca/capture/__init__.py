"""Activations in: from ONNX checkpoints, or from a live PyTorch model, to a zoo.

Both need packages of their own, imported only when they are used: ``pip install 'dask-svcca[onnx]'`` or
``'dask-svcca[torch]'``.
"""
