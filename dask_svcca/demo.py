"""The demo: 44 trained networks from the repository, captured and compared, every layer with every other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from dask_svcca.errors import CaptureError
from dask_svcca.plan.final import final_checkpoints
from dask_svcca.plan.parameters import Parameters, make_parameters
from dask_svcca.run.capture import CaptureOutcome, capture_onnx
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores.zoo import open_zoo

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from dask_svcca.capture._common import CaptureReport
    from dask_svcca.cluster import Client
    from dask_svcca.run.outcome import Outcome, Progress

PACKAGE = Path(__file__).parent
PARAMETERS = Parameters(conv="mean")
"""Averaging over positions compares the 407,253 pairs in seconds, and needs a fifth of the disk."""

PARAMETERS_DFT = Parameters(conv="dft")
"""By spatial frequency, for the pairs of `training_pairs`: with all pairs the demo would take a minute."""

PARAMETERS_FINAL = make_parameters("all", conv="mean")
"""All measures, for the pairs of `final_pairs`: layer identification needs no others."""

CLEAR = 0.8
TENDENCY = 0.3
"""Size of a rank correlation from which the order of the layers is called clear, or a tendency."""


@dataclass(frozen=True)
class Demo:
    """Where the demo's stores are, and what this run added to them.

    Attributes
    ----------
    zoo, comparison : Path
    comparison_dft : Path
        Comparison of the same layers, read by spatial frequency.
    comparison_final : Path
        Comparison of the last checkpoints by all measures.
    captured : CaptureOutcome
    compared, compared_dft, compared_final : Outcome
    """

    zoo: Path
    comparison: Path
    comparison_dft: Path
    comparison_final: Path
    captured: CaptureOutcome[CaptureReport]
    compared: Outcome
    compared_dft: Outcome
    compared_final: Outcome


def find_networks() -> Path:
    """Folder of the trained networks: inside an installed package, or in a checkout of the repository.

    Raises
    ------
    CaptureError
        Where the networks are in neither place.
    """
    places = (PACKAGE / "_demo", PACKAGE.parent / "jobs" / "demo")
    for place in places:
        if (place / "examples.npz").exists():
            return place
    raise CaptureError(
        f"the demo's networks are in neither {str(places[0])!r} nor {str(places[1])!r}; install the package again, or "
        f"train them with jobs/demo/train.py"
    )


def run_demo(
    output: str | os.PathLike[str],
    *,
    client: Client | None = None,
    on_capture: Callable[[int, int], None] | None = None,
    on_compare: Progress | None = None,
    on_compare_dft: Progress | None = None,
    on_compare_final: Progress | None = None,
) -> Demo:
    """Capture the networks to ``output/zoo.zarr``, and compare them to ``output/comparison.zarr``.

    A second comparison, ``output/comparison-dft.zarr``, reads convolutional layers by spatial frequency, for each layer
    against its final self and against the same layer of the other seed. A third, ``output/comparison-final.zarr``, has
    all measures of the trained networks, and shares the directions of their layers with the first.

    Work that is already done is not repeated.

    Parameters
    ----------
    output : path
    client : Client, optional
        Default: the current client, else Dask's local scheduler, as for any Dask collection.
    on_capture, on_compare, on_compare_dft, on_compare_final : callable, optional
        See `dask_svcca.run.capture.Progress` and `dask_svcca.run.outcome.Progress`.

    Returns
    -------
    Demo
    """
    networks = find_networks()
    # A worker may have another working directory.
    folder = Path(output).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    zoo_store, subspaces = folder / "zoo.zarr", folder / "subspaces.zarr"
    captured = capture_onnx(
        sorted(networks.glob("*/*.onnx")), networks / "examples.npz", zoo_store, client=client, progress=on_capture
    )
    zoo = open_zoo(zoo_store)
    comparison_store, dft_store, final_store = (folder / f"comparison{name}.zarr" for name in ("", "-dft", "-final"))
    # The first comparison and the last read layers alike, and so share subspaces.
    compared = run_comparison(
        zoo, comparison_store, PARAMETERS, subspaces=subspaces, client=client, progress=on_compare
    )
    pairs = training_pairs(zoo.representations)
    compared_dft = run_comparison(zoo, dft_store, PARAMETERS_DFT, pairs=pairs, client=client, progress=on_compare_dft)
    pairs = final_pairs(zoo.representations)
    compared_final = run_comparison(
        zoo,
        final_store,
        PARAMETERS_FINAL,
        pairs=pairs,
        subspaces=subspaces,
        client=client,
        progress=on_compare_final,
    )
    return Demo(zoo_store, comparison_store, dft_store, final_store, captured, compared, compared_dft, compared_final)


def training_pairs(representations: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Pairs of the same layer: with its own last checkpoint, and across seeds at the same step.

    Parameters
    ----------
    representations : pandas.DataFrame
        As `Zoo.representations`.

    Returns
    -------
    (representation, representation)
    """
    final = final_checkpoints(representations)
    own = _equal(representations["model"]) & (final[:, np.newaxis] | final)
    across = _equal(_architecture(representations)) & _equal(representations["step"])
    return np.asarray(_equal(representations["layer"]) & (own | across))


