"""The demo's trained networks as a zoo: what the studies of this folder have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import dask_svcca

if TYPE_CHECKING:
    from collections.abc import Sequence

NETWORKS = Path(__file__).parents[1] / "demo"
STEPS = (0, 5, 9, 15, 25, 43, 73, 126, 215, 368, 630)
"""Training steps of the checkpoints."""

MAIN_LAYERS = r"(.*\.)?(relu\d*|logits)"
"""What each block hands on, and not every step on the way there."""


def output_folder(description: str | None) -> Path:
    """The folder that the command line names; made where it is not there yet."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, default=Path("dask-svcca-studies"), metavar="DIR")
    folder: Path = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def capture(folder: Path, steps: Sequence[int] = STEPS) -> dask_svcca.Zoo:
    """Activations of the four networks at some steps of their training, on 500 images they have not seen.

    Parameters
    ----------
    folder : Path
        The zoo is ``zoo.zarr`` below it. What it has already is not captured again.
    steps : sequence of int

    Returns
    -------
    Zoo
        Models ``cnn-s0``, ``cnn-s1``, ``resnet-s0`` and ``resnet-s1``.
    """
    store = str(folder / "zoo.zarr")
    files = [path for step in steps for path in sorted(NETWORKS.glob(f"*/step{step:05}.onnx"))]
    dask_svcca.capture_onnx(files, NETWORKS / "examples.npz", store)
    return dask_svcca.open_zoo(store)
