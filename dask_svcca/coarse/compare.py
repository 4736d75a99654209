"""Compare a zoo, as people call it: exactly, or coarse first and exactly later."""

from __future__ import annotations

import functools
import inspect
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from zarr.storage import MemoryStore

from dask_svcca.coarse.guidance import Guidance
from dask_svcca.devices.names import parse_device
from dask_svcca.errors import (
    DeviceFailedWarning,
    FailedRepresentationWarning,
    FewSamplesWarning,
    ReadingWarning,
)
from dask_svcca.plan.parameters import ONLY_MASK, check_names, make_parameters
from dask_svcca.run.arrays import open_source
from dask_svcca.run.compare import asked_for, budget_for, plan_run, run_comparison
from dask_svcca.run.preview import run_preview
from dask_svcca.run.progress import Bars
from dask_svcca.run.stores import choose_mask
from dask_svcca.stores._urls import with_options
from dask_svcca.stores.dataset import open_comparison

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import xarray as xr

    from dask_svcca.coarse.guidance import TileOrder
    from dask_svcca.connections import Client
    from dask_svcca.plan.parameters import Keep, Mask, Match, Precision
    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.selection import Pairs
    from dask_svcca.readings.choose import Convolutional, Sequential
    from dask_svcca.run.arrays import Arrays
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Zoo

P = ParamSpec("P")
R = TypeVar("R")