def final_pairs(representations: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Pairs of layers of trained networks of one architecture, across seeds.

    Parameters
    ----------
    representations : pandas.DataFrame
        As `Zoo.representations`.

    Returns
    -------
    (representation, representation)
    """
    final = final_checkpoints(representations)
    across = _equal(_architecture(representations)) & ~_equal(representations["model"])
    return np.asarray(np.outer(final, final) & across)


def _architecture(representations: pd.DataFrame) -> pd.Series[str]:
    return representations["model"].str.rpartition("-s")[0]


def _equal(values: pd.Series[Any]) -> npt.NDArray[np.bool_]:
    codes = pd.factorize(values)[0]
    return np.equal.outer(codes, codes)


def architectures(comparison: xr.Dataset) -> dict[str, list[str]]:
    """Names of the networks by architecture; within one they differ in their seed."""
    models = dict.fromkeys(str(name) for name in comparison["model_a"].to_numpy())
    by_architecture: dict[str, list[str]] = {}
    for model in models:
        by_architecture.setdefault(model.rpartition("-s")[0] or model, []).append(model)
    return by_architecture


def similarity_to_final(comparison: xr.Dataset, models: list[str]) -> xr.DataArray:
    """Similarity of each layer to itself at the end of training, averaged over networks.

    Parameters
    ----------
    comparison : xarray.Dataset
        As from `open_comparison`.
    models : list of str
        Models of one architecture, with checkpoints at the same steps.

    Returns
    -------
    (layer, step)
        Layers in the order of their depth.
    """
    return xr.concat([_similarity_of_model(comparison, model) for model in models], "model").mean("model")


def _similarity_of_model(comparison: xr.Dataset, model: str) -> xr.DataArray:
    last = comparison["step_b"].where(comparison["model_b"] == model).max()
    rows = np.flatnonzero(comparison["model_a"] == model)
    columns = np.flatnonzero((comparison["model_b"] == model) & (comparison["step_b"] == last))
    block = comparison["svcca"][{"representation_a": rows, "representation_b": columns}].sortby("depth_a")
    layers = list(dict.fromkeys(block["layer_a"].to_numpy()))
    own = block.swap_dims(representation_b="layer_b").sel(layer_b=block["layer_a"])
    values = xr.DataArray(
        own.to_numpy(),
        dims="pair",
        coords={"layer": ("pair", own["layer_a"].to_numpy()), "step": ("pair", own["step_a"].to_numpy())},
    )
    return values.set_index(pair=["layer", "step"]).unstack("pair").sel(layer=layers)  # noqa: PD010 - not pandas


def describe_settling(tables: Mapping[str, xr.DataArray]) -> str:
    """Sentence on the order in which layers settle, as far as the tables show one.

    Parameters
    ----------
    tables : mapping of str to (layer, step)
        As from `similarity_to_final`, by architecture.

    Examples
    --------
    >>> early, late = [0.9, 0.95, 1.0], [0.2, 0.5, 1.0]
    >>> table = xr.DataArray([early, late], dims=("layer", "step"))
    >>> describe_settling({"cnn": table})
    'Layers closer to the input settle earlier: depth and similarity have rank correlation -1.00 (cnn).'
    """
    correlations = {name: _depth_correlation(table) for name, table in tables.items()}
    weakest = min(map(abs, correlations.values()))
    signs = {value < 0 for value in correlations.values()}
    if len(signs) > 1 or not weakest >= TENDENCY:
        order = "There is no common order in which layers settle"
    else:
        which = "closer to the input" if signs == {True} else "closer to the output"
        order = f"Layers {which} {'settle' if weakest >= CLEAR else 'tend to settle'} earlier"
    numbers = ", ".join(f"{value:.2f} ({name})" for name, value in correlations.items())
    return f"{order}: depth and similarity have rank correlation {numbers}."


def _depth_correlation(table: xr.DataArray) -> float:
    """Rank correlation of a layer's depth with its similarity to its final self, on average before the last step."""
    similarity = pd.Series(table[{"step": slice(None, -1)}].mean("step").to_numpy())
    # The correlation is NaN where all layers are equally similar; pandas before 3.1 warns of that.
    with np.errstate(invalid="ignore"):
        return float(similarity.rank().corr(pd.Series(np.arange(len(similarity)))))
