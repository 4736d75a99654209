"""Sensitivity to classes: how well each layer says, linearly, whether an example is of a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from dask_svcca.analysis._pairs import LabelPair, Pairs
from dask_svcca.analysis.measured import as_dataset
from dask_svcca.analysis.selection import column, in_order, places_of, table_of
from dask_svcca.errors import (
    IncompatibleError,
    InvalidQuestionError,
    MismatchedExamplesError,
    did_you_mean,
)
from dask_svcca.kernels.chance import multiple_correlation
from dask_svcca.stores.zoo import as_zoo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    import numpy.typing as npt

    from dask_svcca.analysis._pairs import Subspace
    from dask_svcca.analysis.selection import Where
    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Zoo

    Classes: TypeAlias = npt.NDArray[Any]

DIMS = ("model", "checkpoint", "layer")


def class_sensitivity(
    result: xr.Dataset | StoreLike,
    *,
    zoo: Zoo | StoreLike,
    labels: str = "label",
    logits: str | None = None,
    where: Where | None = None,
) -> xr.Dataset:
    """How well each layer tells each class: the multiple correlation of the class with all neurons of the layer.

    Layers are read as the comparison reads them, and all of their directions take part, whatever share of the variance
    the comparison keeps. Under ``conv="dft"`` a class, which is the same at all positions, meets the zero frequency.
    Nothing but the comparison's subspaces is read, and the logits where these are asked for.

    Parameters
    ----------
    result : Dataset, path, zarr store, or URL
        From `compare` or `open_comparison`, or where it is; its subspaces must be there.
    zoo : Zoo, path, zarr store, or URL
        That the comparison is of, or where it is.
    labels : str
        Coordinate of the zoo that says of which class each example is. A class is 1 for its examples and 0 for others.
    logits : str, optional
        Name of a layer, (example, neuron). Its neurons are the classes, in place of labels: each layer meets those of
        its own model and checkpoint.
    where : mapping, optional
        Representations, of side a of the comparison: see `query`. Default: all.

    Returns
    -------
    xarray.Dataset
        ``sensitivity`` (model, checkpoint, layer, class): in [0, 1], NaN where there is no such representation, or none
        that was compared. ``chance`` (model, checkpoint, layer): what is expected for labels that have nothing to do
        with the layer; it grows with the number of directions, ``rank`` (model, checkpoint, layer). ``untrained``
        (model, layer, class): the sensitivity at the first step of the model that the comparison has, which the
        coordinate ``first_step`` (model) names; NaN where it has no steps. Other coordinates: ``step`` (model,
        checkpoint) and ``depth`` (model, layer). Checkpoints are in order of steps, layers in order of depth.

    Raises
    ------
    MismatchedExamplesError
        Where the zoo has other examples than the comparison.
    InvalidQuestionError
        Where the labels are not one whole number, truth value or text for each example, are all alike, or the logits
        are not (example, neuron).
    RepresentationNotFoundError
        Where nothing is chosen, or a checkpoint has no such logits.
    IncompatibleError
        Where none of the chosen representations has a subspace, or samples do not say which example they are of.
    MemoryLimitError
        Where the scores of a representation do not fit in memory.

    References
    ----------
    Raghu et al. (2017), SVCCA: Singular Vector Canonical Correlation Analysis, NeurIPS, figure 5.

    Examples
    --------
    >>> import dask_svcca, zarr
    >>> rng = np.random.default_rng(0)
    >>> label = np.repeat([0, 1, 2], 100)
    >>> x = rng.normal(size=(300, 4))
    >>> with dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(300), coords={"label": label}) as zoo:
    ...     zoo.write("net", "step0", "fc", x, step=0)
    ...     zoo.write("net", "step9", "fc", x + 9 * np.eye(4)[label], step=9)
    >>> found = class_sensitivity(dask_svcca.compare(zoo), zoo=zoo)
    >>> found.sensitivity.sel(model="net", layer="fc").mean("class").round(1).to_numpy().tolist()
    [0.1, 1.0]
    >>> found.chance.round(1).to_numpy().ravel().tolist()
    [0.1, 0.1]
    """
    result, zoo = as_dataset(result), as_zoo(zoo)
    known = table_of(result, "a").assign(label=column(result, "representation", "a").tolist())
    asked = places_of(result, "a", where)
    first = _first_checkpoints(known)
    compared = known.iloc[asked]
    begun = known["model"].isin(compared["model"]) & known["layer"].isin(compared["layer"]) & first
    wanted = known[begun.to_numpy() | np.isin(np.arange(len(known)), asked)]
    pairs = Pairs(result, [(label, label) for label in wanted["label"]], "svcca")
    _check_examples(zoo, pairs, result)
    targets = _one_hot(zoo, labels) if logits is None else None
    found: dict[Any, _Found] = {}
    problem: IncompatibleError | None = None
    for (model, checkpoint), rows in wanted.groupby(["model", "checkpoint"], sort=False):
        classes, values = targets or _logits(zoo, str(model), str(checkpoint), str(logits))
        for place, label in rows["label"].items():
            try:
                subspace = pairs.open(LabelPair(label, label))[0]
            except IncompatibleError as error:
                problem = error
                continue
            found[place] = _Found(classes, *_multiple_correlations(pairs, subspace, values))
    if problem is not None and not found:
        raise problem
    attributes = {"comparison": pairs.place, **({"labels": labels} if logits is None else {"logits": logits})}
    return _dataset(compared, wanted[first[wanted.index]], found).assign_attrs(attributes)


class _Found:
    """What was computed of one representation.

    Attributes
    ----------
    classes : (class,)
    correlations : (class,)
    chance : float
    rank : int
    """

    def __init__(self, classes: Classes, correlations: FloatArray, chance: float, rank: int) -> None:
        self.classes, self.correlations, self.chance, self.rank = classes, correlations, chance, rank


def _first_checkpoints(known: pd.DataFrame) -> pd.Series[bool]:
    """Whether each representation is of the first step of its model; none where a step is not known."""
    return known["step"] == known.groupby("model")["step"].transform(lambda steps: steps.min(skipna=False))


def _check_examples(zoo: Zoo, pairs: Pairs, result: xr.Dataset) -> None:
    digest = str(result.attrs.get("examples_digest", ""))
    if digest != zoo.examples_digest:
        raise MismatchedExamplesError(
            f"the comparison {pairs.place!r} is of other examples than the zoo {str(zoo.root.store_path)!r}: "
            f"{pairs.examples} examples (digest {digest[:8]}), and {zoo.n_examples} (digest "
            f"{zoo.examples_digest[:8]}). Pass the zoo that was compared"
        )


def _one_hot(zoo: Zoo, name: str) -> tuple[Classes, FloatArray]:
    """Classes, and for each example and class, (example, class), whether it is of it."""
    if name not in zoo.coords:
        there = ", ".join(map(repr, zoo.coords)) or "none"
        raise InvalidQuestionError(
            f"the zoo has no coordinate {name!r}; it has {there}{did_you_mean(name, list(zoo.coords)) or '.'} Give "
            f"it one with zoo.add_coord, or name the layer of the logits, logits="
        )
    values = zoo.coords[name]
    if values.ndim != 1 or values.dtype.kind == "f":
        raise InvalidQuestionError(
            f"the coordinate {name!r} is not a class for each example: it has {values.ndim} axes and the type "
            f"{values.dtype}; one axis of whole numbers, truth values or text is expected"
        )
    if values.dtype.kind not in "biu":
        values = np.array(values.tolist(), dtype=np.str_)
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise InvalidQuestionError(
            f"all {len(values)} examples have the {name} {classes[0].item()!r}: no layer can tell one class from none"
        )
    return classes, np.eye(len(classes))[codes]


def _logits(zoo: Zoo, model: str, checkpoint: str, layer: str) -> tuple[Classes, FloatArray]:
    """Neurons of a layer as classes, and their activations, (example, class)."""
    array = zoo[model, checkpoint, layer]
    if array.ndim != 2:
        raise InvalidQuestionError(
            f"logits are (example, neuron); {f'{model}/{checkpoint}/{layer}'!r} has the axes {array.dims}"
        )
    return np.arange(array.shape[1]), array.to_numpy().astype(np.float64)


def _multiple_correlations(pairs: Pairs, subspace: Subspace, targets: FloatArray) -> tuple[FloatArray, float, int]:
    """Multiple correlation of each target, (example, class), with a layer; that by chance; number of directions."""
    each = pairs.samples_per_example(subspace)
    block = subspace.blocks.get(0)
    # A target is the same at all positions: it has no other frequency than zero.
    scores = subspace.scores[:, block.columns] if block is not None else subspace.scores[:, :0]
    sums = scores.reshape(len(targets), each, -1).sum(axis=1)
    centred = targets - targets.mean(axis=0)
    squares = np.einsum("ec,ec->c", centred, centred)
    # Rounding of the mean is not a spread.
    varies = squares > len(targets) * np.square(1e-12 * np.abs(targets).max(axis=0, initial=0.0))
    explained = np.square(np.abs(sums.conj().T @ centred)).sum(axis=0)
    shares = np.divide(explained, each * squares, out=np.full(len(squares), np.nan), where=varies)
    return np.sqrt(np.minimum(shares, 1.0)), _by_chance(sums, each), scores.shape[1]


def _by_chance(sums: InexactArray, each: int) -> float:
    """Expected multiple correlation of independent labels, from the sums of the scores of each example."""
    examples, directions = sums.shape
    if each == 1 or not directions:
        return multiple_correlation(directions, examples)
    # Scores vary among the positions of an example, and a label does not. It meets as many directions as there would
    # be equal ones with the same sum, and the same sum of squares, of what the directions have of examples.
    gram = sums.conj().T @ sums
    total, squares = float(np.trace(gram).real), float(np.vdot(gram, gram).real)
    equal = total**2 / squares
    return float(np.sqrt(total / (each * equal))) * multiple_correlation(equal, examples)


def _dataset(asked: pd.DataFrame, first: pd.DataFrame, found: dict[Any, _Found]) -> xr.Dataset:
    axes = {
        "model": pd.Index(dict.fromkeys(asked["model"])),
        "checkpoint": in_order(asked, "checkpoint", "step"),
        "layer": in_order(asked, "layer", "depth"),
    }
    classes = max((one.classes for one in found.values()), key=len)
    shape = tuple(map(len, axes.values()))

    def filled(frame: pd.DataFrame, names: tuple[str, ...]) -> Iterator[tuple[tuple[int, ...], _Found]]:
        codes = [axes[name].get_indexer(pd.Index(frame[name])).tolist() for name in names]
        for place, *code in zip(frame.index, *codes, strict=True):
            if place in found:
                yield tuple(code), found[place]

    sensitivity, chance, rank = np.full((*shape, len(classes)), np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    for code, one in filled(asked, DIMS):
        sensitivity[code][: len(one.correlations)], chance[code], rank[code] = one.correlations, one.chance, one.rank
    untrained = np.full((shape[0], shape[2], len(classes)), np.nan)
    for code, one in filled(first, ("model", "layer")):
        untrained[code][: len(one.correlations)] = one.correlations
    share = {"units": "1", "valid_range": [0.0, 1.0], "sense": "similarity"}
    starts = first.groupby("model")["step"].first()
    return xr.Dataset(
        {
            "sensitivity": (
                (*DIMS, "class"),
                sensitivity,
                {"long_name": "multiple correlation of a class with a layer", **share, "null": "chance"},
            ),
            "chance": (
                DIMS,
                chance,
                {**share, "long_name": "multiple correlation expected of independent labels", "sense": "reference"},
            ),
            "untrained": (
                ("model", "layer", "class"),
                untrained,
                {"long_name": "sensitivity at the first step of the model", **share},
            ),
            "rank": (DIMS, rank, {"long_name": "directions that a class meets", "units": "1"}),
        },
        coords={
            **{name: np.array(values.to_list(), dtype=np.str_) for name, values in axes.items()},
            "class": classes,
            "step": (("model", "checkpoint"), _table(asked, axes, "checkpoint", "step")),
            "depth": (("model", "layer"), _table(asked, axes, "layer", "depth")),
            "first_step": ("model", starts.reindex(axes["model"]).to_numpy(dtype=np.float64)),
        },
    )


def _table(frame: pd.DataFrame, axes: dict[str, pd.Index[Any]], name: str, value: str) -> FloatArray:
    """A number of each model and checkpoint, or layer."""
    numbers = frame.pivot_table(index="model", columns=name, values=value, aggfunc="first", dropna=False)
    return numbers.reindex(index=axes["model"], columns=axes[name]).to_numpy(dtype=np.float64)
