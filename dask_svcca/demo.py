"""The demo: 44 trained networks from the repository, captured and compared, every layer with every other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dask_svcca.analysis.dynamics import learning_dynamics
from dask_svcca.analysis.selection import table_of
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
    import xarray as xr

    from dask_svcca.capture._common import CaptureReport
    from dask_svcca.connections import Client
    from dask_svcca.run.outcome import Outcome, Progress

PACKAGE = Path(__file__).parent
PARAMETERS = Parameters(conv="mean")
"""Averaging over positions compares the 407,253 pairs in seconds, and needs a fifth of the disk."""

PARAMETERS_DFT = Parameters(conv="dft")
"""By spatial frequency, for the pairs of `training_pairs`: with all pairs the demo would take a minute."""

PARAMETERS_MEASURES = make_parameters("all", conv="mean")
"""All measures, for the pairs of `training_pairs` and `final_pairs`: the findings need no others."""

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
    comparison_measures : Path
        Comparison by all measures, of the pairs that the findings need.
    captured : CaptureOutcome
    compared, compared_dft, compared_measures : Outcome
    """

    zoo: Path
    comparison: Path
    comparison_dft: Path
    comparison_measures: Path
    captured: CaptureOutcome[CaptureReport]
    compared: Outcome
    compared_dft: Outcome
    compared_measures: Outcome


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
    on_compare_measures: Progress | None = None,
) -> Demo:
    """Capture the networks to ``output/zoo.zarr``, and compare them to ``output/comparison.zarr``.

    A second comparison, ``output/comparison-dft.zarr``, reads convolutional layers by spatial frequency, for each layer
    against its final self and against the same layer of the other seed. A third, ``output/comparison-measures.zarr``,
    has all measures of these pairs, and of the trained networks across seeds; it shares the directions of their layers
    with the first.

    Work that is already done is not repeated.

    Parameters
    ----------
    output : path
    client : Client, optional
        Default: the current client, else Dask's local scheduler, as for any Dask collection.
    on_capture, on_compare, on_compare_dft, on_compare_measures : callable, optional
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
    comparison_store, dft_store, measures_store = (
        folder / f"comparison{name}.zarr" for name in ("", "-dft", "-measures")
    )
    # The first comparison and the last read layers alike, and so share subspaces.
    compared = run_comparison(
        zoo, comparison_store, PARAMETERS, subspaces=subspaces, client=client, progress=on_compare
    )
    pairs = training_pairs(zoo.representations)
    compared_dft = run_comparison(zoo, dft_store, PARAMETERS_DFT, pairs=pairs, client=client, progress=on_compare_dft)
    pairs |= final_pairs(zoo.representations)
    compared_measures = run_comparison(
        zoo,
        measures_store,
        PARAMETERS_MEASURES,
        pairs=pairs,
        subspaces=subspaces,
        client=client,
        progress=on_compare_measures,
    )
    return Demo(
        zoo_store, comparison_store, dft_store, measures_store, captured, compared, compared_dft, compared_measures
    )


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


def dynamics_of(comparison: xr.Dataset, measure: str, **options: Any) -> dict[str, xr.Dataset]:
    """Learning dynamics of the networks of each architecture; see `learning_dynamics` for its other options."""
    return {
        name: learning_dynamics(comparison, model=models, measure=measure, **options)
        for name, models in architectures(comparison).items()
    }


def directions(dynamics: xr.Dataset, comparison: xr.Dataset) -> dict[str, tuple[int, int]]:
    """By layer, the directions that the trained networks keep, on average, and its neurons."""
    kept = dynamics["rank"].isel(step=-1).mean("model")
    neurons = dict(zip(comparison["layer_a"].to_numpy(), comparison["neurons_a"].to_numpy(), strict=True))
    return {
        str(layer): (round(float(kept.sel(layer=layer))), int(neurons[layer])) for layer in kept["layer"].to_numpy()
    }


def settled_before(dynamics: xr.Dataset) -> list[str]:
    """Layers that are near their final selves before any training, in all networks."""
    before = (dynamics["settled_step"] == dynamics["step"].min()).all("model")
    return [str(layer) for layer in dynamics["layer"].to_numpy()[before.to_numpy()]]


def describe_settling(dynamics: Mapping[str, xr.Dataset]) -> str:
    """Sentence on the order in which layers settle, as far as the numbers show one.

    Parameters
    ----------
    dynamics : mapping of str to Dataset
        As from `dynamics_of`.

    Examples
    --------
    >>> import xarray as xr
    >>> found = xr.Dataset({"depth_correlation": ("model", [0.9, 0.8])}, attrs={"measure": "cka"})
    >>> describe_settling({"cnn": found})
    'By cka, layers closer to the input settle earlier: depth and settled step have rank correlation 0.85 (cnn).'
    """
    correlations = {name: float(one["depth_correlation"].mean()) for name, one in dynamics.items()}
    weakest = min(map(abs, correlations.values()))
    signs = {value > 0 for value in correlations.values()}
    if len(signs) > 1 or not weakest >= TENDENCY:
        order = "there is no clear order in which layers settle"
    else:
        which = "closer to the input" if signs == {True} else "closer to the output"
        order = f"layers {which} {'settle' if weakest >= CLEAR else 'tend to settle'} earlier"
    numbers = ", ".join(f"{value:.2f} ({name})" for name, value in correlations.items())
    measure = next(iter(dynamics.values())).attrs["measure"]
    return f"By {measure}, {order}: depth and settled step have rank correlation {numbers}."


def describe_seeds(comparison: xr.Dataset, layer: str, measure: str) -> str:
    """Sentence on how similar a layer of two trainings is, before and after."""
    parts = []
    for name, (first, second, *_) in architectures(comparison).items():
        block = comparison[measure].sel(model_a=first, layer_a=layer, model_b=second, layer_b=layer)
        steps = np.unique(block["step_a"].to_numpy())[[0, -1]]
        ends = [float(block.sel(step_a=step, step_b=step).squeeze()) for step in steps]
        parts.append(f"{ends[0]:.2f} at step {steps[0]:.0f} and {ends[1]:.2f} at the end ({name})")
    return f"The {layer} of two seeds have {measure} {', '.join(parts)}."


def describe_jump(dynamics: Mapping[str, xr.Dataset], layer: str) -> str:
    """Sentence on the largest step of a layer towards its final self, from one checkpoint to the next."""
    parts = []
    for name, one in dynamics.items():
        values = one["similarity_to_final"].sel(layer=layer).mean("model")
        at = int(values.diff("step").argmax("step"))
        before, after = (values.isel(step=number) for number in (at, at + 1))
        parts.append(
            f"from {float(before):.2f} to {float(after):.2f} between steps {float(before['step']):.0f} and "
            f"{float(after['step']):.0f} ({name})"
        )
    measure = next(iter(dynamics.values())).attrs["measure"]
    return f"By {measure}, the {layer} take their largest step towards their final selves {', '.join(parts)}."


def describe_settled(dynamics: Mapping[str, xr.Dataset], layer: str) -> str:
    """Sentence on when a layer settles, and how sure that is over trainings and over examples.

    Parameters
    ----------
    dynamics : mapping of str to Dataset
        As from `dynamics_of`, with blocks of examples left out.
    layer : str

    Examples
    --------
    >>> import xarray as xr
    >>> numbers = {"settled_by": 10.0, "settled_low": 10.0, "settled_high": 40.0, "trainings": 2}
    >>> ends = {"settled_earliest": ("model", [10.0, 20.0]), "settled_latest": ("model", [40.0, 40.0])}
    >>> found = xr.Dataset({**numbers, **ends}, attrs={"measure": "cka"}).expand_dims(layer=["fc"])
    >>> describe_settled({"cnn": found}, "fc")
    'By cka, the fc have settled by step 10 (cnn: from 10 to 40 over 2 trainings, from 10 to 40 over examples).'
    """
    parts = []
    for name, one in dynamics.items():
        own = one.sel(layer=layer)
        parts.append(
            f"by step {float(own['settled_by']):.0f} ({name}: from {float(own['settled_low']):.0f} to "
            f"{float(own['settled_high']):.0f} over {int(own['trainings'])} trainings, from "
            f"{float(own['settled_earliest'].min()):.0f} to {float(own['settled_latest'].max()):.0f} over examples)"
        )
    measure = next(iter(dynamics.values())).attrs["measure"]
    return f"By {measure}, the {layer} have settled {', '.join(parts)}."


def describe_classes(sensitivity: xr.Dataset, count: int = 2) -> str:
    """Sentence on the classes that a layer tells apart least, on average over networks.

    Parameters
    ----------
    sensitivity : Dataset
        As from `class_sensitivity`, of one layer.
    count : int
    """
    values = sensitivity["sensitivity"]
    mean = values.mean([dim for dim in values.dims if dim != "class"])
    chosen = mean.sortby(mean).isel({"class": slice(count)})
    hardest = ", ".join(f"{one['class'].item()} ({float(one):.2f})" for one in chosen)
    layer = "the layer" if sensitivity.sizes["layer"] > 1 else f"the {sensitivity['layer'].item()}"
    return (
        f"The classes that {layer} tell apart least are {hardest}; the mean of all {mean.size} is "
        f"{float(mean.mean()):.2f}, and by chance {float(sensitivity['chance'].mean()):.2f} (multiple correlation)."
    )


def describe_smaller_rank(found: xr.Dataset, comparison: xr.Dataset) -> str:
    """Sentences on why svcca finds few layers, as far as the numbers say it.

    Parameters
    ----------
    found : Dataset
        As from `layer_identification`, of all layers but the logits, with svcca among the measures.
    comparison : Dataset
    """
    svcca = found.sel(measure="svcca")
    names = [str(name) for name in found["group"].to_numpy()]
    shares = ", ".join(
        f"{accuracy:.2f} ± {error:.2f} against {chance:.2f} ({name})"
        for name, accuracy, error, chance in zip(
            names, *(svcca[one].to_numpy() for one in ("accuracy", "accuracy_stderr", "chance")), strict=True
        )
    )
    near = bool((svcca["accuracy"] <= svcca["chance"] + 2 * svcca["accuracy_stderr"]).all())
    looked_for, fewest = _fewest_directions(svcca["chosen"], comparison)
    text = (
        f"Among all layers but the logits svcca {'stands at chance' if near else 'finds more than guesses do'}: "
        f"{shares}. It divides the sum of the correlations by min(k, l), the directions of the layer that keeps fewer. "
        f"So a layer whose few directions are among those of larger ones is as similar to these as to its counterpart: "
        f"of {looked_for} layers, svcca took one that keeps the fewest directions for {fewest}."
    )
    if "whitened_procrustes" in found["measure"].to_numpy():
        values = found["accuracy"].sel(measure="whitened_procrustes").to_numpy()
        other = ", ".join(f"{value:.2f} ({name})" for name, value in zip(names, values, strict=True))
        text += f" whitened_procrustes has the same sum over sqrt(k l), which tells such layers apart: {other}."
    return text


def _fewest_directions(chosen: xr.DataArray, comparison: xr.Dataset) -> tuple[int, int]:
    """How many layers were looked for, and for how many the chosen one keeps the fewest directions of all."""
    frame = table_of(comparison, "b")
    frame["rank"] = comparison["rank_b"].to_numpy()
    frame = frame[final_checkpoints(frame) & frame["layer"].isin(chosen["layer"].to_numpy())]
    ranks = {str(model): dict(zip(part["layer"], part["rank"], strict=True)) for model, part in frame.groupby("model")}
    of_models = {
        str(model): [str(layer) for layer in chosen.sel(model_b=model).to_numpy().ravel() if layer]
        for model in chosen["model_b"].to_numpy()
    }
    fewest = sum(
        ranks[model][layer] == min(ranks[model].values()) for model, layers in of_models.items() for layer in layers
    )
    return sum(map(len, of_models.values())), fewest
