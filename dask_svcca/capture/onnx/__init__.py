"""Activations of ONNX checkpoints, computed with ONNX Runtime."""

from dask_svcca.capture._common import check_layers
from dask_svcca.capture._inputs import Inputs, load_inputs
from dask_svcca.capture.onnx.axes import check_patterns, given_axes
from dask_svcca.capture.onnx.capture import capture_checkpoint, list_layers, survey_model
from dask_svcca.capture.onnx.names import Checkpoint, name_checkpoints
from dask_svcca.capture.onnx.network import input_names, tensor_names
from dask_svcca.capture.onnx.survey import Layer

__all__ = [
    "Checkpoint",
    "Inputs",
    "Layer",
    "capture_checkpoint",
    "check_layers",
    "check_patterns",
    "given_axes",
    "input_names",
    "list_layers",
    "load_inputs",
    "name_checkpoints",
    "survey_model",
    "tensor_names",
]