def _explained(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, which says what a keyword may be that it does not have."""

    @functools.wraps(function)
    def checked(*arguments: P.args, **options: P.kwargs) -> R:
        check_names(options, inspect.signature(function).parameters, function.__name__)
        return function(*arguments, **options)

    return checked


@_explained
def compare(
    zoo: Zoo | Arrays | StoreLike,
    store: StoreLike | None = None,
    *,
    measures: str | Iterable[str] = ("svcca",),
    variance: float | None = 0.99,
    conv: Convolutional = "dft",
    match: Match = "crop",
    sequence: Sequential = "mean",
    positions: str = "all",
    spatial_size: Sequence[int] | None = None,
    mask: Mask = ONLY_MASK,
    precision: Precision = "float32",
    keep: Keep | Iterable[Keep] = (),
    pairs: Pairs = "all",
    preview: bool = False,
    order: TileOrder = "stored",
    sketches: StoreLike | None = None,
    dims: Mapping[Any, Sequence[str]] | None = None,
    subspaces: StoreLike | None = None,
    drop_left: bool = False,
    wait: bool = False,
    progress: bool = False,
    client: Client | None = None,
    device: str = "cpu",
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Compare every layer of every checkpoint of a zoo, or all of some arrays, with every other.

    Work that the store has already is not done again: after an interruption, or when the zoo has grown, only what is
    missing is computed.

    Parameters
    ----------
    zoo : Zoo, path, zarr store, or URL; or mapping of names to arrays
        From `open_zoo`, or where it is. Or arrays at hand, (example, ...) each: NumPy, Dask, xarray, pandas or torch. A
        name is that of a layer, in whole; or (checkpoint, layer), or (model, checkpoint, layer). The examples of arrays
        that label them (the coordinate ``example`` of a DataArray, the index of a DataFrame) are put into one order.
        Arrays are held in memory, Dask's too.
    store : path, zarr store, or URL, optional
        Where the comparison is: a new place, or that of an earlier comparison of the same zoo and parameters. By
        default in memory, for as long as the result is used.
    measures : str or tuple of str
        Names of measures; in one text, separated by commas. An existing comparison gains those that it lacks; only
        these are computed.
    variance : float or None
        Share of the variance that the kept directions explain, above 0 and up to 1: SVCCA's first step. None keeps
        the full numerical rank.
    conv : {"dft", "mean", "positions", "flatten"}
        How layers with spatial axes are read. ``dft``: as plain CCA of all circular translations of the examples,
        split by spatial frequency (Raghu et al. 2017, section 3); a dense layer is compared with the zero frequency.
        ``mean``: averaged over positions. ``positions``: positions as samples. ``flatten``: positions as neurons.
    match : {"crop", "fold"}
        How layers of unequal sizes are compared under ``dft``. ``crop``: at the frequencies that both have, as
        published. ``fold``: exactly, where one is a strided version of the other, so that sizes divide.
    sequence : {"mean", "positions", "first", "last"}
        How layers with tokens are read: averaged; each token as a sample; or the first token that counts, such as CLS,
        or the last.
    positions : str
        Which positions or tokens are samples, under ``positions``: ``all``, ``regular N`` or ``random N``.
    spatial_size : sequence of int, optional
        Resample convolutional layers with as many axes to this size, under ``positions``. By default only layers of
        equal sizes have samples in common.
    mask : str or None
        Coordinate of the zoo, (example, token), true for tokens that count: padding is left out. By default the only
        such coordinate of the zoo, if it has one; None declines it.
    precision : {"float32", "float64"}
        Precision of scores and their products. Correlations are right to about 1e-7 or 1e-12;
        ``pwcca`` in single precision to 1e-5, or 1e-4 where a neuron is thousands of times larger than the others.
    keep : {"correlations", "frequencies"} or sequence of these
        What to store of every pair beside its measures; an existing comparison gains what it lacks. ``correlations``:
        all canonical correlations of the kept directions, (representation_a, representation_b, component).
        ``frequencies``: their mean at each spatial frequency of convolutional layers under ``dft``,
        ``svcca_by_frequency`` (representation_a, representation_b, frequency_y, frequency_x).
    pairs : str, or boolean matrix
        Which pairs: see `dask_svcca.plan.selection.select_pairs`. ``nearest 20``: each representation with itself, and
        with the 20 that are most similar to it by estimates of linear CKA, from sketches. Called again, it selects the
        same; where the zoo has grown, also what is nearest now. Under ``dft`` only layers of equal sizes have
        estimates.
    preview : bool
        Estimate, and compute nothing: within seconds there are estimates of ``cka``, one of the measures, for all pairs
        asked for that have no value yet. They are in ``cka_estimate``, with standard errors in ``cka_estimate_error``,
        and ``pair_status`` is ``estimated``; measures have exact values or NaN. The same call without it computes them.
    order : {"stored", "by estimate"}
        Which tiles are compared first: those whose pairs are most similar, by estimate, or as they are stored. Results
        are the same, bit by bit.
    sketches : path, zarr store, or URL, optional
        Where the sketches are that ``nearest N``, ``preview`` and ``order`` go by: those that `sketch` made of these
        examples, with layers read in the same way, or a new place; what is lacking is made. By default beside the
        comparison: for ``comparison.zarr`` in ``comparison.sketches.zarr``.
    dims : mapping of names to sequence of str, optional
        What the axes of arrays at hand are, such as ``{"conv1": ("example", "height", "width", "channel")}``, by the
        names of the arrays; see `Zoo.write`. A DataArray says it itself. Three axes are tokens without: of a
        convolution in one dimension, name ``("example", "channel", "width")``.
    subspaces : path, zarr store, or URL, optional
        Where the directions of all representations are stored: comparisons of one zoo can share them, if they read
        layers alike and in the same precision. By default inside the comparison. Once they are there, no activations
        are read, except for ``pwcca`` of layers with more neurons than samples.
    drop_left : bool
        Remove the results of representations that have left the zoo. By default they stay, and the attribute
        ``left_zoo`` of the result names them.
    wait : bool
        Where another run is at work on the comparison or its subspaces, wait for its end. By default that is an error.
        A run that was killed is not waited for: on this machine not at all, on others for a minute.
    progress : bool
        Whether to show how far it is: bars in a terminal or a notebook, a line now and then elsewhere.
    client : distributed.Client, optional
        Default: the current client, else Dask's local scheduler, as for any Dask collection. Where the zoo or the
        comparison is in memory, always the local scheduler.
    device : {"cpu", "cuda", "cuda:1" and so on, "auto", "torch:cpu"}
        What long tasks compute with: NumPy on the CPU; PyTorch on a GPU, with ``cuda`` on the first that a worker sees;
        a GPU where one is there that PyTorch can use, else the CPU; or PyTorch on the CPU. It is not one of the
        parameters of a comparison, and not stored with them: values are the same to 1e-6 (``gulp`` near 0 to
        1e-3), and another run may go on with another device.
    storage_options : mapping, optional
        For the URLs among ``zoo``, ``store``, ``subspaces`` and ``sketches``: see `create_zoo`.

    Returns
    -------
    xarray.Dataset
        As `open_comparison`.

    Raises
    ------
    ParametersChangedError
        Where the comparison that is there has other parameters or examples, the subspaces or sketches were made with
        others, or what a measure computes has changed.
    StoreInUseError
        Where another run is at work on the comparison or its subspaces; it says which, since when and until when.
    MemoryLimitError
        Where a task cannot fit in a worker, or on its device; before anything runs.
    MismatchedExamplesError
        Where arrays do not have the same examples.
    DeviceError
        Where the device has no such name, or is not there, here or on a worker; before anything runs.
    InvalidQuestionError
        Where ``cka`` is not among the measures of a preview.
    InvalidActivationsError
        Where the zoo is empty, or arrays at hand are not valid activations. A representation that cannot be compared
        does not raise: variable ``problem_a`` of the result has the reason, and ``pair_status`` says ``failed`` for its
        pairs. Where several measures cannot take it, the reason is that of its directions, or else of the first measure
        in the order asked for. Nor does a task that fails three times, or whose workers die: its pairs are ``failed``
        too, the attribute ``failures`` of the result has the reason, and the next call tries them again.

    Warns
    -----
    FailedRepresentationWarning
        Where representations could not be compared, or estimated, or the tasks of some pairs failed.
    DeviceFailedWarning
        Where the device failed, and tasks were computed on the CPU in the end.
    FewSamplesWarning
        For representations with fewer than five samples per kept direction; ``null_svcca`` says what they score by
        chance. For fewer than ten examples, with measures that have p-values: these are rough.
    ReadingWarning
        For measures of convolutional layers that are read in another way than in the paper of the measure.
    UnalignedExamplesWarning
        For arrays whose examples have names in an order that says nothing, beside arrays without: they are compared
        row by row.

    Examples
    --------
    Arrays at hand, all in memory:

    >>> import numpy as np, dask_svcca
    >>> x = np.random.default_rng(0).normal(size=(200, 6))
    >>> result = dask_svcca.compare({"fc1": x, "fc2": x @ np.diag([1, 2, 3, 4, 5, 6])}, variance=None)
    >>> float(result.svcca.sel(representation_a="fc1", representation_b="fc2").round(6))
    1.0

    A zoo on disk:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> x = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
    >>> with dask_svcca.create_zoo(folder + "/zoo.zarr", examples=range(200)) as zoo:
    ...     zoo.write("net", "step1", "fc1", x)
    ...     zoo.write("net", "step2", "fc1", x @ np.diag([1, 2, 3, 4, 5, 6]).astype("float32"))
    >>> result = dask_svcca.compare(folder + "/zoo.zarr", folder + "/comparison.zarr", variance=1.0)
    >>> float(result.svcca.sel(representation_a="net/step1/fc1", representation_b="net/step2/fc1").round(6))
    1.0

    Coarse first, exactly later:

    >>> layers = {"fc1": x, "fc2": x + np.roll(x, 1, axis=0)}
    >>> first = dask_svcca.compare(layers, folder + "/cka.zarr", measures="cka", preview=True)
    >>> first.pair_status.values.max(), float(first.cka.max()), bool((first.cka_estimate > 0.1).all())
    (np.uint8(7), nan, True)
    >>> exact = dask_svcca.compare(layers, folder + "/cka.zarr", measures="cka")
    >>> bool((abs(first.cka_estimate - exact.cka) <= 4 * first.cka_estimate_error + 1e-5).all())
    True
    """
    device = parse_device(device)
    source = open_source(with_options(zoo, storage_options), dims)
    parameters = make_parameters(
        measures,
        variance=variance,
        conv=conv,
        match=match,
        sequence=sequence,
        positions=positions,
        spatial_size=spatial_size,
        mask=choose_mask(source, mask),
        precision=precision,
        keep=keep,
    )
    place = MemoryStore() if store is None else with_options(store, storage_options)
    subspaces, sketches = (with_options(one, storage_options) for one in (subspaces, sketches))
    guidance = Guidance.of(pairs, place, sketches, parameters, preview=preview, order=order)
    if device != "cpu":
        # Whether it is there, before sketches are made.
        budget_for(client, source, place, subspaces, device)
    where: dict[str, Any] = {"subspaces": subspaces, "drop_left": drop_left}

    def check(selected: Pairs) -> None:
        plan_run(
            source, place, parameters, budget_for(client, source, place, subspaces, device), pairs=selected, **where
        )

    with Bars(guidance.stages) if progress else nullcontext() as bars:
        likeness = guidance.estimated(source, parameters, check=check, wait=wait, client=client, progress=bars)
        where["wait"] = wait
        chosen = guidance.pairs(likeness)
        if preview:
            assert likeness is not None  # noqa: S101 - for the type checker
            budget = budget_for(client, source, place, subspaces, device)
            told = getattr(bars, "say", None)
            run_preview(source, place, parameters, likeness, budget, pairs=chosen, told=told, **where)
            said: list[tuple[str, type[Warning]]] = [(likeness.failure, FailedRepresentationWarning)]
        else:
            outcome = run_comparison(
                source,
                place,
                parameters,
                pairs=chosen,
                likeness=likeness if order == "by estimate" else None,
                client=client,
                device=device,
                progress=bars,
                **where,
            )
            said = [
                (outcome.caution, FewSamplesWarning),
                (outcome.failure, FailedRepresentationWarning),
                (outcome.block_failure, FailedRepresentationWarning),
                (outcome.reading_caution, ReadingWarning),
                (outcome.device_caution, DeviceFailedWarning),
            ]
    for sentence, category in said:
        if sentence:
            # The line of the caller, behind that of `_explained`.
            warnings.warn(sentence, category, stacklevel=3)
    result = open_comparison(place)
    return result.load() if store is None else result


def plan_comparison(
    zoo: Zoo | Arrays | StoreLike,
    store: StoreLike | None = None,
    *,
    measures: str | Iterable[str] = ("svcca",),
    mask: Mask = ONLY_MASK,
    pairs: Pairs = "all",
    sketches: StoreLike | None = None,
    dims: Mapping[Any, Sequence[str]] | None = None,
    subspaces: StoreLike | None = None,
    drop_left: bool = False,
    client: Client | None = None,
    device: str = "cpu",
    storage_options: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> Plan:
    """What `compare` would do with the same arguments; nothing is computed, and nothing written.

    Parameters
    ----------
    zoo, store, measures, mask, pairs, sketches, dims, subspaces, drop_left, client, device, storage_options
        As for `compare`. For ``nearest N`` sketches must be there.
    **parameters : object
        All other parameters of `compare` that decide its numbers.

    Returns
    -------
    Plan
        Prints as a table; ``to_dict()`` has its numbers.

    Raises
    ------
    ParametersChangedError, MemoryLimitError, InvalidActivationsError, DeviceError
        As `compare` would.

    Examples
    --------
    >>> import tempfile, numpy as np, dask_svcca
    >>> folder = tempfile.mkdtemp()
    >>> with dask_svcca.create_zoo(folder + "/zoo.zarr", examples=range(200)) as zoo:
    ...     zoo.write("net", "step1", "fc1", np.random.default_rng(0).normal(size=(200, 6)))
    >>> plan = plan_comparison(zoo, folder + "/comparison.zarr")
    >>> plan.pairs, plan.to_dict()["subspaces"]
    (1, 1)
    """
    source, place, options, executor, subspaces = asked_for(
        zoo, store, measures, mask, dims, subspaces, client, device, storage_options, parameters
    )
    guidance = Guidance.of(pairs, place, with_options(sketches, storage_options), options)
    chosen = guidance.pairs(guidance.estimated(source, options, make=False))
    return plan_run(source, place, options, executor.budget, pairs=chosen, subspaces=subspaces, drop_left=drop_left)
